"""An estimator of `make evaluate WHAT=…`: what it is asked with, what it returns.

It is the function NAME(model, test images, `Request`) → `Measured` in
cvae/evaluation/NAME.py, and a row of `metrics.ESTIMATORS`: nothing else knows it.
"""

from __future__ import annotations

import difflib
import logging
import math
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from cvae import mnist
from cvae.classifier import Classifier
from cvae.errors import UsageError
from cvae.evaluation.metrics import ESTIMATORS
from cvae.run.files import write_atomic

RESAMPLED = 50  # times; enough for an error of two digits
SAVE_SECONDS = 30.0  # between two saves of finished batches
LONG_SECONDS = 10.0  # what takes longer is announced
UNFINISHED = ".unfinished"  # the suffix of a file of finished batches
T = TypeVar("T")
log = logging.getLogger("cvae")


class Track(Protocol):
    """Passes items on, and shows how far it is and the time left."""

    def __call__(self, items: Sequence[T]) -> Iterator[T]: ...


@dataclass(frozen=True)
class Measured:
    """Metrics of one model on one set of images; names are keys without the split.

    `nll_is5000` stands for `test/nll_is5000`. An error is the standard error of its
    metric over images (and draws), in the metric's unit.
    """

    figures: Mapping[str, float]
    errors: Mapping[str, float] = field(default_factory=dict)
    per_image: Mapping[str, Tensor] = field(default_factory=dict)  # each (N,): the CSV
    arrays: Mapping[str, Tensor] = field(default_factory=dict)  # what a page draws
    cited: frozenset[str] = frozenset()  # metrics for the records; empty: all

    def __or__(self, other: Measured) -> Measured:
        """Both together, as dicts are joined."""
        return Measured(
            {**self.figures, **other.figures},
            {**self.errors, **other.errors},
            {**self.per_image, **other.per_image},
            {**self.arrays, **other.arrays},
            self.cited | other.cited,
        )


@dataclass(frozen=True)
class Request:
    """Settings, random streams and progress of one evaluation of one run."""

    samples: int  # K, draws of z an image
    label_samples: int  # the same for each of the labels
    stream: Callable[[str], torch.Generator]  # a name → a new generator of the run's
    track: Track  # for item in request.track(items): …
    data: mnist.MNIST  # all splits; an estimator is given the test images
    root: Path  # the folder they were read from
    corrupt: float = 0.0  # of the encoder's input
    pixels: str = "none"  # how they were made black and white: spec.data.binarize
    judge: Classifier | None = None  # that learned these data
    kept: Path | None = None  # finished batches: <kept>.<name>.unfinished
    fingerprint: str = (
        ""  # of model, code and settings: batches of another are not used
    )

    def batches(
        self,
        name: str,
        items: Sequence[T],
        work: Callable[[T], Tensor],
        generator: torch.Generator | None = None,
    ) -> list[Tensor]:
        """`work(item)` of every item, on the CPU; an interrupted call is resumed.

        Finished batches are kept on the disk with the state of the `generator` that
        `work` draws from: the numbers are those of a call that was not interrupted.
        """
        path = self.kept and self.kept.with_name(f"{self.kept.name}.{name}{UNFINISHED}")
        rows, state = _finished_batches(path, self.fingerprint) if path else ([], None)
        if generator is not None and state is not None:
            generator.set_state(state)
        began = saved = time.monotonic()
        first = len(rows)
        if rows:
            log.info("%s: %d of %d batches were finished", name, first, len(items))
        try:
            for item in self.track(items[first:]):
                row = work(item).detach().cpu()
                state = None if generator is None else generator.get_state()
                rows.append(row)
                now = time.monotonic()
                if len(rows) == first + 1:
                    _announce(name, (now - began) * (len(items) - len(rows)))
                if path and now - saved > SAVE_SECONDS and len(rows) < len(items):
                    _save_batches(path, rows, state, self.fingerprint)
                    saved = time.monotonic()
        finally:
            if path and len(rows) > first:
                _save_batches(path, rows, state, self.fingerprint)
        return rows

    def remove_batches(self) -> None:
        """Remove what `batches` kept, once the metrics made of it are saved."""
        if self.kept:
            for path in self.kept.parent.glob(f"{self.kept.name}.*{UNFINISHED}"):
                path.unlink(missing_ok=True)


def _announce(name: str, seconds: float) -> None:
    """Say the expected time of what takes long."""
    if seconds > LONG_SECONDS:
        expected = f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"
        log.info(
            "%s: about %s; interrupted, the same command resumes it", name, expected
        )


def _save_batches(
    path: Path, rows: list[Tensor], state: Tensor | None, fingerprint: str
) -> None:
    tensors = {f"{at:06d}": row.contiguous() for at, row in enumerate(rows)}
    if state is not None:
        tensors["state"] = state
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {"fingerprint": fingerprint}
    write_atomic(path, safetensors.torch.save(tensors, facts))


def _finished_batches(
    path: Path, fingerprint: str
) -> tuple[list[Tensor], Tensor | None]:
    """The batches kept and the generator's state; none where they are of another."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            known = (file.metadata() or {}).get("fingerprint")
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    except (OSError, safetensors.SafetensorError):
        return [], None
    if known != fingerprint:
        return [], None
    state = tensors.pop("state", None)
    return list(tensors.values()), state


def mean_and_error(
    per_image: Mapping[str, Tensor], arrays: Mapping[str, Tensor] | None = None
) -> Measured:
    """Metrics that are means over images (N,), with their standard errors."""
    values = {name: each.double() for name, each in per_image.items()}
    return Measured(
        {name: float(each.mean()) for name, each in values.items()},
        {
            name: float(each.std()) / math.sqrt(len(each))
            for name, each in values.items()
            if len(each) > 1
        },
        per_image,
        arrays or {},
    )


def bootstrap(
    metric: Callable[..., float], *sets: Tensor, generator: torch.Generator
) -> float:
    """Standard error of `metric(*sets)` over images: the rows of each set, resampled.

    Rows are drawn with replacement, each set by itself (Efron 1979).
    """
    values = []
    for _ in range(RESAMPLED):
        rows = [torch.randint(len(s), (len(s),), generator=generator) for s in sets]
        values.append(metric(*(s[r] for s, r in zip(sets, rows, strict=True))))
    return statistics.stdev(values)


def chosen(
    what: str | Sequence[str],
    run: str,
    conditional: bool,
    samples: int,
    label_samples: int,
) -> list[str]:
    """The names of the estimators that are asked for, in the order of the table.

    Raises:
        UsageError: one that there is not, or that this run or these numbers of samples
            cannot answer.
    """
    asked = re.split(r"[\s,]+", what.strip()) if isinstance(what, str) else list(what)
    for name in asked:
        if name != "all" and name not in ESTIMATORS:
            near = difflib.get_close_matches(name, [*ESTIMATORS, "all"], 1)
            raise UsageError(
                f"WHAT={name[:80]}: no such part; allowed: {', '.join(ESTIMATORS)}, all"
                + (f"; did you mean {near[0]}?" if near else "")
            )
    if "all" in asked:
        asked = [n for n, e in ESTIMATORS.items() if conditional or not e.of_labels]
    counts = {"K": samples, "LABEL_K": label_samples}
    for name in asked:
        estimator = ESTIMATORS[name]
        if not conditional and estimator.of_labels:
            raise UsageError(f"{run} is unconditional: it has no {name} to evaluate")
        if counts.get(estimator.draws) == 0:
            raise UsageError(
                f"{estimator.draws}=0: {name} needs at least one draw of z an image"
            )
    return [name for name in ESTIMATORS if name in asked]

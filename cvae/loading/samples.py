"""A run from Python: trained, loaded as a model, evaluated, asked for digits."""

from __future__ import annotations

import logging
import numbers
import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from cvae import grids
from cvae.errors import RunNotFound, RunUnfinished, TrackingError, UsageError
from cvae.model import CVAE
from cvae.run import runner
from cvae.run.evaluation import PART_SAMPLES, evaluate_run, measure_run
from cvae.run.find import find_published, find_run
from cvae.run.folder import RUNS, Origin, RunFolder, make_command
from cvae.run.published import fallback
from cvae.spec.document import (
    Document,
    apply_overrides,
    one_spec,
    read_document,
    split_overrides,
    validate,
)
from cvae.spec.fields import Spec
from cvae.spec.identity import flatten, nested

# draws of z an image, and for each of its labels, without `what`
FIGURE_SAMPLES = (100, 0)
log = logging.getLogger("cvae")


@dataclass(frozen=True)
class Run:
    """A run's spec and its model with the final weights, on the CPU."""

    model: CVAE
    spec: Spec
    folder: RunFolder
    shape: tuple[int, int]  # rows, columns of one image


def load_run(
    run: str | os.PathLike[str] | None = None, *, runs: str | os.PathLike[str] = RUNS
) -> Run:
    """Model and spec of a finished run: its name, id, folder or MLflow run id.

    The newest finished run by default. Where `runs/` has none that fits, a published
    one stands in, and that is said.

    Raises:
        RunNotFound: no such run, or its weights are missing or unreadable.
        Altered: a published file is not what was published.
    """
    return open_run(_find(run, Path(runs)))


def open_run(folder: RunFolder) -> Run:
    """Model and spec of the finished run in this folder; raises as `load_run`."""
    spec = folder.spec()
    data = folder.info["data"]
    rows, columns = data["shape"]
    classes = data.get("classes", 10)  # as all runs had before it was recorded
    model = CVAE(**spec.model.model_dump(), shape=(rows, columns), classes=classes)
    try:
        model.load(safetensors.torch.load(folder.read_weights()))
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        raise RunNotFound(f"{folder.weights}: cannot be read: {error}") from error
    return Run(model.eval(), spec, folder, (rows, columns))


def _find(run: str | os.PathLike[str] | None, runs: Path) -> RunFolder:
    try:
        return find_run(run, runs=runs)
    except RunUnfinished:
        raise
    except RunNotFound as none_of_ones_own:
        results = fallback(runs)
        if results is None:
            raise
        try:
            folder = find_published(run, results)
        except RunNotFound as error:
            raise RunNotFound(f"{none_of_ones_own}\n{error}") from error
    log.warning("no such run in %s/: using the published %s", runs, folder.path)
    return folder


def train(
    spec: str | os.PathLike[str] | Mapping[str, Any] | Spec,
    changes: str | Sequence[str] = (),
    *,
    runs: str | os.PathLike[str] = RUNS,
    offline: bool = False,
) -> Run:
    """Train what a spec describes, or go on with it, as `make experiment` does.

    Args:
        spec: a YAML file, or fields: `{"name": "mine", "model": {"latent_dim": 8}}`.
        changes: laid over it, such as `["training.epochs=5"]`; in one text as SET= has.
        runs: the folder of runs; it gets the run's folder and MLflow's database.
        offline: leave MLflow alone; `make sync` publishes later.

    Returns:
        The finished run; `run.folder.metrics` holds every figure by its key, such as
        `test/neg_elbo` (nats per image).

    Raises:
        SpecError, DataError, TrackingError, UsageError: before anything is trained.
        Diverged: loss, gradient or weights stopped being finite.
        Busy: another process is at this run.
    """
    changes = split_overrides(changes) if isinstance(changes, str) else changes
    if isinstance(spec, (str, os.PathLike)):
        path = os.fspath(spec)
        document = read_document(path)
        wanted = one_spec(document, changes)
        command = make_command("experiment", path, " ".join(changes))
    else:
        fields = nested(flatten(spec)) if isinstance(spec, Spec) else dict(spec)
        document = Document("spec", deepcopy(fields))
        apply_overrides(document, changes)
        wanted, command = validate(document), "cvae.train"
    origin = Origin(document.header, command, tuple(changes))
    folder = runner.run(wanted, runs=Path(runs), offline=offline, origin=origin)
    return load_run(folder.path)


def evaluate(
    run: str | os.PathLike[str] | Run | None = None,
    *,
    importance_samples: int | None = None,
    label_samples: int | None = None,
    what: str | Sequence[str] = (),
    runs: str | os.PathLike[str] = RUNS,
) -> dict[str, float]:
    """Figures of a finished run over all test images, with `what` with their errors.

    New figures are added to the run's records, and to MLflow if the run is there.

    Args:
        run: a finished run (see `load_run`); the newest by default.
        importance_samples: K of `test/nll_isK`; 0 leaves it out. By default 100, which
            take a minute or more, and with `what` 5000.
        label_samples: the same for `test/label_accuracy_isK` and
            `test/marginal_nll_isK`, of each of the ten labels; by default 0, and with
            `what` 100.
        what: parts of `cvae.evaluation.parts.PARTS`, or "all". Values by image are
            written to `evaluation/` in the run's folder.
        runs: the folder of runs in which `run` is looked for.

    Returns:
        Figures by key; nll in nats per image, accuracies and fidelities as shares. The
        standard error of `test/…` is `test/…_se`.

    Raises:
        ValueError: a number of samples is not an integer of 0 to 10⁶.
        RunNotFound: no such run.
        UsageError: a part that there is not, labels of an unconditional run.
        DataError: other data than the run was made with, or weights are not finite.
        Busy: another process is at this run.
    """
    defaults = PART_SAMPLES if what else FIGURE_SAMPLES
    counts = _counts((importance_samples, label_samples), defaults)
    loaded = _loaded(run, runs)
    if label_samples and not loaded.model.classes:
        raise UsageError(
            f"{loaded.folder.name} is unconditional: it has no label posterior"
        )
    figures = _measured(loaded, what, *counts)
    if loaded.folder.published:
        _publish(loaded.folder)
    return figures


def _measured(
    run: Run, what: str | Sequence[str], samples: int, label_samples: int
) -> dict[str, float]:
    """The parts named by `what`, or without it the estimates of `evaluate_run`."""
    known = run.folder, run.spec, run.model
    if not what:
        return evaluate_run(
            *known, importance_samples=samples, label_samples=label_samples
        )
    from cvae.evaluation.parts import chosen_parts  # scikit-learn takes seconds

    conditional = bool(run.model.classes)
    parts = chosen_parts(what, run.folder.name, conditional, samples, label_samples)
    return measure_run(*known, parts, samples=samples, label_samples=label_samples)


def _publish(folder: RunFolder) -> None:
    from cvae.tracking.publish import Tracker  # takes seconds

    try:
        Tracker(folder.path.parent).try_publish(folder)
    except TrackingError as error:
        log.warning(
            "%s; all is kept in %s, publish later: make sync", error, folder.path
        )


def generate_conditional_samples(
    digit: int,
    num_samples: int = 1,
    run: str | os.PathLike[str] | Run | None = None,
    seed: int | None = None,
    temperature: float = 1.0,
    *,
    runs: str | os.PathLike[str] = RUNS,
) -> Tensor:
    """Draw z from the prior and decode it as `digit`.

    Args:
        run: a finished run (see `load_run`); the newest by default.
        seed: the same seed gives the same images; None gives new ones every time.
        temperature: factor on the noise that z is made of; 0 gives the prior's middle.
        runs: the folder of runs in which `run` is looked for.

    Returns:
        (num_samples, D) decoder means in [0, 1]; D is 784 for MNIST.

    Raises:
        ValueError: no such digit, bad count, seed or temperature, unconditional
            model.
        RunNotFound: no such run.
    """
    _check_request(num_samples, seed, temperature)
    loaded = _loaded(run, runs)
    if not loaded.model.classes:
        raise ValueError(
            f"{loaded.folder.name} is unconditional: it cannot be asked for a digit; "
            "name another run"
        )
    if isinstance(digit, bool) or digit not in range(loaded.model.classes):
        last = loaded.model.classes - 1
        raise ValueError(f"digit must be 0 to {last}, found {digit!r}")
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(int(seed))
    noise = torch.randn(num_samples, loaded.model.latent_dim, generator=generator)
    labels = torch.full((num_samples,), int(digit))
    with torch.no_grad():
        z = loaded.model.prior.sample(labels, temperature * noise)
    return grids.digits(loaded.model, z, labels)


def _loaded(
    run: str | os.PathLike[str] | Run | None, runs: str | os.PathLike[str]
) -> Run:
    return run if isinstance(run, Run) else load_run(run, runs=runs)


def _counts(
    asked: tuple[int | None, int | None], defaults: tuple[int, int]
) -> list[int]:
    """The numbers of samples, with the default where none is asked for.

    Raises:
        ValueError: one that is not an integer of 0 to 10⁶.
    """
    pairs = zip(asked, defaults, strict=True)
    counts = [default if count is None else count for count, default in pairs]
    for count in counts:
        if not _is_integer(count) or not 0 <= count <= 10**6:
            raise ValueError(
                f"samples must be an integer of 0 to 10**6, found {count!r}"
            )
    return counts


def _check_request(count: int, seed: int | None, temperature: float) -> None:
    """Raises ValueError for what `generate_conditional_samples` cannot be asked."""
    if not _is_integer(count) or count < 1:
        raise ValueError(f"num_samples must be an integer ≥ 1, found {count!r}")
    if seed is not None and not (_is_integer(seed) and -(2**63) <= seed < 2**64):
        raise ValueError(
            f"seed must be an integer of −2**63 to 2**64 − 1, found {seed!r}"
        )
    if not isinstance(temperature, numbers.Real) or not 0 <= temperature <= 1e3:
        raise ValueError(f"temperature must be 0 to 1000, found {temperature!r}")


def _is_integer(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)

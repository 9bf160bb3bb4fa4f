"""How far a run is: a bar on a terminal; elsewhere a line an epoch."""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from torch import Tensor, nn
from tqdm import tqdm

from cvae.evaluation.estimator import Track
from cvae.evaluation.metrics import number
from cvae.model import CVAE
from cvae.run.folder import RunFolder
from cvae.training import Epoch

T = TypeVar("T")

# Epochs, the run's folder, epochs done before, epochs in all; passes the epochs on.
Progress = Callable[[Iterator[Epoch], RunFolder, int, int], Iterator[Epoch]]
BAR = "{desc} {percentage:3.0f}% |{bar}| {remaining} left"


def epoch_progress(
    epochs: Iterator[Epoch], folder: RunFolder, done: int, total: int
) -> Iterator[Epoch]:
    """A bar on a terminal, one plain line an epoch elsewhere; both on stderr.

    An epoch is shown once the run has recorded it, with its validation figure.
    """
    name = folder.name
    with tqdm(total=total, initial=done, desc=name, unit="epoch", disable=None) as bar:
        for epoch in epochs:
            yield epoch
            metrics = folder.records()[-1]["metrics"]
            keys = ["val/neg_elbo", "train/neg_elbo"]
            keys += ["train/recon", "train/kl"] if bar.disable else []
            shown = {
                key.replace("/", " "): number(metrics[key], key.partition("/")[2])
                for key in keys
                if key in metrics
            }
            if not bar.disable:
                bar.set_postfix(shown, refresh=False)
                bar.update()
            else:
                parts = "  ".join(f"{key} {value}" for key, value in shown.items())
                line = f"{name}  epoch {epoch.epoch}/{total}  {parts}"
                print(f"{line}  {epoch.seconds:.1f} s", file=sys.stderr, flush=True)


@contextlib.contextmanager
def decoding_progress(model: CVAE, name: str, total: int) -> Iterator[None]:
    """A bar, on a terminal, of how many of `total` images the model has decoded."""
    with tqdm(total=total, desc=name, bar_format=BAR, disable=None) as bar:

        def decoded(_: nn.Module, inputs: object, logits: Tensor) -> None:
            bar.update(logits.shape[:-1].numel())

        hook = model.decoder[-1].register_forward_hook(decoded)
        try:
            yield
        finally:
            hook.remove()


def item_progress(name: str) -> Track:
    """Passes items on; a bar on a terminal."""

    def track(items: Sequence[T]) -> Iterator[T]:
        yield from tqdm(items, name, bar_format=BAR, leave=False, disable=None)

    return track


def peak_memory() -> int:
    """The most bytes of memory that this process has held until now."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

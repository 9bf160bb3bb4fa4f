"""How far a run is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from torch import Tensor, nn
from tqdm import tqdm

from cvae.evaluation.estimator import T, Track
from cvae.evaluation.metrics import number
from cvae.model import CVAE
from cvae.run.folder import RunFolder
from cvae.training import Epoch

# Epochs, the run's folder, epochs done before, epochs in all; passes the epochs on.
Progress = Callable[[Iterator[Epoch], RunFolder, int, int], Iterator[Epoch]]


def epoch_progress(
    epochs: Iterator[Epoch], folder: RunFolder, done: int, total: int
) -> Iterator[Epoch]:
    """A bar on a terminal, one plain line an epoch elsewhere; both on stderr.

    An epoch is shown once the run has recorded it, with its validation figure.
    """
    terminal, name = sys.stderr.isatty(), folder.name
    with tqdm(
        total=total, initial=done, desc=name, unit="epoch", disable=not terminal
    ) as bar:
        for epoch in epochs:
            yield epoch
            train, known = epoch.metrics, folder.records()[-1]["metrics"]
            val = known.get("val/neg_elbo")
            shown = {} if val is None else {"val neg_elbo": number(val, "neg_elbo")}
            shown |= {"train neg_elbo": number(train["neg_elbo"], "neg_elbo")}
            if terminal:
                bar.set_postfix(shown, refresh=False)
                bar.update()
            else:
                shown |= {key: number(train[key], key) for key in ("recon", "kl")}
                parts = "  ".join(f"{key} {value}" for key, value in shown.items())
                print(
                    f"{name}  epoch {epoch.epoch}/{total}  {parts}  "
                    f"{epoch.seconds:.1f} s",
                    file=sys.stderr,
                    flush=True,
                )


@contextlib.contextmanager
def decoding_progress(
    model: CVAE, name: str, total: int, *, every: float = 20.0
) -> Iterator[None]:
    """Show how many of `total` images the model has decoded, and the time left.

    A bar on a terminal; elsewhere a line after 5 seconds, then one `every` so many.
    """
    began, shown = time.monotonic(), time.monotonic() + min(0.0, 5.0 - every)
    form = "{desc} {percentage:3.0f}% |{bar}| {remaining} left"
    hidden = not sys.stderr.isatty()
    with tqdm(total=total, desc=name, bar_format=form, disable=hidden) as bar:
        done = 0

        def decoded(_: nn.Module, inputs: object, logits: Tensor) -> None:
            nonlocal done, shown
            rows, now = logits.shape[:-1].numel(), time.monotonic()
            done += rows
            bar.update(rows)
            if hidden and now - shown >= every:
                shown = now
                left = time_left((now - began) * (total - done) / done)
                print(f"{name}  {100 * done / total:.0f} %{left}", file=sys.stderr)

        hook = model.decoder[-1].register_forward_hook(decoded)
        try:
            yield
        finally:
            hook.remove()


def item_progress(name: str, *, every: float = 20.0) -> Track:
    """Passes items on; a bar on a terminal, elsewhere a line now and then.

    Every item counts alike; the first line comes after 5 seconds.
    """

    def track(items: Sequence[T]) -> Iterator[T]:
        hidden = not sys.stderr.isatty()
        began, shown = time.monotonic(), time.monotonic() + min(0.0, 5.0 - every)
        form = "{desc} {percentage:3.0f}% |{bar}| {remaining} left"
        for at, item in enumerate(
            tqdm(items, desc=name, bar_format=form, disable=hidden, leave=False)
        ):
            if hidden and at and time.monotonic() - shown >= every:
                shown, done = time.monotonic(), at / len(items)
                left = time_left((shown - began) * (1 - done) / done)
                print(f"{name}  {100 * done:.0f} %{left}", file=sys.stderr, flush=True)
            yield item

    return track


def peak_memory() -> int:
    """The most bytes of memory that this process has held until now."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def time_left(seconds: float) -> str:
    """`  about 3 min left`; empty for less than a second."""
    if seconds < 1:
        return ""
    if seconds < 90:
        return f"  about {seconds:.0f} s left"
    return f"  about {seconds / 60:.0f} min left"

"""How far a run is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from torch import Tensor, nn
from tqdm import tqdm

from cvae.engine import Epoch
from cvae.model import CVAE

# Epochs, the run's name, epochs done before, epochs in all; passes the epochs on.
Progress = Callable[[Iterator[Epoch], str, int, int], Iterator[Epoch]]


def one_run(
    epochs: Iterator[Epoch], name: str, done: int, total: int
) -> Iterator[Epoch]:
    """A bar on a terminal, one plain line an epoch elsewhere; both on stderr."""
    terminal = sys.stderr.isatty()
    with tqdm(
        total=total, initial=done, desc=name, unit="epoch", disable=not terminal
    ) as bar:
        for epoch in epochs:
            found = epoch.metrics
            if terminal:
                bar.set_postfix(neg_elbo=f"{found['neg_elbo']:.2f}", refresh=False)
                bar.update()
            else:
                print(
                    f"{name}  epoch {epoch.epoch}/{total}  "
                    f"train neg_elbo {found['neg_elbo']:.2f}  "
                    f"recon {found['recon']:.2f}  kl {found['kl']:.2f}  "
                    f"{epoch.seconds:.1f} s",
                    file=sys.stderr,
                    flush=True,
                )
            yield epoch


@contextlib.contextmanager
def decoding(
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

        hook = model.decoder.register_forward_hook(decoded)
        try:
            yield
        finally:
            hook.remove()


def time_left(seconds: float) -> str:
    """`  about 3 min left`; empty for less than a second."""
    if seconds < 1:
        return ""
    if seconds < 90:
        return f"  about {seconds:.0f} s left"
    return f"  about {seconds / 60:.0f} min left"

"""How far a run is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

from tqdm import tqdm

from cvae.engine import Epoch

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

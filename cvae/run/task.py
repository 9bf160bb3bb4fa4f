"""What a run trains: all that the runner and the recorder know of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from cvae.engine import Epoch
from cvae.grids import Picture
from cvae.run.state import Saved

Figures = dict[str, float]  # by their key, such as val/neg_elbo


class Task(Protocol):
    """A CVAE (`train_cvae`) or a judge (`train_judge`) with its spec and its data."""

    @property
    def state(self) -> Saved: ...

    @property
    def last(self) -> int:
        """Epochs in all."""

    @property
    def weights(self) -> str:
        """Which weights are evaluated and saved, in the words of the records."""

    def train(self, done: int) -> Iterator[Epoch]:
        """Train from the epoch after `done` to the last."""

    def validation(self, epoch: Epoch, *, drawn: bool) -> Figures:
        """`val/…` after an epoch; `drawn`: pictures are drawn after it, too."""

    def test(self) -> Figures:
        """`test/…`, once, at the end."""

    def pictures(self) -> dict[str, Picture]:
        """What is drawn, by name: the same images and the same z at every call."""

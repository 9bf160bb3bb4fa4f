"""What a part of an evaluation is asked with, besides the model and the images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from cvae import likelihood, mnist
from cvae.judge import Judge
from cvae.model import CVAE

T = TypeVar("T")


class Track(Protocol):
    """Passes items on, and shows how far it is and the time left."""

    def __call__(self, items: Sequence[T]) -> Iterator[T]: ...


@dataclass(frozen=True)
class Request:
    """Settings, random streams and progress of one evaluation of one run."""

    samples: int  # K, draws of z an image
    label_samples: int  # the same for each of the labels
    stream: Callable[[str], torch.Generator]  # a name → a new generator of the run's
    track: Track  # for item in request.track(items): …
    data: mnist.MNIST  # all splits; a part is given the test images
    root: Path  # the folder they were read from
    corrupt: float = 0.0  # of the encoder's input
    pixels: str = "none"  # how they were made black and white: spec.data.binarize
    judge: Judge | None = None  # that learned these data
    _known: dict[str, Tensor] = field(default_factory=dict)

    def cached_label_likelihoods(self, model: CVAE, images: mnist.Images) -> Tensor:
        """`label_likelihoods` of the test images, computed once for all parts."""
        if "labels" not in self._known:
            self._known["labels"] = self.label_likelihoods(model, images)
        return self._known["labels"]

    def label_likelihoods(self, model: CVAE, images: mnist.Images) -> Tensor:
        """log p(x given y) of every label (N, C), by `label_samples` draws for each."""
        generator, count = self.stream("evaluate"), self.label_samples
        rows = [
            likelihood.label_likelihoods(
                model, some, generator, samples=count, corrupt=self.corrupt
            )
            for some in self.track(likelihood.passes(images, count))
        ]
        return torch.cat(rows)

"""What a training step is given of its images: pixels to explain, and a view of them.

The encoder's view may be noisier than what the decoder has to explain.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cvae import mnist
from cvae.spec.fields import Spec

Streams = dict[str, torch.Generator]


class Inputs:
    """A call draws the pixels of one step, the same on every path of training."""

    def __init__(self, spec: Spec, streams: Streams) -> None:
        self.dynamic = spec.data.binarize == "dynamic"
        self.noisy = spec.training.input_noise == "bernoulli"
        self.corrupt, self.streams = spec.data.corrupt, streams

    @property
    def plain(self) -> bool:
        """Whether both are the images themselves."""
        return not (self.dynamic or self.noisy or self.corrupt)

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Grey pixels (n, D) in [0, 1] → what the encoder sees, what is explained.

        Without noise both are one tensor.
        """
        target = self._drawn(images) if self.dynamic else images
        x = self._drawn(images) if self.noisy else target
        if self.corrupt:
            x = mnist.salt_and_pepper(x, self.corrupt, self.streams["corrupt"])
        return x, target

    def _drawn(self, images: Tensor) -> Tensor:
        return torch.bernoulli(images, generator=self.streams["binarize"])

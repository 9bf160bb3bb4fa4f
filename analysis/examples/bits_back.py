"""A VAE as a lossless compressor: bits-back coding of binarised digits.

    python -m analysis.examples.bits_back [RUN]

−ELBO is a code length. To send an image x with its label y, the sender reads z with
q(z given x, y) from the bits that are sent already, then writes x with p(x given y, z)
and z with p(z). The receiver reads z and x, and by writing z with q gets the bits back
that chose it: an image costs E_q[log q(z) − log p(x given y, z) − log p(z)] = −ELBO.
The stack of bits is the entropy coder of `constriction`; z is rounded to a grid, whose
width cancels. The labels are taken as known. Both sides have to run on one machine:
the last digit of a pixel's probability counts.

Townsend, Bird, Barber 2019, "Practical lossless compression with latent variables using
bits back coding".
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import constriction
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cvae import likelihood, load_run, mnist
from cvae.cli.exits import guarded
from cvae.errors import UsageError
from cvae.model import CVAE

RUN, IMAGES = "results/seed-notebook-67d5e32f", 100
GRID = 2**8  # places of z per unit
WIDEST = 2**11  # z lies within ±8; each place costs 2**-24 of the probability
SPARE = 2_000  # words of 32 random bits that the stack begins with
PLACES = constriction.stream.model.QuantizedGaussian(-WIDEST, WIDEST)
PIXELS = constriction.stream.model.Bernoulli(perfect=False)
Doubles = NDArray[np.float64]


@dataclass
class BitsBack:
    """A sender or a receiver: the model, and the stack of bits."""

    model: CVAE
    stack: Any  # constriction.stream.stack.AnsCoder

    def push(self, x: Tensor, y: Tensor) -> None:
        """Add an image (1, D) of zeros and ones with label y (1,)."""
        prior = self._prior(y)
        places = self.stack.decode(PLACES, *self._posterior(x, y))
        pixels = x[0].numpy().astype(np.int32)
        self.stack.encode_reverse(pixels, PIXELS, self._probabilities(places, y))
        self.stack.encode_reverse(places, PLACES, *prior)

    def pop(self, y: Tensor) -> Tensor:
        """Take off the image (1, D) that was added last, whose label was y (1,)."""
        places = self.stack.decode(PLACES, *self._prior(y))
        pixels = self.stack.decode(PIXELS, self._probabilities(places, y))
        x = torch.from_numpy(pixels).float()[None]
        self.stack.encode_reverse(places, PLACES, *self._posterior(x, y))
        return x

    def _posterior(self, x: Tensor, y: Tensor) -> tuple[Doubles, Doubles]:
        """Mean and sd of q(z given x, y) in places of the grid, each (Z,)."""
        mu, logvar = self.model.encode(x, y)
        sd = torch.exp(0.5 * logvar)
        return _doubles(mu[0] * GRID), _doubles(sd[0] * GRID)

    def _prior(self, y: Tensor) -> tuple[Doubles, Doubles]:
        zeros = np.zeros(self.model.latent_dim)
        return zeros, zeros + GRID

    def _probabilities(self, places: NDArray[np.int32], y: Tensor) -> Doubles:
        z = torch.from_numpy(places.astype(np.float32) / GRID)[None]
        return _doubles(torch.sigmoid(self.model.decode(z, y)[0].double()))


def _doubles(values: Tensor) -> Doubles:
    return values.double().numpy()


@torch.inference_mode()
def compress(name: str = RUN, count: int = IMAGES) -> tuple[float, float]:
    """Bits an image of the first test images, pixels > ½, and their −ELBO in bits.

    Raises:
        UsageError: the run's prior is not N(0, I).
        AssertionError: an image is not what it was.
    """
    run = load_run(name)
    if run.spec.model.prior != "standard":
        raise UsageError(f"{name}: this example codes z with N(0, I) only")
    test = mnist.load_mnist(run.spec.data.root).test
    data = mnist.threshold(test[:count])
    x, y = mnist.pixels(data.images), data.labels
    words = np.random.default_rng(0).integers(2**32, size=SPARE, dtype=np.uint32)
    sender = BitsBack(run.model, constriction.stream.stack.AnsCoder(words))
    before = sender.stack.num_valid_bits()
    for at in range(count):
        sender.push(x[at : at + 1], y[at : at + 1])
    rate = (sender.stack.num_valid_bits() - before) / count
    sent = sender.stack.get_compressed()
    receiver = BitsBack(run.model, constriction.stream.stack.AnsCoder(sent))
    for at in reversed(range(count)):
        assert torch.equal(receiver.pop(y[at : at + 1]), x[at : at + 1]), f"image {at}"
    assert (receiver.stack.get_compressed() == words).all(), (
        "the first bits are not back"
    )
    noise = torch.Generator().manual_seed(0)
    bound = likelihood.bound(run.model, data, noise, samples=100)
    return rate, bound["neg_elbo"] / math.log(2)


def main() -> None:
    name = sys.argv[1] if sys.argv[1:] else RUN
    rate, bound = compress(name)
    print(
        f"{Path(name).name}: {IMAGES} test images of zeros and ones, without loss: "
        f"{rate:.1f} bits an image; −ELBO is {bound:.1f}"
    )


if __name__ == "__main__":
    sys.exit(guarded(main))

"""The bound as a file: images and labels in as many bits as −ELBO says.

Bits-back coding with discretised latents (Townsend et al. 2019,
https://arxiv.org/abs/1901.04866). For each batch of black and white images

    z is taken off the stack by q(z given x, y): −log₂ q bits come back
    x is pushed by p(x given z, y), z by p(z given y), y by 1/C

so that an image costs −ELBO and log₂ C bits. z lies in one of 2¹⁶ buckets a dimension;
each density gives a bucket its mass, so that the buckets' width cancels. Decoding asks
the networks the same questions of the same batches: the bits are the same where the
floats are. Before z is taken, the bits are mixed with noise: those that a batch leaves
are random only if its z is like a draw from p (Townsend et al. 2019, "dirty bits").
Letters: B batch, M components, Z latent, C classes, D pixels, N images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, ndtr, softmax
from torch import Tensor

from cvae import likelihood, mnist
from cvae.errors import UsageError
from cvae.evaluation.ans import Coder, Whole
from cvae.evaluation.request import Track
from cvae.mixture import Mixture
from cvae.model import CVAE
from cvae.priors import Diagonal, Standard

LANES = 20  # images of a batch; each lane costs the bits of a first z
BUCKETS = 2**16  # of each latent dimension
REACH = 8.0  # standard deviations of every posterior that the buckets cover
LATENT_BITS, PIXEL_BITS, LABEL_BITS = 30, 16, 24  # to which probabilities are rounded
SEED = 0  # of the words that the first z are taken from, and of the noise

Floats = NDArray[Any]
CDF = Callable[[Floats], Floats]  # of one coordinate of z, (B,) → (B,)


class Buckets(NamedTuple):
    """Where the buckets of each latent dimension begin and end, in tenths; (Z,)."""

    low: list[int]
    high: list[int]


def buckets(model: CVAE, images: mnist.Images) -> Buckets:
    """Those that cover the posterior of every image."""
    lows, highs = [], []
    with one_thread():
        for x, _, y in likelihood.chunks(model, images, torch.Generator()):
            mu, logvar = model.encode(x, y)
            reach = REACH * torch.exp(0.5 * logvar)
            lows.append((mu - reach).amin(0))
            highs.append((mu + reach).amax(0))
    low, high = torch.stack(lows).amin(0), torch.stack(highs).amax(0)
    ends = (10 * low).floor(), (10 * high).ceil()  # short in a file's header
    return Buckets(*(end.long().tolist() for end in ends))


def encode(model: CVAE, images: mnist.Images, grid: Buckets, track: Track) -> bytes:
    """Black and white images with their labels."""
    random = np.random.default_rng(SEED)
    words = random.integers(0, 2**32, LANES * (model.latent_dim + 1))
    coder = Coder(random.integers(2**31, 2**32, LANES), words)
    codec, dimensions = Codec(model, grid, coder), range(model.latent_dim)
    with one_thread():
        for images_, y, noise in track(batches(images, model.latent_dim)):
            q, z = codec.posterior(images_, y), np.zeros((len(y), len(dimensions)), int)
            for at in dimensions:
                coder.mix(noise[at])
                z[:, at] = codec.pop(at, q[at], len(y))
            bits, ones = (images_ > 127).numpy(), codec.ones(z, y)
            for pixel in reversed(range(bits.shape[1])):
                start, size = interval(bits[:, pixel], ones[:, pixel])
                coder.push(start, size, PIXEL_BITS)
            for at in reversed(dimensions):
                codec.push(at, codec.prior(z[:, :at], y), z[:, at])
            start, size = shares(y.numpy())
            coder.push(start, size, LABEL_BITS)
    return coder.tobytes()


def decode(
    model: CVAE, data: bytes, count: int, grid: Buckets, track: Track
) -> mnist.Images:
    """The `count` images and labels that were encoded to `data`."""
    coder = Coder.of(data, LANES)
    codec, dimensions = Codec(model, grid, coder), range(model.latent_dim)
    images = torch.zeros(count, model.pixels, dtype=torch.uint8)
    labels = torch.zeros(count, dtype=torch.int64)
    with one_thread():
        empty = batches(mnist.Images(images, labels), model.latent_dim)
        for images_, y, noise in track(empty[::-1]):
            number = coder.peek(len(y), LABEL_BITS)
            y[:] = torch.from_numpy(number * mnist.CLASSES >> LABEL_BITS)
            coder.drop(*shares(y.numpy()), LABEL_BITS)
            z = np.zeros((len(y), model.latent_dim), np.int64)
            for at in dimensions:
                z[:, at] = codec.pop(at, codec.prior(z[:, :at], y), len(y))
            ones, bits = codec.ones(z, y), np.zeros(images_.shape, bool)
            for pixel in range(bits.shape[1]):
                number = coder.peek(len(y), PIXEL_BITS)
                bits[:, pixel] = number >= 2**PIXEL_BITS - ones[:, pixel]
                start, size = interval(bits[:, pixel], ones[:, pixel])
                coder.drop(start, size, PIXEL_BITS)
            images_[:] = 255 * torch.from_numpy(bits)
            q = codec.posterior(images_, y)
            for at in reversed(dimensions):
                codec.push(at, q[at], z[:, at])
                coder.mix(noise[at])
    return mnist.Images(images, labels)


def batches(images: mnist.Images, latent: int) -> list[tuple[Tensor, Tensor, Whole]]:
    """Views of the images and labels of each batch, and its noise (Z, B)."""
    random, split = np.random.default_rng(SEED), images.images.split(LANES)
    noise = [random.integers(0, 2**LATENT_BITS, (latent, len(x))) for x in split]
    return list(zip(split, images.labels.split(LANES), noise, strict=True))


def interval(bit: Whole, ones: Whole) -> tuple[Whole, Whole]:
    """Start and size of a pixel's interval; `ones` is the size of the upper one."""
    zeros = 2**PIXEL_BITS - ones
    return np.where(bit, zeros, 0), np.where(bit, ones, zeros)


def shares(y: Whole) -> tuple[Whole, Whole]:
    """Start and size of a label's interval: 1/C each."""
    start, end = (-(-(label << LABEL_BITS) // mnist.CLASSES) for label in (y, y + 1))
    return start, end - start


class Codec:
    """What the model says of a batch, and latents on the stack by what it says."""

    def __init__(self, model: CVAE, grid: Buckets, coder: Coder) -> None:
        self.model, self.coder = model, coder
        self.low = np.array(grid.low) / 10
        self.width = (np.array(grid.high) / 10 - self.low) / BUCKETS
        self.components = components(model)

    def posterior(self, images: Tensor, y: Tensor) -> list[CDF]:
        """q(z given x, y) by dimension."""
        mu, logvar = self.model.encode(mnist.pixels(images), y)
        means = mu.double().numpy()
        scales = np.exp(-0.5 * logvar.double().numpy())

        def of(at: int) -> CDF:
            return lambda z: ndtr((z - means[:, at]) * scales[:, at])

        return [of(at) for at in range(self.model.latent_dim)]

    def prior(self, known: Whole, y: Tensor) -> CDF:
        """p(z given y) in the next dimension, the former ones being `known` (B, at)."""
        at = known.shape[1]
        log_weight, mu, w = (part[y.numpy()] for part in self.components)
        apart = (self.values(known)[:, None] - mu[..., :at])[..., None]  # (B, M, at, 1)
        u = (w[..., :at, :at] @ apart)[..., 0]
        scale = w.diagonal(0, -2, -1)  # (B, M, Z)
        logs = log_weight + (np.log(scale[..., :at]) - 0.5 * u**2).sum(-1)
        share = softmax(logs, 1)  # of each component, now that `known` is known
        shift = (w[..., at, None, :at] @ apart)[..., 0, 0]

        def cdf(z: Floats) -> Floats:
            own = scale[..., at] * (z[:, None] - mu[..., at]) + shift
            return np.asarray((share * ndtr(own)).sum(1))

        return cdf

    def ones(self, z: Whole, y: Tensor) -> Whole:
        """p(x given z, y) of white pixels in units of 2^−PIXEL_BITS, (B, D)."""
        logits = self.model.decode(torch.from_numpy(self.values(z)).float(), y)
        most = 2**PIXEL_BITS - 2  # neither black nor white is ever impossible
        p: Whole = np.rint(expit(logits.double().numpy()) * most).astype(np.int64)
        return p + 1

    def values(self, z: Whole) -> Floats:
        """The middles of buckets (B, n), of the first n dimensions."""
        count = z.shape[1]
        return np.asarray(self.low[:count] + self.width[:count] * (z + 0.5))

    def pop(self, at: int, cdf: CDF, lanes: int) -> Whole:
        """Dimension `at` of z off the stack: places (B,) of buckets, by bisection."""
        number = self.coder.peek(lanes, LATENT_BITS)
        low, high = np.zeros(lanes, np.int64), np.full(lanes, BUCKETS)
        while (high - low).max() > 1:
            middle = (low + high) // 2
            above = self._start(at, cdf, middle) <= number
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        self.coder.drop(*self._interval(at, cdf, low), LATENT_BITS)
        return low

    def push(self, at: int, cdf: CDF, z: Whole) -> None:
        """Add dimension `at` of z, places (B,) of buckets."""
        self.coder.push(*self._interval(at, cdf, z), LATENT_BITS)

    def _interval(self, at: int, cdf: CDF, z: Whole) -> tuple[Whole, Whole]:
        start, end = self._start(at, cdf, z), self._start(at, cdf, z + 1)
        return start, end - start

    def _start(self, at: int, cdf: CDF, z: Whole) -> Whole:
        """Where the buckets' intervals begin: each has at least one number."""
        below = cdf(self.low[at] + self.width[at] * z)
        below = np.where(z == 0, 0, np.where(z == BUCKETS, 1, below))
        spare = 2**LATENT_BITS - BUCKETS
        return np.asarray((below * spare).astype(np.int64) + z)


class Components(NamedTuple):
    """p(z given y) as a mixture: u = W (z − mu) is N(0, I), W lower triangular."""

    log_weight: Floats  # (C, M)
    mu: Floats  # (C, M, Z)
    w: Floats  # (C, M, Z, Z)


def components(model: CVAE) -> Components:
    """Raises UsageError for a prior whose coordinates have no known densities."""
    prior, latent = model.prior, model.latent_dim
    one, mu = torch.zeros(mnist.CLASSES, 1), torch.zeros(mnist.CLASSES, 1, latent)
    match prior:
        case Standard():
            parts = one, mu, torch.eye(latent).expand(mnist.CLASSES, 1, -1, -1)
        case Diagonal():
            mu, logvar = prior.table[:, None].detach().chunk(2, -1)
            parts = one, mu, torch.exp(-0.5 * logvar).diag_embed()
        case Mixture():
            parts = prior.log_weight, prior.mu, prior.w
        case _:
            raise UsageError(
                "bits-back coding needs the density of one coordinate of z after the "
                "other; of this run's prior none is known: compress another run"
            )
    return Components(*(part.double().numpy() for part in parts))


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums in one order, whatever the number of threads; no gradients."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(threads)

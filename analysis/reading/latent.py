"""The latent space of a finished run as numbers: where the test images lie in it.

Every position is in units of the prior, u = (z − mu_y) / σ_y with mu_y, σ_y those of
p(z|y). For the standard prior that is z itself; for a learned one it lays the ten
priors over each other, so that whatever still tells the digits apart is the encoder's
doing. KL and densities are the same numbers in either unit, up to the unit's volume.
(A flow bends z: its u is exact for the means, and linear around each for σ and KL.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from torch import Tensor

from cvae import likelihood, mnist
from cvae.loading.loaded import LoadedRun, load_data
from cvae.networks import stream
from cvae.priors import gaussian_kl_per_dim

Array = NDArray[np.float64]
NEIGHBOURS = 10


@dataclass(frozen=True)
class Posterior:
    """q(z|x,y) of N test images in Z dimensions, in units of the prior.

    mu, sigma and kl (nats) are (N, Z); pixels (N, D) is what the encoder saw, in
    [0, 1]; labels (N,) in 0…9.
    """

    mu: Array
    sigma: Array
    kl: Array
    pixels: Array
    labels: NDArray[np.int64]

    @property
    def order(self) -> NDArray[np.int64]:
        """All dimensions in the one order that every figure and page has: `by_nats`."""
        return by_nats(self.kl.mean(0))

    @property
    def plane(self) -> list[int]:
        """The dimensions of a plane, right and up: the first two of `order`."""
        return [int(dim) for dim in self.order[:2]]

    @property
    def active(self) -> list[int]:
        """Those of `order` whose mean varies: Var(mu) > 0.01 (Burda et al. 2016)."""
        variance = self.mu.var(0)
        return [int(i) for i in self.order if variance[i] > likelihood.ACTIVE_VARIANCE]

    @property
    def digits(self) -> list[int]:
        """The labels that occur."""
        return sorted({int(label) for label in self.labels})

    @property
    def commonest(self) -> float:
        """The share of the commonest digit: what is right without knowing anything."""
        return float(np.bincount(self.labels).max() / len(self.labels))

    def of(self, digit: int) -> NDArray[np.int64]:
        """The places of a digit's images, in test order."""
        return np.flatnonzero(self.labels == digit)


@torch.no_grad()
def encode(run: LoadedRun) -> Posterior:
    """q(z|x,y) of all test images, through the input noise that the run trained with.

    Raises:
        DataError: the data set is not there. ValueError: the posterior is not finite.
    """
    data, spec, model = run.spec.data, run.spec, run.model
    test = load_data(spec, run.folder).test
    noise = stream(spec.training.seed, "evaluate")
    parts: list[tuple[Tensor, ...]] = []
    for x, _, y in likelihood.chunks(model, test, noise, corrupt=data.corrupt):
        mean, logvar = model.prior.whitened(model.encode(x, y), y)
        nats = gaussian_kl_per_dim((mean, logvar))  # the same in all units
        parts.append((mean, torch.exp(0.5 * logvar), nats, x))
    mu, sigma, kl, seen = (
        torch.cat(part).double().cpu().numpy() for part in zip(*parts, strict=True)
    )
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise ValueError(f"{run.folder.name}: the encoder's output is not finite")
    return Posterior(mu, sigma, kl, seen, test.labels.cpu().numpy())


@torch.no_grad()
def redrawn(run: LoadedRun) -> float:
    """The sd over drawings of the binarised test set of its mean log p(x|y), in nats.

    To first order, by the gradient in x: the decoder's logits, at the posterior mean.
    """
    variance, model = 0.0, run.model
    seen = load_data(run.spec, run.folder).test  # binarised
    grey = mnist.load_mnist(run.spec.data.root).test
    batches = likelihood.chunks(model, seen, torch.Generator())
    shares = mnist.pixels(grey.images).split(likelihood.CHUNK)
    for (x, _, y), share in zip(batches, shares, strict=True):
        logits = model.decode(model.encode(x, y)[0], y)
        variance += float((share.to(x) * (1 - share.to(x)) * logits**2).sum())
    return math.sqrt(variance) / len(grey)


def by_nats(kl: Array) -> NDArray[np.int64]:
    """The dimensions by their kl (Z,), most nats first; one or two stay as they are."""
    if len(kl) <= 2:
        return np.arange(len(kl))
    return np.argsort(-kl, kind="stable")


def quantiles(count: int) -> Array:
    """Φ⁻¹ at the middles of `count` equal parts of the prior's mass, ascending.

    Kingma & Welling 2014, Figure 4.
    """
    return np.asarray(norm.ppf((np.arange(count) + 0.5) / count), dtype=np.float64)


def neighbour_accuracy(
    points: Array, labels: NDArray[np.int64], *, neighbours: int = NEIGHBOURS
) -> float:
    """How often the nearest other points (N, Z), by majority, have a point's own label.

    Euclidean distance, each point left out of its own vote; of tied labels the smaller.
    """
    from sklearn.neighbors import KNeighborsClassifier  # takes a second to load

    neighbours = min(neighbours, len(labels) - 1)
    nearest = KNeighborsClassifier(neighbours).fit(points.astype(np.float32), labels)
    return float((nearest.predict(None) == labels).mean())

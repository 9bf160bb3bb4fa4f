"""p(z given y): what z is drawn from, and what the encoder's posterior is held to.

A prior turns standard normal noise into latents z, knows its density, and its KL
divergence from a diagonal Gaussian posterior in closed form (None if it has none). It
also whitens z: u = `whiten(z, y)` has mean 0 and covariance I under the prior, whatever
the label, so that one u is one handwriting in all ten digits. Its numbers are the
model's: a table, a row a class, or a module. Letters: B batch, Z latent, C classes;
`…` any leading dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

Gaussian = tuple[Tensor, Tensor]  # mu, logvar of a diagonal Gaussian, each (…, Z)


class Prior(Protocol):
    """p(z given y) for labels y (B,)."""

    def sample(self, y: Tensor, noise: Tensor) -> Tensor:
        """A draw of z for standard normal noise, both (…, B, Z)."""

    def whiten(self, z: Tensor, y: Tensor) -> Tensor:
        """u of z, both (B, Z): z in standard deviations from the prior's mean."""

    def unwhiten(self, u: Tensor, y: Tensor) -> Tensor:
        """z of u, both (B, Z): the inverse of `whiten`."""

    def whitened(self, q: Gaussian, y: Tensor) -> Gaussian:
        """mu, logvar of each coordinate of u if z is drawn from q, each (B, Z)."""

    def log_density(self, z: Tensor, y: Tensor) -> Tensor:
        """log p(z given y) in nats, (…, B)."""

    def kl(self, q: Gaussian, y: Tensor) -> Tensor | None:
        """KL(q ‖ p(z given y)) in nats, (B,); None if it has no closed form."""


class Standard:
    """N(0, I) whatever the label: it has nothing to learn."""

    def sample(self, y: Tensor, noise: Tensor) -> Tensor:
        return noise

    def whiten(self, z: Tensor, y: Tensor) -> Tensor:
        return z

    def unwhiten(self, u: Tensor, y: Tensor) -> Tensor:
        return u

    def whitened(self, q: Gaussian, y: Tensor) -> Gaussian:
        return q

    def log_density(self, z: Tensor, y: Tensor) -> Tensor:
        return gaussian_log_density(z)

    def kl(self, q: Gaussian, y: Tensor) -> Tensor:
        return gaussian_kl(q)


class Diagonal:
    """N(mu_y, diag σ_y²): the table (C, 2Z) holds mu and log σ²; it is trained."""

    def __init__(self, table: Tensor) -> None:
        self.table = table

    def of(self, y: Tensor) -> Gaussian:
        """mu, logvar of p(z given y), each (B, Z)."""
        mu, logvar = self.table[y].chunk(2, dim=-1)
        return mu, logvar

    def sample(self, y: Tensor, noise: Tensor) -> Tensor:
        return sample(self.of(y), noise)

    def whiten(self, z: Tensor, y: Tensor) -> Tensor:
        mu, logvar = self.of(y)
        return (z - mu) * torch.exp(-0.5 * logvar)

    def unwhiten(self, u: Tensor, y: Tensor) -> Tensor:
        return self.sample(y, u)

    def whitened(self, q: Gaussian, y: Tensor) -> Gaussian:
        return self.whiten(q[0], y), q[1] - self.of(y)[1]

    def log_density(self, z: Tensor, y: Tensor) -> Tensor:
        return gaussian_log_density(z, self.of(y))

    def kl(self, q: Gaussian, y: Tensor) -> Tensor:
        return gaussian_kl(q, self.of(y))


# model.prior → of a trained table (C, 2Z), which begins at 0
TRAINED: dict[str, Callable[[Tensor], Prior]] = {
    "learned": Diagonal,
}


def sample(gaussian: Gaussian, noise: Tensor) -> Tensor:
    """z = mu + σ·noise, the reparameterised draw; shape of `noise`."""
    mu, logvar = gaussian
    return torch.addcmul(mu, torch.exp(0.5 * logvar), noise)


def gaussian_kl(q: Gaussian, p: Gaussian | None = None) -> Tensor:
    """KL(q ‖ p) of diagonal Gaussians (…, Z) → (…), closed form; p is N(0, I) if None.

    Kingma & Welling 2014, appendix B.
    """
    return gaussian_kl_per_dim(q, p).sum(-1)


def gaussian_kl_per_dim(q: Gaussian, p: Gaussian | None = None) -> Tensor:
    """The summands of `gaussian_kl`, (…, Z)."""
    mu, logvar = q
    if p is None:
        return 0.5 * (mu.square() + logvar.exp() - 1 - logvar)
    prior_mu, prior_logvar = p
    distance = (mu - prior_mu).square() * torch.exp(-prior_logvar)
    log_ratio = logvar - prior_logvar
    return 0.5 * (distance + log_ratio.exp() - 1 - log_ratio)


def gaussian_log_density(z: Tensor, gaussian: Gaussian | None = None) -> Tensor:
    """log N(z; mu, σ²) (…, Z) → (…); standard normal if None."""
    if gaussian is None:
        return -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)
    mu, logvar = gaussian
    distance = (z - mu).square() * torch.exp(-logvar)
    return -0.5 * (distance + logvar + math.log(2 * math.pi)).sum(-1)

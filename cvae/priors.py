"""p(z given y): what z is drawn from, and what the encoder's posterior is held to.

A prior maps standard normal noise u to latents z and back, knows its density, and its
KL divergence from a diagonal Gaussian posterior in closed form (None if it has none).
Its numbers are a table (C, n), a row a class, that the model owns and the optimiser
learns. Letters: B batch, Z latent, C classes; `…` any leading dimensions.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor

Gaussian = tuple[Tensor, Tensor]  # mu, logvar of a diagonal Gaussian, each (…, Z)


class Prior(Protocol):
    """p(z given y) for labels y (B,)."""

    def sample(self, y: Tensor, noise: Tensor) -> Tensor:
        """z of standard normal noise u, both (…, B, Z)."""

    def noise(self, z: Tensor, y: Tensor) -> Tensor:
        """u of z, the inverse of `sample`: z in units of the prior."""

    def in_units(self, q: Gaussian, y: Tensor) -> Gaussian:
        """mu, logvar of each coordinate of u if z is drawn from q, each (B, Z)."""

    def log_density(self, z: Tensor, y: Tensor) -> Tensor:
        """log p(z given y) in nats, (…, B)."""

    def kl(self, q: Gaussian, y: Tensor) -> Tensor | None:
        """KL(q ‖ p(z given y)) in nats, (B,); None if it has no closed form."""


class Standard:
    """N(0, I) whatever the label: it has nothing to learn."""

    @staticmethod
    def numbers(latent_dim: int) -> int:
        """Entries of the table for a class."""
        return 0

    def __init__(self, table: Tensor | None = None) -> None:
        pass

    def sample(self, y: Tensor, noise: Tensor) -> Tensor:
        return noise

    def noise(self, z: Tensor, y: Tensor) -> Tensor:
        return z

    def in_units(self, q: Gaussian, y: Tensor) -> Gaussian:
        return q

    def log_density(self, z: Tensor, y: Tensor) -> Tensor:
        return gaussian_log_density(z)

    def kl(self, q: Gaussian, y: Tensor) -> Tensor:
        return gaussian_kl(q)


class Diagonal:
    """N(mu_y, diag σ_y²): the table holds mu and log σ², all 0 at the start."""

    @staticmethod
    def numbers(latent_dim: int) -> int:
        return 2 * latent_dim

    def __init__(self, table: Tensor) -> None:
        self.table = table

    def of(self, y: Tensor) -> Gaussian:
        """mu, logvar of p(z given y), each (B, Z)."""
        mu, logvar = self.table[y].chunk(2, dim=-1)
        return mu, logvar

    def sample(self, y: Tensor, noise: Tensor) -> Tensor:
        return sample(self.of(y), noise)

    def noise(self, z: Tensor, y: Tensor) -> Tensor:
        mu, logvar = self.of(y)
        return (z - mu) * torch.exp(-0.5 * logvar)

    def in_units(self, q: Gaussian, y: Tensor) -> Gaussian:
        return self.noise(q[0], y), q[1] - self.of(y)[1]

    def log_density(self, z: Tensor, y: Tensor) -> Tensor:
        return gaussian_log_density(z, self.of(y))

    def kl(self, q: Gaussian, y: Tensor) -> Tensor:
        return gaussian_kl(q, self.of(y))


class Full:
    """N(mu_y, Σ_y) with Σ_y⁻¹ = W_yᵀ W_y, W_y lower triangular: u = W_y (z − mu_y).

    With W for Σ, density and KL are matrix products; only `sample` solves a system. The
    table holds mu, the logarithms of W's diagonal and what lies below it, all 0 at the
    start, in units of 1/PACE: a step of Adam moves them PACE times as far.
    """

    PACE = 4.0

    @staticmethod
    def numbers(latent_dim: int) -> int:
        return latent_dim + latent_dim * (latent_dim + 1) // 2

    def __init__(self, table: Tensor) -> None:
        self.table = table

    def of(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """mu (B, Z), log of W's diagonal (B, Z) and W (B, Z, Z) of each label."""
        classes, numbers = self.table.shape
        latent = (math.isqrt(9 + 8 * numbers) - 3) // 2  # Z + Z (Z + 1) / 2 = numbers
        scaled = self.PACE * self.table
        mu, log_diagonal = scaled[:, :latent], scaled[:, latent : 2 * latent]
        w = torch.diag_embed(log_diagonal.exp())
        row, column = torch.tril_indices(latent, latent, -1, device=w.device)
        w = w.index_put(
            (torch.arange(classes, device=w.device)[:, None], row, column),
            scaled[:, 2 * latent :],
        )
        return mu[y], log_diagonal[y], w[y]

    def sample(self, y: Tensor, noise: Tensor) -> Tensor:
        mu, _, w = self.of(y)
        z: Tensor = torch.linalg.solve_triangular(w, noise.unsqueeze(-1), upper=False)
        return mu + z.squeeze(-1)

    def noise(self, z: Tensor, y: Tensor) -> Tensor:
        mu, _, w = self.of(y)
        return (w @ (z - mu).unsqueeze(-1)).squeeze(-1)

    def in_units(self, q: Gaussian, y: Tensor) -> Gaussian:
        mu, logvar = q
        w = self.of(y)[2]
        variance = w.square() @ logvar.exp().unsqueeze(-1)  # W diag(σ²) Wᵀ's diagonal
        return self.noise(mu, y), variance.squeeze(-1).log()

    def log_density(self, z: Tensor, y: Tensor) -> Tensor:
        return gaussian_log_density(self.noise(z, y)) + self.of(y)[1].sum(-1)

    def kl(self, q: Gaussian, y: Tensor) -> Tensor:
        """½ [tr(W diag(σ²) Wᵀ) + ‖W (mu_q − mu)‖² − Z − Σ log σ²] − log det W."""
        mu, logvar = q
        prior_mu, log_diagonal, w = self.of(y)
        moved = torch.stack([(mu - prior_mu), (0.5 * logvar).exp()], -1)  # (B, Z, 2)
        distance = (w @ moved[..., :1]).square()  # (B, Z, 1)
        trace = w.square() @ moved[..., 1:].square()
        terms = (distance + trace).squeeze(-1) - 1 - logvar
        return (0.5 * terms - log_diagonal).sum(-1)


PRIORS: dict[str, Any] = {
    "standard": Standard,
    "learned": Diagonal,  # a mean and a scale for each class and dimension
    "full": Full,  # a mean and a covariance for each class
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

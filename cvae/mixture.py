"""p(z given y) fitted after training: a mixture of Gaussians for each label."""

# The network is trained against N(0, I), and its decoder sees the aggregate posterior
# of a label, (1/N) Σ q(z given x, y) over its images. The two are not quite alike: what
# is drawn where no image lies is decoded as something between digits. With encoder and
# decoder fixed, the p(z given y) that maximises the bound is the aggregate posterior
# itself (Hoffman & Johnson 2016). So a mixture is fitted to draws from it, one for each
# training image; this is ex-post density estimation (Ghosh et al. 2020,
# https://arxiv.org/abs/1903.12436).
#
# Letters: N images, B batch, Z latent, C classes, M components.

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from cvae.priors import Gaussian, gaussian_log_density

COMPONENTS = 10  # of each label's mixture
PSEUDO_IMAGES = 20.0  # with covariance I, added to those of each component
K_MEANS, EM = 8, 20  # iterations
EDGE = 1e-9  # probabilities this near to 0 and 1 have no finite normal quantile


class Mixture:
    """Σ_m π_ym N(mu_ym, Σ_ym) with Σ⁻¹ = Wᵀ W, W lower triangular: u = W (z − mu)."""

    # The table (C, M, 1 + Z + Z²) holds log π, mu and W; `fit` makes it.

    def __init__(self, table: Tensor) -> None:
        numbers = table.shape[-1]
        latent = (math.isqrt(4 * numbers - 3) - 1) // 2  # 1 + Z + Z² = numbers
        self.log_weight = table[..., 0]  # (C, M)
        self.mu = table[..., 1 : 1 + latent]  # (C, M, Z)
        self.w = table[..., 1 + latent :].unflatten(-1, (latent, latent))

    def sample(self, y: Tensor, noise: Tensor) -> Tensor:
        """z (…, B, Z) of standard normal noise (…, B, Z): an exact draw."""
        # The first noise, as a probability, picks the component; where it lies within
        # that component's share is a uniform number again, and becomes its first noise.
        y = y.expand(noise.shape[:-1])
        upper = self.log_weight.double().softmax(-1).cumsum(-1)[y]  # (…, B, M)
        lower = torch.nn.functional.pad(upper, (1, 0))[..., :-1]
        p = torch.special.ndtr(noise[..., :1].double())  # uniform, (…, B, 1)
        component = (p > upper[..., :-1]).sum(-1, keepdim=True)  # (…, B, 1)
        low, high = lower.gather(-1, component), upper.gather(-1, component)
        within = ((p - low) / (high - low)).clamp(EDGE, 1 - EDGE)
        first = torch.special.ndtri(within).to(noise.dtype)
        rest = torch.cat([first, noise[..., 1:]], -1)  # standard normal, (…, B, Z)
        z = torch.empty_like(noise)
        inverse = torch.linalg.inv(self.w)  # small, and triangular as W is
        for label, m, here in self._parts(y, component.squeeze(-1)):
            z[here] = self.mu[label, m] + rest[here] @ inverse[label, m].T  # W⁻¹ ε
        return z

    def _parts(self, y: Tensor, component: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        # Label, component and the mask of the places that have both.
        for label in y.unique().tolist():
            for m in range(self.log_weight.shape[1]):
                here = (y == label) & (component == m)
                if here.any():
                    yield label, m, here

    def whiten(self, z: Tensor, y: Tensor) -> Tensor:
        mean, w = self._moments
        return (w[y] @ (z - mean[y]).unsqueeze(-1)).squeeze(-1)

    def unwhiten(self, u: Tensor, y: Tensor) -> Tensor:
        mean, w = self._moments
        z: Tensor = torch.linalg.solve_triangular(w[y], u.unsqueeze(-1), upper=False)
        return mean[y] + z.squeeze(-1)

    def whitened(self, q: Gaussian, y: Tensor) -> Gaussian:
        mu, logvar = q
        variance = self._moments[1][y].square() @ logvar.exp().unsqueeze(-1)
        return self.whiten(mu, y), variance.squeeze(-1).log()

    @functools.cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        # Mean (C, Z) of each label's mixture, and W (C, Z, Z) of its covariance.
        weight = self.log_weight.exp()[..., None]  # (C, M, 1)
        mean = (weight * self.mu).sum(1)
        inverse = torch.linalg.inv(self.w)
        within = (weight[..., None] * (inverse @ inverse.mT)).sum(1)
        # Cov = E Cov(z given m) + Cov E(z given m)
        apart = self.mu - mean[:, None]  # (C, M, Z)
        return mean, precision_factor(within + (weight * apart).mT @ apart)

    def log_density(self, z: Tensor, y: Tensor) -> Tensor:
        result = z.new_empty(z.shape[:-1])  # (…, B)
        for label in y.unique().tolist():
            here = y == label
            joint = joint_log_density(
                z[..., here, :], self.log_weight[label], self.mu[label], self.w[label]
            )
            result[..., here] = torch.logsumexp(joint, -1)
        return result

    def kl(self, q: Gaussian, y: Tensor) -> None:
        """It has no closed form."""


def joint_log_density(z: Tensor, log_weight: Tensor, mu: Tensor, w: Tensor) -> Tensor:
    """log π_m N(z; mu_m, Σ_m) of every component: z (…, Z) → (…, M)."""
    each = [
        gaussian_log_density((z - mu[m]) @ w[m].T) + w[m].diagonal().log().sum()
        for m in range(len(mu))
    ]
    return torch.stack(each, -1) + log_weight


def precision_factor(covariance: Tensor) -> Tensor:
    """W of covariances (…, Z, Z): lower triangular with Wᵀ W the inverse."""
    w: Tensor = torch.linalg.inv(torch.linalg.cholesky(covariance))
    return w


def fit(
    z: Tensor, y: Tensor, generator: torch.Generator, *, classes: int | None = None
) -> Tensor:
    """The table of `Mixture` for latents z (N, Z) with labels y (N,), on the CPU."""
    # Every label by k-means, then by expectation maximisation. A label without images
    # gets N(0, I).
    labels = range(classes or int(y.max()) + 1)
    return torch.stack([_fit_one(z[y == label], generator) for label in labels])


def _fit_one(z: Tensor, generator: torch.Generator) -> Tensor:
    # log π, mu and W of one label's latents (N, Z), as (M, 1 + Z + Z²).
    # Expectation maximisation (Dempster et al. 1977). M step: π, mu, Σ maximise
    #     Σ_n Σ_m r_nm log π_m N(z_n; mu_m, Σ_m),
    # E step: r_nm = π_m N(z_n; mu_m, Σ_m) / Σ_m' π_m' N(z_n; mu_m', Σ_m'). The pseudo
    # images, 20 a component, keep Σ away from 0 where a component has few images.
    latent = z.shape[1]
    share = _k_means(z, generator)  # (N, M), each row sums to 1
    for _ in range(EM):
        count = share.sum(0)  # (M,) images
        log_weight = (count + PSEUDO_IMAGES).log().log_softmax(0)  # log π, (M,)
        mu = share.T @ z / count.clamp(min=1e-6)[:, None]  # (M, N) (N, Z) → (M, Z)
        w = torch.stack(
            [_covariance(z - mu[m], share[:, m]) for m in range(COMPONENTS)]
        )
        w = precision_factor(w)  # (M, Z, Z)
        share = joint_log_density(z, log_weight, mu, w).softmax(1)  # r, (N, M)
    return torch.cat([log_weight[:, None], mu, w.reshape(-1, latent**2)], 1)


def _covariance(apart: Tensor, share: Tensor) -> Tensor:
    # (Z, Z) of latents less their mean (N, Z), weighted by share (N,).
    start = PSEUDO_IMAGES * torch.eye(apart.shape[1])
    total = (share[:, None] * apart).T @ apart + start  # Σ_n r_n a_n a_nᵀ
    return total / (share.sum() + PSEUDO_IMAGES)


def _k_means(z: Tensor, generator: torch.Generator) -> Tensor:
    # Which of M clusters each of N latents belongs to, one-hot (N, M).
    if not len(z):
        return z.new_empty(0, COMPONENTS)
    start = torch.randint(len(z), (COMPONENTS,), generator=generator)
    centre = z[start]  # (M, Z), of images drawn at random
    for _ in range(K_MEANS):
        cluster = torch.cdist(z, centre).argmin(1)  # (N,)
        one_hot = torch.nn.functional.one_hot(cluster, COMPONENTS).to(z.dtype)
        count = one_hot.sum(0)[:, None]  # (M, 1)
        mean = one_hot.T @ z / count.clamp(min=1)
        centre = torch.where(count > 0, mean, centre)  # an empty cluster stays
    return one_hot

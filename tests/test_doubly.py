"""The doubly reparameterised gradient: z ~ N(0, 1), x given z ~ N(z, 1), and a CVAE.

There the posterior is N(x/2, 1/2), and the expected bound an integral over the noise.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cvae.model import CVAE
from cvae.objective import doubly_reparameterise, log_mean_exp, terms
from cvae.priors import gaussian_log_density, sample
from tests.conftest import bend, generator

X = 1.3
FAR = (-0.4, math.log(0.8))  # mu, log σ² of a q far from the posterior
Q = tuple[Tensor, Tensor]


def weights(q: Q, noise: Tensor, beta: float, *, doubly: bool) -> Tensor:
    """log w (K, B) of the toy for noise (K, B)."""
    z = sample(q, noise.unsqueeze(-1))
    of_q = (q[0].detach(), q[1].detach()) if doubly else q
    ratio = gaussian_log_density(z, of_q) - gaussian_log_density(z)
    log_weight = gaussian_log_density(X - z) - beta * ratio
    if doubly:
        doubly_reparameterise(z, log_weight, beta)
    return log_weight


def posterior(mu: float, logvar: float, count: int) -> Q:
    """q (B, 1), the same for every draw, so that each has its own gradient."""
    values = torch.tensor([[mu], [logvar]], dtype=torch.float64).expand(2, count)
    first, second = (part[:, None].clone().requires_grad_() for part in values)
    return first, second


def gradients(
    noise: Tensor, beta: float, at: tuple[float, float] = FAR, *, doubly: bool
) -> Tensor:
    """Of each draw's bound by mu and log σ², (B, 2)."""
    q = posterior(at[0], at[1], noise.shape[1])
    bound = log_mean_exp(weights(q, noise, beta, doubly=doubly)).sum()
    return torch.cat(torch.autograd.grad(bound, q), 1)


def nodes(k: int, count: int = 60) -> tuple[Tensor, Tensor]:
    """Gauss–Hermite noise (K, count^K) and its weights, which sum to 1."""
    at, weight = np.polynomial.hermite_e.hermegauss(count)
    noise = torch.tensor(list(itertools.product(at, repeat=k))).T
    mass = torch.tensor(list(itertools.product(weight, repeat=k))).prod(1)
    return noise, mass / mass.sum()


def expected(mu: float, logvar: float, k: int, beta: float) -> float:
    """The bound itself, integrated over the noise."""
    noise, mass = nodes(k)
    with torch.no_grad():
        q = posterior(mu, logvar, noise.shape[1])
        return float(
            mass @ log_mean_exp(weights(q, noise, beta, doubly=False)).squeeze()
        )


@pytest.mark.parametrize("beta", [1.0, 0.4, 2.0])
def test_its_mean_is_the_slope_of_the_expected_bound(beta: float) -> None:
    noise, mass = nodes(2)
    mu, logvar, h = *FAR, 1e-4
    slopes = [
        (expected(mu + h, logvar, 2, beta) - expected(mu - h, logvar, 2, beta)),
        (expected(mu, logvar + h, 2, beta) - expected(mu, logvar - h, 2, beta)),
    ]
    for doubly in (True, False):
        found = mass @ gradients(noise, beta, doubly=doubly)
        assert found.tolist() == pytest.approx([s / (2 * h) for s in slopes], abs=1e-5)


@pytest.mark.parametrize("k", [1, 5])
def test_at_the_true_posterior_every_single_draw_gives_0(k: int) -> None:
    noise = torch.randn(k, 50, generator=generator(), dtype=torch.float64)
    at = (X / 2, math.log(0.5))
    assert gradients(noise, 1.0, at, doubly=True).abs().max() < 1e-12
    assert (gradients(noise, 1.0, at, doubly=False).std(0) > 0.1).all()


# -- a CVAE ----------------------------------------------------------------------------


def loud(prior: str) -> CVAE:
    sizes: dict[str, Any] = {"latent_dim": 2, "hidden": (6,), "shape": (4, 4)}
    model = CVAE(**sizes, prior=prior, generator=generator()).double()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.5)
        if model.flow is not None:
            bend(model.flow)
    return model


def slopes(model: CVAE, noise: Tensor, beta: float, *, doubly: bool) -> list[Tensor]:
    """The gradient of the mean loss of one image under noise (K, B, Z)."""
    count = noise.shape[1]
    x = torch.rand(1, 16, generator=generator(3)).double().expand(count, -1)
    y = torch.full((count,), 7)
    found = terms(model, x, y, noise, beta, x.round(), doubly=doubly)
    return list(torch.autograd.grad(found.loss.mean(), list(model.parameters())))


@pytest.mark.parametrize(("prior", "k"), [("flow", 1), ("flow", 4)])
def test_only_the_encoders_gradient_differs_and_not_in_the_mean(
    prior: str, k: int
) -> None:
    model, beta = loud(prior), 0.8
    parts = []
    for batch in range(40):  # the mean of a batch is one draw of the gradient
        noise = torch.randn(k, 100, 2, generator=generator(batch)).double()
        pair = [slopes(model, noise, beta, doubly=doubly) for doubly in (True, False)]
        names = (name for name, _ in model.named_parameters())
        for name, own, standard in zip(names, *pair, strict=True):
            if not name.startswith("encoder."):
                torch.testing.assert_close(own, standard)
        encoder = range(len(list(model.encoder.parameters())))
        parts.append(
            [torch.cat([p[i].flatten() for i in encoder]) for p in pair],
        )
    own, standard = (torch.stack(part) for part in zip(*parts, strict=True))
    assert not torch.allclose(own, standard)
    apart = own - standard
    error = apart.std(0) / len(apart) ** 0.5
    moving = error > 0  # units that are off for this image have no gradient
    assert (apart.mean(0)[moving].abs() < 5 * error[moving]).all()
    assert moving.sum() > 20
    if k > 1:
        assert own.var(0).sum() < standard.var(0).sum()

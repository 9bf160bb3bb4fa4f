from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from cvae.model import CVAE
from cvae.objective import bernoulli_nll, doubly_reparameterise, log_mean_exp, terms
from cvae.optimizer import beta_at
from cvae.priors import gaussian_log_density, sample
from tests.conftest import bend, generator

EXTREME = [0.0, 1e-6, -1e-6, 1.0, -1.0, 17.0, -17.0, 50.0, -50.0, 88.0, -88.0, -1e4]


def draw(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def normal(mu: Tensor, logvar: Tensor) -> Normal:
    return Normal(mu, torch.exp(0.5 * logvar))


def loud(prior: str = "standard") -> CVAE:
    """A small model whose posterior is far from its prior and from the truth."""
    sizes: dict[str, Any] = {"latent_dim": 2, "hidden": (6,), "shape": (4, 4)}
    model = CVAE(**sizes, prior=prior, generator=generator()).double()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.5)
        if model.flow is not None:
            bend(model.flow)
    return model


# -- recon ---------------------------------------------------------------------------


@pytest.mark.parametrize("pixel", [0.0, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nll_and_its_slope_are_cross_entropy_at_any_logit(
    pixel: float, dtype: torch.dtype
) -> None:
    logits = torch.tensor(EXTREME, dtype=dtype)[:, None].requires_grad_()
    x = torch.full_like(logits, pixel).detach()
    found = bernoulli_nll(logits, x)
    (slope,) = torch.autograd.grad(found.sum(), logits)
    again = logits.detach().double().requires_grad_()
    wanted = F.binary_cross_entropy_with_logits(again, x.double(), reduction="none")
    (wanted_slope,) = torch.autograd.grad(wanted.sum(), again)
    close: dict[str, Any] = {"atol": 1e-6, "rtol": 1e-6}
    torch.testing.assert_close(found.double(), wanted.sum(-1), **close)
    torch.testing.assert_close(slope.double(), wanted_slope, **close)


def test_log_mean_exp_stands_extremes() -> None:
    values = torch.tensor([[-2000.0, 0.0], [-2000.0, math.log(3.0)]])
    assert log_mean_exp(values).tolist() == pytest.approx([-2000.0, math.log(2.0)])


# -- the bound -------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 4.0])
def test_one_sample_gives_recon_plus_beta_kl(beta: float) -> None:
    model, noise = loud(), draw(1, 8, 2, seed=1)
    x, y = torch.rand(8, 16, generator=generator(2)).double(), torch.arange(8)
    found = terms(model, x, y, noise, beta, x)
    mu, logvar = model.encode(x, y)
    logits = model.decode(mu + torch.exp(logvar / 2) * noise[0], y)
    recon = F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)
    zeros = torch.zeros_like(mu)
    kl = kl_divergence(normal(mu, logvar), normal(zeros, zeros)).sum(1)
    torch.testing.assert_close(found.recon, recon)
    torch.testing.assert_close(found.kl, kl)
    torch.testing.assert_close(found.loss, recon + beta * kl)
    torch.testing.assert_close(found.mu, mu)


# -- β ---------------------------------------------------------------------------------


def test_beta_warms_up_linearly_from_zero_and_stays() -> None:
    found = [beta_at(step, beta=4.0, warmup_steps=8) for step in range(11)]
    assert found == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4, 4]
    assert [beta_at(step, beta=0.5, warmup_steps=0) for step in (0, 1)] == [0.5, 0.5]


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


def slopes(model: CVAE, noise: Tensor, beta: float, *, doubly: bool) -> list[Tensor]:
    """The gradient of the mean loss of one image under noise (K, B, Z)."""
    count = noise.shape[1]
    x = torch.rand(1, 16, generator=generator(3)).double().expand(count, -1)
    y = torch.full((count,), 7)
    found = terms(model, x, y, noise, beta, x.round(), doubly=doubly)
    return list(torch.autograd.grad(found.loss.mean(), list(model.parameters())))


@pytest.mark.parametrize("k", [1, 4])
def test_only_the_encoders_gradient_differs_and_not_in_the_mean(k: int) -> None:
    model, beta = loud("flow"), 0.8
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

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal, kl_divergence
from torch.nn import functional as F

from cvae import likelihood
from cvae.model import CVAE
from cvae.objective import bernoulli_nll, log_mean_exp, terms
from cvae.optimizer import beta_at
from tests.conftest import generator, prior_of

EXTREME = [0.0, 1e-6, -1e-6, 1.0, -1.0, 17.0, -17.0, 50.0, -50.0, 88.0, -88.0, -1e4]


def draw(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def normal(mu: Tensor, logvar: Tensor) -> Normal:
    return Normal(mu, torch.exp(0.5 * logvar))


def loud(latent_dim: int = 2, prior: str = "standard") -> CVAE:
    """A small model whose posterior is far from its prior and from the truth."""
    sizes: dict[str, Any] = {"latent_dim": latent_dim, "hidden": (6,), "shape": (4, 4)}
    model = CVAE(**sizes, prior=prior, generator=generator())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.mul_(2.5 if name.startswith("decoder") else 1.5)
        if model.prior_table is not None:
            model.prior_table.copy_(draw(10, 2 * latent_dim, scale=0.5))
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


# -- kl and densities ------------------------------------------------------------------


def test_log_mean_exp_stands_extremes() -> None:
    values = torch.tensor([[-2000.0, 0.0], [-2000.0, math.log(3.0)]])
    assert log_mean_exp(values).tolist() == pytest.approx([-2000.0, math.log(2.0)])


# -- the bound -------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 4.0])
def test_one_sample_gives_recon_plus_beta_kl(beta: float) -> None:
    model, noise = loud(), torch.randn(1, 8, 2, generator=generator(1))
    x, y = torch.rand(8, 16, generator=generator(2)), torch.arange(8)
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


@pytest.mark.parametrize("prior", ["standard", "learned"])
def test_many_samples_reach_the_integral_over_z(prior: str) -> None:
    model = loud(1, prior)
    x, y = torch.rand(5, 16, generator=generator(4)).round(), torch.arange(5)
    grid = torch.linspace(-12, 12, 4001)
    with torch.no_grad():
        logits = model.decode(grid[:, None, None].expand(-1, 5, 1), y).double()
        mu, logvar = prior_of(model, y)
    log_joint = Bernoulli(logits=logits).log_prob(x.double()).sum(-1)
    log_joint += normal(mu, logvar).log_prob(grid[:, None, None])[..., 0]
    exact = np.log(np.trapezoid(log_joint.exp().numpy(), grid.numpy(), axis=0))
    found = likelihood.log_likelihood(model, x, x, y, generator(), samples=20_000)
    assert found.tolist() == pytest.approx(exact.tolist(), abs=0.02)
    few = torch.stack(
        [
            likelihood.log_likelihood(model, x, x, y, generator(seed), samples=1)
            for seed in range(200)
        ]
    ).mean(0)
    assert (few.numpy() < exact).all()  # a lower bound of log p(x|y) in expectation


# -- β ---------------------------------------------------------------------------------


def test_beta_warms_up_linearly_from_zero_and_stays() -> None:
    found = [beta_at(step, beta=4.0, warmup_steps=8) for step in range(11)]
    assert found == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4, 4]
    assert [beta_at(step, beta=0.5, warmup_steps=0) for step in (0, 1)] == [0.5, 0.5]

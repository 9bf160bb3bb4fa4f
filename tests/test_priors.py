"""Every prior against torch.distributions, and the bound of one without a closed KL."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from cvae import objective, priors
from cvae.model import CVAE
from cvae.priors import PRIORS, Prior
from tests.conftest import generator

Z, LABELS = 3, torch.tensor([4, 4, 0, 9, 2])


def made(kind: str, seed: int = 0) -> Prior:
    """A prior whose numbers are drawn; in double precision."""
    numbers = PRIORS[kind].numbers(Z)
    table = torch.randn(10, numbers, generator=generator(seed), dtype=torch.float64)
    prior: Prior = PRIORS[kind](0.5 * table / getattr(PRIORS[kind], "PACE", 1.0))
    return prior


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def reference(prior: Prior) -> MultivariateNormal:
    """p(z given y) from nothing but what `sample` does to the origin and the axes."""
    origin = prior.sample(LABELS, torch.zeros(5, Z, dtype=torch.float64))
    axes = torch.eye(Z, dtype=torch.float64)[:, None].expand(Z, 5, Z)
    factor = (prior.sample(LABELS, axes) - origin).permute(1, 2, 0)  # (B, Z, noise)
    return MultivariateNormal(origin, factor @ factor.mT)


@pytest.mark.parametrize("kind", PRIORS)
def test_noise_is_the_inverse_of_sample(kind: str) -> None:
    prior, noise = made(kind), draw(7, 5, Z)
    torch.testing.assert_close(prior.noise(prior.sample(LABELS, noise), LABELS), noise)


@pytest.mark.parametrize("kind", PRIORS)
def test_the_density_is_that_of_what_is_sampled(kind: str) -> None:
    prior, z = made(kind), draw(7, 5, Z)
    log_p = prior.log_density(z, LABELS)
    torch.testing.assert_close(log_p, reference(prior).log_prob(z))


@pytest.mark.parametrize("kind", PRIORS)
def test_kl_is_that_of_torch_distributions(kind: str) -> None:
    prior, (mu, logvar) = made(kind), draw(2, 5, Z)
    q = MultivariateNormal(mu, torch.diag_embed(logvar.exp()))
    kl = prior.kl((mu, logvar), LABELS)
    assert kl is not None
    torch.testing.assert_close(kl, kl_divergence(q, reference(prior)))


@pytest.mark.parametrize("kind", PRIORS)
def test_a_posterior_in_units_of_the_prior_has_the_moments_of_its_noise(
    kind: str,
) -> None:
    prior, (mu, logvar) = made(kind), draw(2, 5, Z)
    z = priors.sample((mu, logvar), draw(200_000, 5, Z))
    u = prior.noise(z, LABELS)
    mean, logvar = prior.in_units((mu, logvar), LABELS)
    torch.testing.assert_close(u.mean(0), mean, atol=0.02, rtol=0)
    torch.testing.assert_close(u.std(0), torch.exp(logvar / 2), atol=0, rtol=0.02)


@pytest.mark.parametrize("kind", PRIORS)
def test_every_prior_starts_as_the_standard_normal(kind: str) -> None:
    model = CVAE(latent_dim=Z, hidden=(), prior=kind, generator=generator())
    z = torch.randn(5, Z)
    wanted = Normal(0.0, 1.0).log_prob(z).sum(1)
    torch.testing.assert_close(model.prior.log_density(z, LABELS), wanted)


def test_without_a_closed_form_the_kl_is_estimated_from_the_draws(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = CVAE(latent_dim=2, hidden=(8,), pixels=5, generator=generator())
    x, y = torch.rand(4, 5, generator=generator()), LABELS[:4]
    noise = torch.randn(20_000, 4, 2, generator=generator(3))
    exact = objective.terms(model, x, y, noise, 1.0, x)
    one = objective.terms(model, x, y, noise[:1], 0.5, x)
    monkeypatch.setattr(priors.Standard, "kl", lambda self, q, y: None)
    drawn = objective.terms(model, x, y, noise, 1.0, x)
    torch.testing.assert_close(drawn.kl, exact.kl, atol=0.02, rtol=0)
    torch.testing.assert_close(drawn.loss, exact.loss)
    single = objective.terms(model, x, y, noise[:1], 0.5, x)
    torch.testing.assert_close(single.loss, single.recon + 0.5 * single.kl)
    torch.testing.assert_close(single.recon, one.recon)

"""Every prior against torch.distributions, and the bound of one without a closed KL."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import jacobian
from torch.distributions import (
    Categorical,
    Distribution,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

from cvae import objective, priors
from cvae.flow import Flow
from cvae.mixture import Mixture
from cvae.model import CVAE
from cvae.priors import Diagonal, Prior, Standard
from tests.conftest import bend, generator

Z, LABELS = 3, torch.tensor([4, 4, 0, 9, 2])


KINDS = ("standard", "learned", "mixture")
CLOSED = ("standard", "learned")  # in these the KL has a closed form


def made(kind: str, seed: int = 0) -> Prior:
    """A prior whose numbers are drawn; in double precision."""
    if kind == "standard":
        return Standard()
    if kind == "learned":
        return Diagonal(0.5 * draw(10, 2 * Z, seed=seed))
    weight, mu = draw(10, 4, seed=seed).log_softmax(1), 2 * draw(10, 4, Z, seed=5)
    w = (0.5 * draw(10, 4, Z, Z, seed=6)).tril() + 2 * torch.eye(Z)
    return Mixture(torch.cat([weight[..., None], mu, w.flatten(2)], -1))


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def reference(prior: Prior) -> Distribution:
    """p(z given y) of LABELS by torch.distributions, from the prior's numbers."""
    if isinstance(prior, Mixture):
        mu, w = prior.mu[LABELS], prior.w[LABELS]
        each = MultivariateNormal(mu, precision_matrix=w.mT @ w)
        return MixtureSameFamily(Categorical(logits=prior.log_weight[LABELS]), each)
    zero = torch.zeros(5, Z, dtype=torch.float64)
    mu, logvar = prior.of(LABELS) if isinstance(prior, Diagonal) else (zero, zero)
    return MultivariateNormal(mu, torch.diag_embed(logvar.exp()))


@pytest.mark.parametrize("kind", KINDS)
def test_the_density_is_that_of_torch_distributions(kind: str) -> None:
    prior, z = made(kind), draw(7, 5, Z)
    log_p = prior.log_density(z, LABELS)
    torch.testing.assert_close(log_p, reference(prior).log_prob(z))


@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_distributed_as_the_density_says(kind: str) -> None:
    """The mean of log p of draws is the one that torch.distributions' own draws have,
    and so are the mean and the covariance of z."""
    prior, count = made(kind), 100_000
    z = prior.sample(LABELS, draw(count, 5, Z))
    torch.manual_seed(2)
    other = reference(prior).sample((count,))
    scale = float(other.std())
    log_p, wanted = (prior.log_density(part, LABELS) for part in (z, other))
    torch.testing.assert_close(log_p.mean(0), wanted.mean(0), atol=0.02, rtol=0)
    torch.testing.assert_close(log_p.std(0), wanted.std(0), atol=0.02, rtol=0)
    for at in range(5):
        torch.testing.assert_close(
            z[:, at].mean(0), other[:, at].mean(0), rtol=0, atol=0.025 * scale
        )
        covariances = z[:, at].T.cov(), other[:, at].T.cov()
        torch.testing.assert_close(*covariances, rtol=0, atol=0.1 * scale**2)


@pytest.mark.parametrize("kind", KINDS)
def test_unwhiten_is_the_inverse_of_whiten(kind: str) -> None:
    prior, z = made(kind), draw(5, Z)
    torch.testing.assert_close(prior.unwhiten(prior.whiten(z, LABELS), LABELS), z)


@pytest.mark.parametrize("kind", CLOSED)
def test_kl_is_that_of_torch_distributions(kind: str) -> None:
    prior, (mu, logvar) = made(kind), draw(2, 5, Z)
    q = MultivariateNormal(mu, torch.diag_embed(logvar.exp()))
    kl = prior.kl((mu, logvar), LABELS)
    assert kl is not None
    torch.testing.assert_close(kl, kl_divergence(q, reference(prior)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_whitened_posterior_has_the_moments_of_its_whitened_draws(
    kind: str,
) -> None:
    prior, (mu, logvar) = made(kind), draw(2, 5, Z)
    z = priors.sample((mu, logvar), draw(100_000, 5, Z))
    u = prior.whiten(z.flatten(0, 1), LABELS.repeat(100_000)).view_as(z)
    mean, logvar = prior.whitened((mu, logvar), LABELS)
    torch.testing.assert_close(u.mean(0), mean, atol=0.03, rtol=0)
    torch.testing.assert_close(u.std(0), torch.exp(logvar / 2), atol=0, rtol=0.02)


@pytest.mark.parametrize("kind", [*KINDS, "flow"])
def test_every_prior_starts_as_the_standard_normal(kind: str) -> None:
    model = CVAE(latent_dim=Z, hidden=(), prior=kind, generator=generator())
    z = torch.randn(5, Z)
    wanted = Normal(0.0, 1.0).log_prob(z).sum(1)
    torch.testing.assert_close(model.prior.log_density(z, LABELS), wanted)


def test_without_a_closed_form_the_kl_is_estimated_from_the_draws(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = CVAE(latent_dim=2, hidden=(8,), shape=(1, 5), generator=generator())
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


# -- flow: its density against Jacobian and integral -----------------------------------


def flow_of(latent: int, classes: int = 10) -> Flow:
    """A flow with drawn numbers, in double precision."""
    return bend(Flow(latent, classes).double()).requires_grad_(False)


@pytest.mark.parametrize("classes", [10, 0])
@pytest.mark.parametrize("latent", [1, 2, 3, 8])
def test_the_density_is_that_of_the_noise_times_the_jacobian(
    latent: int, classes: int
) -> None:
    flow, z = flow_of(latent, classes), draw(5, latent)
    for row, y in zip(z, LABELS, strict=True):
        one = y[None]
        slopes = jacobian(lambda z, one=one: flow.whiten(z[None], one)[0], row)
        u = flow.whiten(row[None], one)[0]
        wanted = Normal(0.0, 1.0).log_prob(u).sum() + torch.linalg.slogdet(slopes)[1]
        torch.testing.assert_close(flow.log_density(row[None], one)[0], wanted)
        assert abs(float(torch.linalg.slogdet(slopes)[1])) > 1e-4


@pytest.mark.parametrize(("latent", "classes"), [(1, 10), (2, 10)])
def test_the_density_of_every_label_integrates_to_1(latent: int, classes: int) -> None:
    flow, step = flow_of(latent, classes), 0.1
    line = torch.arange(-10, 10, step, dtype=torch.float64)
    z = torch.cartesian_prod(*[line] * latent).view(-1, latent)
    for label in (0, 7):
        p = flow.log_density(z, torch.full((len(z),), label)).exp()
        assert float(p.sum()) * step**latent == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("latent", [1, 2, 5])
def test_unwhiten_is_the_inverse_of_whiten_for_any_leading_dimensions(
    latent: int,
) -> None:
    flow, z = flow_of(latent), draw(3, 4, 5, latent)
    u = flow.whiten(z, LABELS)
    torch.testing.assert_close(flow.unwhiten(u, LABELS), z)
    torch.testing.assert_close(u[1, 2], flow.whiten(z[1, 2], LABELS))
    assert flow.log_density(z, LABELS).shape == (3, 4, 5)


def test_nothing_is_in_the_way_of_its_gradient() -> None:
    model = CVAE(latent_dim=5, hidden=(), prior="flow", generator=generator())
    model.prior.log_density(torch.randn(5, 5), LABELS).sum().backward()
    assert model.flow is not None
    for part in (model.flow.base, *model.flow.last):
        assert part.grad is not None
        assert part.grad.abs().max() > 0

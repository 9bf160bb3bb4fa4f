"""The flow prior: its density against Jacobian and integral, and a run that has one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import jacobian
from torch.distributions import Normal

from cvae.flow import Flow
from cvae.model import CVAE
from tests.conftest import bend, generator

LABELS = torch.tensor([4, 4, 0, 9, 2])


def made(latent: int, classes: int = 10) -> Flow:
    """A flow with drawn numbers, in double precision."""
    return bend(Flow(latent, classes).double()).requires_grad_(False)


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


@pytest.mark.parametrize("classes", [10, 0])
@pytest.mark.parametrize("latent", [1, 2, 3, 8])
def test_the_density_is_that_of_the_noise_times_the_jacobian(
    latent: int, classes: int
) -> None:
    flow, z = made(latent, classes), draw(5, latent)
    for row, y in zip(z, LABELS, strict=True):
        one = y[None]
        slopes = jacobian(lambda z, one=one: flow.whiten(z[None], one)[0], row)
        u = flow.whiten(row[None], one)[0]
        wanted = Normal(0.0, 1.0).log_prob(u).sum() + torch.linalg.slogdet(slopes)[1]
        torch.testing.assert_close(flow.log_density(row[None], one)[0], wanted)
        assert abs(float(torch.linalg.slogdet(slopes)[1])) > 1e-4


@pytest.mark.parametrize(("latent", "classes"), [(1, 10), (2, 10)])
def test_the_density_of_every_label_integrates_to_1(latent: int, classes: int) -> None:
    flow, step = made(latent, classes), 0.1
    line = torch.arange(-10, 10, step, dtype=torch.float64)
    z = torch.cartesian_prod(*[line] * latent).view(-1, latent)
    for label in (0, 7):
        p = flow.log_density(z, torch.full((len(z),), label)).exp()
        assert float(p.sum()) * step**latent == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("latent", [1, 2, 5])
def test_unwhiten_is_the_inverse_of_whiten_for_any_leading_dimensions(
    latent: int,
) -> None:
    flow, z = made(latent), draw(3, 4, 5, latent)
    u = flow.whiten(z, LABELS)
    torch.testing.assert_close(flow.unwhiten(u, LABELS), z)
    torch.testing.assert_close(u[1, 2], flow.whiten(z[1, 2], LABELS))
    assert flow.log_density(z, LABELS).shape == (3, 4, 5)


@pytest.mark.parametrize("latent", [1, 2, 5])
def test_it_begins_as_the_standard_normal_with_nothing_in_its_way(latent: int) -> None:
    model = CVAE(latent_dim=latent, hidden=(), prior="flow", generator=generator())
    z = torch.randn(5, latent, generator=generator(1))
    wanted = Normal(0.0, 1.0).log_prob(z).sum(1)
    torch.testing.assert_close(model.prior.log_density(z, LABELS), wanted)
    model.prior.log_density(z, LABELS).sum().backward()
    assert model.flow is not None
    assert model.flow.base.grad is not None
    assert model.flow.base.grad.abs().max() > 0
    for part in model.flow.last:
        assert part.grad is not None
        assert part.grad.abs().max() > 0

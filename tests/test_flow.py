"""The flow prior: its density against Jacobian and integral, and a run that has one."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import jacobian
from torch.distributions import Normal

from cvae import likelihood, mnist
from cvae.evaluation.nll import nll
from cvae.fast.gradient import AnalyticGradient
from cvae.flow import Flow
from cvae.loading.loaded import load_run
from cvae.model import CVAE
from cvae.run import runner, state
from cvae.spec.fields import Spec
from tests.conftest import bend, generator, spec
from tests.evaluation.made import request
from tests.run.test_durable import after

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


@pytest.mark.parametrize(("latent", "classes"), [(1, 10), (2, 10), (2, 0)])
def test_the_density_of_every_label_integrates_to_1(latent: int, classes: int) -> None:
    flow, step = made(latent, classes), 0.1
    line = torch.arange(-10, 10, step, dtype=torch.float64)
    z = torch.cartesian_prod(*[line] * latent).view(-1, latent)
    for label in (0, 7):
        p = flow.log_density(z, torch.full((len(z),), label)).exp()
        assert float(p.sum()) * step**latent == pytest.approx(1, abs=1e-3)


def test_draws_have_the_moments_that_the_density_integrates_to() -> None:
    flow, step = made(2), 0.15
    line = torch.arange(-9, 9, step, dtype=torch.float64)
    z = torch.cartesian_prod(line, line)
    y = torch.full((len(z),), 7)
    mass = (flow.log_density(z, y).exp() * step**2)[:, None]
    mean = (mass * z).sum(0)
    covariance = (mass * (z - mean)).T @ (z - mean)
    drawn = flow.sample(torch.full((20_000,), 7), draw(20_000, 2))
    error = 4 * covariance.diagonal().sqrt() / math.sqrt(20_000)
    assert ((drawn.mean(0) - mean).abs() < error).all()
    scale = float(covariance.diagonal().max())
    torch.testing.assert_close(drawn.T.cov(), covariance, atol=0.05 * scale, rtol=0)
    entropy = -(mass[:, 0] * flow.log_density(z, y)).sum()
    log_p = flow.log_density(drawn, torch.full((20_000,), 7))
    assert float(-log_p.mean()) == pytest.approx(float(entropy), abs=0.04)


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


def test_every_label_has_its_own_density_unless_there_are_none() -> None:
    z, y, other = draw(5, 3), LABELS, (LABELS + 1) % 10
    labelled, plain = made(3), made(3, 0)
    assert (labelled.log_density(z, y) != labelled.log_density(z, other)).all()
    assert torch.equal(plain.log_density(z, y), plain.log_density(z, other))


def test_both_halves_depend_on_each_other() -> None:
    slopes = jacobian(lambda z: made(4).whiten(z, LABELS[:1]), draw(1, 4))[0, :, 0]
    assert (slopes.abs() > 1e-6).all()


def test_a_whitened_posterior_has_the_moments_of_draws_where_the_flow_is_straight() -> (
    None
):
    flow, mu = made(3), draw(5, 3)
    logvar = torch.full_like(mu, 2 * math.log(0.02))  # σ: the flow hardly bends here
    z = mu + 0.02 * draw(20_000, 5, 3)
    u = flow.whiten(z, LABELS)
    mean, whitened = flow.whitened((mu, logvar), LABELS)
    assert ((u.mean(0) - mean).abs() < 0.03 * u.std(0)).all()
    torch.testing.assert_close(u.std(0), torch.exp(whitened / 2), atol=0, rtol=0.03)


def test_the_gradient_by_hand_is_not_written_for_it() -> None:
    model = CVAE(latent_dim=2, hidden=(4,), prior="flow", generator=generator())
    assert not AnalyticGradient.covers(model, samples=1)


@pytest.mark.parametrize("conditional", [True, False])
def test_a_run_with_a_flow_resumes_to_the_bit_draws_and_is_evaluated(
    conditional: bool, tiny_root: Path, tmp_path: Path
) -> None:
    one = spec(
        data__root=str(tiny_root),
        data__validation_images=20,
        model__conditional=conditional,
        model__hidden=[16],
        model__latent_dim=3,
        model__prior="flow",
        training__epochs=2,
    )
    whole = runner.run(one, runs=tmp_path / "whole", offline=True)
    with pytest.raises(KeyboardInterrupt):
        runner.run(one, runs=tmp_path / "parts", offline=True, show=after(1))
    parts = runner.run(one, runs=tmp_path / "parts", offline=True)
    first, second = (load_run(f.path).model.state_dict() for f in (whole, parts))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert "flow.base" in first
    assert first["flow.base"].any()  # it was trained
    check_figures(whole.path, one)


def check_figures(folder: Path, one: Spec) -> None:
    """What is recorded is the bound of the weights on disk, and nll is below it."""
    run = load_run(folder)
    data = mnist.load_mnist(one.data.root, validation_images=20)
    noise = state.stream(one.training.seed, "evaluate")
    anew = likelihood.bound(run.model, data.test, noise)["neg_elbo"]
    assert run.folder.metrics["test/neg_elbo"] == pytest.approx(anew, abs=1e-3)
    found = nll(run.model, data.test, request(200)).figures
    assert found["nll_is200"] < anew

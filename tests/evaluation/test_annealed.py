"""The annealing engine on densities whose integrals are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from cvae import likelihood
from cvae.evaluation import annealed, certified
from cvae.evaluation.annealed import Path
from cvae.evaluation.certified import certified as certify
from cvae.priors import gaussian_log_density
from tests.conftest import generator
from tests.evaluation.made import exact, images, model, request

IMAGES, LATENT = 4, 3
NORMALISER = torch.tensor([0.0, 3.0, -7.0, 40.0])  # log ∫ end, by image


def correlated() -> MultivariateNormal:
    """What the path of `towards` ends at: narrow, correlated, away from the middle."""
    factor = torch.tensor([[0.7, 0, 0], [0.3, 0.5, 0], [-0.3, 0.1, 0.6]])
    return MultivariateNormal(torch.tensor([1.0, -2.0, 0.5]), scale_tril=factor)


def towards() -> Path:
    """N(0, I) → a Gaussian with a known factor."""
    ends = correlated()
    return Path(
        start=gaussian_log_density,
        gain=lambda z: ends.log_prob(z) + NORMALISER - gaussian_log_density(z),
        draw=lambda noise: noise,
        precision=(torch.ones(IMAGES, LATENT), torch.full((IMAGES, LATENT), 4.0)),
    )


def weights(path: Path, z: Tensor, betas: list[float]) -> Tensor:
    """Log weights (K, B) of chains that begin in z."""
    steps = torch.full((len(betas) - 1, IMAGES), 0.6)
    *_, end = annealed.anneal(path, z, betas, steps, generator(1), leapfrogs=4)
    return end.log_weight


def exact_draws(count: int) -> Tensor:
    torch.manual_seed(0)
    return correlated().sample((count, IMAGES))


def test_both_directions_find_the_normaliser() -> None:
    path, betas = towards(), annealed.temperatures(40)
    start = torch.randn(800, IMAGES, LATENT, generator=generator())
    lower = annealed.log_mean(weights(path, start, betas))
    upper = -annealed.log_mean(weights(path, exact_draws(800), betas[::-1]))
    torch.testing.assert_close(lower, NORMALISER.double(), rtol=0, atol=0.2)
    torch.testing.assert_close(upper, NORMALISER.double(), rtol=0, atol=0.2)


def test_moves_leave_their_density_as_it_is() -> None:
    z = exact_draws(2000)
    betas = [1.0] * 6
    steps = torch.full((5, IMAGES), 0.9)
    *_, end = annealed.anneal(towards(), z, betas, steps, generator(), leapfrogs=3)
    assert 0.3 < float(end.accepted.min()) < 1  # some are refused
    moved = end.z.flatten(0, 1)
    assert float((end.z - z).abs().mean()) > 0.1
    torch.testing.assert_close(moved.mean(0), correlated().mean, rtol=0, atol=0.03)
    covariance = correlated().covariance_matrix
    torch.testing.assert_close(moved.T.cov(), covariance, rtol=0, atol=0.03)


@pytest.mark.parametrize("prior", ["standard", "learned", "flow", "mixture"])
@pytest.mark.parametrize("start", [annealed.from_prior, annealed.from_encoder])
def test_a_models_path_leads_to_its_integral(prior: str, start: object) -> None:
    made, data = model(prior=prior), images(IMAGES, grey=True)
    x, y = data.images / 255, data.labels
    assert callable(start)
    path = start(made, x, x, y)
    noise = torch.randn(200, IMAGES, 1, generator=generator())
    with torch.no_grad():
        z = path.draw(noise)
    found = annealed.log_mean(weights(path, z, annealed.temperatures(30)))
    torch.testing.assert_close(found, exact(made, data), rtol=0, atol=0.12)


def test_the_certified_bounds_hold_the_integral_between_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(certified, "IMAGES", 30)
    monkeypatch.setattr(certified, "TEMPERATURES", 30)
    monkeypatch.setattr(likelihood, "DRAWS", 20_000)  # K = 2,000: 10 images a pass
    made = model()
    found = certify(made, images(40), request(2000))
    drawn, _ = certified.simulate(made, 30, request().stream("annealing"))
    truth = float(exact(made, drawn).mean())
    figures = found.figures
    assert -figures["bdmc_nll_upper"] == pytest.approx(truth, abs=0.05)
    assert -figures["bdmc_nll_lower"] == pytest.approx(truth, abs=0.05)
    assert abs(figures["bdmc_gap"]) < 0.1
    assert abs(figures["bdmc_bias_is2000"]) < 0.05
    assert len(found.per_image["ais_nll"]) == 30
    of_test = images(40)
    assert figures["ais_nll"] == pytest.approx(
        -float(exact(made, of_test)[:30].mean()), abs=0.05
    )
    assert set(found.errors) == set(figures)

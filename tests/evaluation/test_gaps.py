"""Gaps and the rate-distortion curve against integrals over one latent."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal, kl_divergence

from cvae import mnist
from cvae.evaluation import gaps as of_gaps
from cvae.evaluation import rate_distortion as of_rates
from cvae.evaluation.gaps import elbo, gaps, optimise
from cvae.evaluation.rate_distortion import rate_distortion
from cvae.model import CVAE
from tests.conftest import generator, linear
from tests.evaluation.made import exact, images, model, request

GRID = torch.linspace(-8, 8, 1601)


def log_likelihoods(made: CVAE, data: mnist.Images) -> Tensor:
    """log p(x|z,y) (N, grid) in double precision."""
    rows = []
    with torch.no_grad():
        for x, y in zip(data.images / 255, data.labels, strict=True):
            logits = made.decode(GRID[:, None], y.expand(len(GRID)))
            pixels = Bernoulli(logits=logits.double(), validate_args=False)
            rows.append(pixels.log_prob(x).sum(-1))
    return torch.stack(rows)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_gaps, "STEPS", 150)


def test_the_best_gaussian_is_that_of_a_search_over_all() -> None:
    made, data = model(), images(4)
    x, y = data.images / 255, data.labels
    log_p = log_likelihoods(made, data)
    best = torch.full((4,), -torch.inf, dtype=torch.float64)
    for mu, logvar in itertools.product(
        torch.linspace(-3, 3, 61).tolist(), torch.linspace(-4, 1, 41).tolist()
    ):
        q = Normal(mu, torch.tensor(logvar / 2).exp())
        weight = q.log_prob(GRID).exp().double()
        expected = torch.trapezoid(weight * log_p, GRID.double(), dim=1)
        bound = expected - kl_divergence(q, Normal(0.0, 1.0)).double()
        best = best.maximum(bound)
    with torch.no_grad():
        q0 = made.encode(x, y)
    found = optimise(made, x, y, q0, generator())
    noise = torch.randn(5000, 4, 1, generator=generator(1))
    bound = elbo(made, x, y, found, noise)
    torch.testing.assert_close(bound, best, rtol=0, atol=0.06)


def test_a_decoder_that_ignores_z_leaves_the_encoders_kl_as_the_only_gap() -> None:
    made, data = model(), images(40)
    with torch.no_grad():
        linear(made.decoder, 0).weight[:, 0] = 0
        mu, logvar = made.encode(data.images / 255, data.labels)
    kl = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0)).mean()
    found = gaps(made, data, request(50)).figures
    assert found["approximation_gap"] == pytest.approx(0, abs=2e-3)
    assert found["amortisation_gap"] == pytest.approx(float(kl), abs=2e-3)


@pytest.mark.parametrize(
    ("prior", "latent"), [("mixture", 1), ("flow", 3), ("learned", 3)]
)
def test_the_gaps_come_to_what_is_between_bound_and_likelihood(
    prior: str, latent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_gaps, "IMAGES", 30)
    made, data = model(latent, prior=prior), images(40)
    found = gaps(made, data, request(2000))
    figures = found.figures
    assert figures["approximation_gap"] > 0
    assert figures["amortisation_gap"] > 0.1
    whole = figures["approximation_gap"] + figures["amortisation_gap"]
    assert figures["inference_gap"] == pytest.approx(whole)
    nll = figures["neg_elbo_encoder"] - whole
    assert figures["neg_elbo_local"] == pytest.approx(
        nll + figures["approximation_gap"]
    )
    assert len(found.per_image["inference_gap"]) == 30
    if latent == 1:
        assert nll == pytest.approx(-float(exact(made, data)[:30].mean()), abs=1e-3)


def test_the_curve_is_that_of_the_integrals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_rates, "TEMPERATURES", 40)
    monkeypatch.setattr(of_rates, "BEYOND_ONE", 10)
    monkeypatch.setattr(of_rates, "CHAINS", 60)
    made, data = model(), images(20)
    found = rate_distortion(made, data, request())
    log_p = log_likelihoods(made, data)
    log_prior = Normal(0.0, 1.0).log_prob(GRID).double()
    betas = found.arrays["betas"]
    assert float(betas.max()) == of_rates.MAX_BETA
    for at in (10, 25, 39, 49):
        beta = float(betas[at])
        joint = log_prior + beta * log_p
        density = torch.softmax(joint, 1)
        distortion = -(density * log_p).sum(1)
        log_z = torch.trapezoid(joint.exp(), GRID.double(), dim=1).log()
        rate = -beta * distortion - log_z
        for name, truth in (("distortion", distortion), ("rate", rate)):
            assert float(found.arrays[name][at]) == pytest.approx(
                float(truth.mean()), abs=0.08
            ), (name, beta)
    assert found.figures["rd_nll"] == pytest.approx(
        -float(exact(made, data).mean()), abs=0.05
    )
    own_rate, own_distortion = found.arrays["own"].tolist()
    assert found.figures["rate_excess"] > 0
    with torch.no_grad():
        q = made.encode(data.images / 255, data.labels)
    kl = kl_divergence(Normal(q[0], (q[1] / 2).exp()), Normal(0.0, 1.0))
    assert own_rate == pytest.approx(float(kl.mean()), rel=1e-4)
    assert own_distortion > float(found.arrays["distortion"][-1])

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.distributions import Bernoulli

from cvae import likelihood
from cvae.evaluation import nll as nll_module
from cvae.evaluation import quadrature
from cvae.evaluation.nll import curve, effective_samples, nll
from cvae.evaluation.quadrature import integrate
from cvae.objective import bernoulli_nll
from tests.conftest import generator, linear
from tests.evaluation.made import exact, exact_by_label, images, model, request

PRIORS = ["standard", "learned", "flow", "mixture"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"hidden": ()},
        {"hidden": (5, 7), "activation": "gelu"},
        {"conditional": False},
        {"label_scale": 4.0, "activation": "tanh"},
        {"shape": (3, 5)},
        {"shape": (28, 28)},
        {"architecture": "conv", "hidden": (4, 5, 7), "shape": (10, 7)},
        {"hidden": (9, 9, 9), "residual": True, "normalisation": "layer"},
    ],
    ids=str,
)
def test_the_fast_likelihood_is_the_plain_one(options: dict[str, Any]) -> None:
    made = model(3, scale=4.0, **options)
    data = images(7, grey=True, pixels=made.pixels)
    x, y = data.images / 255, data.labels
    z = 3 * torch.randn(11, 7, 3, generator=generator(3))
    with torch.no_grad():
        found = likelihood.given_z(made, x, y)(z)
        plain = -bernoulli_nll(made.double().decode(z.double(), y), x.double())
    torch.testing.assert_close(found.double(), plain, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("prior", PRIORS)
def test_nll_is_the_integral_within_its_error(prior: str) -> None:
    made, data = model(prior=prior), images(60, grey=True)
    found = nll(made, data, request(4000))
    truth = -exact(made, data)
    assert found.figures["nll_is4000"] == pytest.approx(float(truth.mean()), abs=0.02)
    apart = found.per_image["nll_is4000"] - truth
    assert float(apart.abs().max()) < 0.3
    assert found.errors["nll_is4000"] == pytest.approx(
        float(truth.std()) / math.sqrt(60), rel=0.05
    )


def test_the_curve_averages_all_groups_of_the_same_draws() -> None:
    log_weights = torch.randn(11, 4, generator=generator(5))
    pairs = log_weights[:10].double().exp().reshape(5, 2, 4).mean(1).log().mean(0)
    torch.testing.assert_close(curve(log_weights, 2), pairs)
    torch.testing.assert_close(curve(log_weights, 1), log_weights.double().mean(0))


def test_effective_samples_are_all_of_equal_weights_and_one_of_a_single() -> None:
    log_weights = torch.zeros(20, 3) - 500
    log_weights[4, 1] += 60
    log_weights[:10, 2] += 60
    found = effective_samples(log_weights)
    torch.testing.assert_close(found, torch.tensor([20.0, 1.0, 10.0]).double())


def test_nll_of_x_is_the_sum_over_the_labels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The key has both counts; with many draws for each it is the sum itself."""
    made, data = model(), images(20)
    truth = -float(exact_by_label(made, data).exp().mean(1).log().mean())
    few = nll(made, data, request(3000)).figures["marginal_nll_is3000_20"]
    monkeypatch.setattr(nll_module, "OTHERS", 3000)
    many = nll(made, data, request(3000)).figures["marginal_nll_is3000_3000"]
    assert many == pytest.approx(truth, abs=0.02)
    assert few == pytest.approx(truth, abs=0.3)


@pytest.mark.parametrize("prior", PRIORS)
def test_one_latent_is_the_trapezoidal_rule(prior: str) -> None:
    made, data = model(prior=prior, scale=4.0), images(30, grey=True)
    found = integrate(made, data)
    torch.testing.assert_close(found.log_p, exact(made, data), rtol=0, atol=1e-3)
    assert float(found.doubt.max()) < 1e-4


@pytest.mark.parametrize("prior", PRIORS)
def test_a_decoder_that_ignores_z_gives_its_pixels_alone(
    prior: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the prior's density must come to 1 on the grid, whatever its shape."""
    monkeypatch.setitem(quadrature.GRIDS, 2, (8.0, 0.1))
    made, data = model(2, prior=prior), images(5, grey=True)
    with torch.no_grad():
        linear(made.decoder, 0).weight[:, :2] = 0
        logits = made.decode(torch.zeros(5, 2), data.labels)
    pixels = Bernoulli(logits=logits, validate_args=False)
    truth = pixels.log_prob(data.images / 255).sum(1).double()
    found = integrate(made, data)
    torch.testing.assert_close(found.log_p, truth, rtol=0, atol=1e-3)


def test_a_grid_that_is_too_coarse_is_doubted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(quadrature.GRIDS, 1, (9.0, 3.0))
    made, data = model(scale=4.0), images(30)
    found = integrate(made, data)
    apart = (found.log_p - exact(made, data)).abs()
    assert float(apart.mean()) > 0.02
    assert float(found.doubt.mean()) > float(apart.mean()) / 2

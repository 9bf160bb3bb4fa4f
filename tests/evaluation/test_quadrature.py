from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.distributions import Bernoulli

from cvae.evaluation import quadrature
from cvae.evaluation.quadrature import integrate
from tests.conftest import linear
from tests.evaluation.made import exact, images, model

PRIORS = ["standard", "learned", "flow", "mixture"]


def track(items: Any) -> Any:
    return iter(items)


@pytest.mark.parametrize("prior", PRIORS)
def test_one_latent_is_the_trapezoidal_rule(prior: str) -> None:
    made, data = model(prior=prior, scale=4.0), images(30, grey=True)
    found = integrate(made, data, track)
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
    found = integrate(made, data, track)
    torch.testing.assert_close(found.log_p, truth, rtol=0, atol=1e-3)


def test_a_grid_that_is_too_coarse_is_doubted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(quadrature.GRIDS, 1, (9.0, 3.0))
    made, data = model(scale=4.0), images(30)
    found = integrate(made, data, track)
    apart = (found.log_p - exact(made, data)).abs()
    assert float(apart.mean()) > 0.02
    assert float(found.doubt.mean()) > float(apart.mean()) / 2

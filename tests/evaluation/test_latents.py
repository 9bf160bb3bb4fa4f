"""The kl taken apart: encoders whose information is known by closed form or quadrature.

A linear model of one pixel sees only values of 0 to 1: its posterior means are a line.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from cvae import mnist
from cvae.evaluation import latents
from cvae.model import CVAE
from tests.conftest import generator, linear
from tests.evaluation.made import request

SIGMA = 0.5


def linear_model(
    *,
    slope: float,
    by_label: float = 0.0,
    conditional: bool = True,
    prior: str = "standard",
) -> CVAE:
    """q(z given x, y) = N(slope · (x − ½) + by_label · (y is 1), SIGMA²), one pixel."""
    model = CVAE(
        latent_dim=1,
        hidden=(),
        shape=(1, 1),
        prior=prior,
        conditional=conditional,
        generator=generator(),
    )
    with torch.no_grad():
        for part in model.parameters():
            part.zero_()
        layer = linear(model.encoder, 0)
        layer.weight[0, 0] = slope
        layer.bias[:] = torch.tensor([-slope / 2, 2 * math.log(SIGMA)])
        if conditional:
            layer.weight[0, 2] = by_label
    return model


def pixels(count: int, labels: int = 2) -> mnist.Images:
    """Grey values that follow a bell, labels in turn."""
    quantile = norm.ppf((np.arange(count) + 0.5) / count)
    grey = torch.from_numpy(np.clip(127.5 + 40 * quantile, 0, 255)).round()
    order = torch.randperm(count, generator=generator(5))
    y = torch.arange(count) % labels
    return mnist.Images(grey[order].to(torch.uint8)[:, None], y)


def entropy(mu: Tensor) -> float:
    """That of the mixture of N(mu, SIGMA²) over all mu (N,), by quadrature, nats."""
    at = np.linspace(-12, 12, 1201)
    p = norm.pdf(at[:, None], mu.numpy(), SIGMA).mean(1)
    return float(-np.trapezoid(p * np.log(np.maximum(p, 1e-300)), at))


OWN = 0.5 * math.log(2 * math.pi * math.e * SIGMA**2)  # the entropy of one posterior


@pytest.mark.parametrize("prior", ["standard", "learned"])
def test_the_terms_are_those_of_quadrature(prior: str) -> None:
    model, data = linear_model(slope=6, by_label=1.5, prior=prior), pixels(1500)
    if model.prior_table is not None:
        with torch.no_grad():
            model.prior_table[1] = torch.tensor([1.5, 0.3])
    x, y = data.images[:, 0] / 255, data.labels
    mu = 6 * (x - 0.5) + 1.5 * y
    of_label = sum(entropy(mu[y == label]) for label in (0, 1)) / 2
    found = latents.latents(model, data, request())
    wanted = {
        "information": entropy(mu) - OWN,
        "information_in_digit": of_label - OWN,
        "label_information": entropy(mu) - of_label,
    }
    wanted["aggregate_kl"] = found.figures["kl"] - wanted["information_in_digit"]
    if prior == "standard":
        wanted["marginal_kl"] = found.figures["kl"] - wanted["information"]
    assert ("marginal_kl" in found.figures) == (prior == "standard")
    for name, value in wanted.items():
        error = found.errors[name]
        assert 0 < error < 0.06, name
        assert found.figures[name] == pytest.approx(value, abs=4 * error), name


def test_two_latents_that_go_together_have_the_total_correlation_of_a_coin() -> None:
    """Half of the images at (a, a), half at (−a, −a): ln 2; at all four corners: 0."""
    images = mnist.Images(
        255 * torch.tensor([[0, 0], [1, 1]]).byte(), torch.zeros(2).long()
    )
    together = mnist.Images(images.images.repeat(500, 1), images.labels.repeat(500))
    crossed = torch.cartesian_prod(*[torch.tensor([0, 255], dtype=torch.uint8)] * 2)
    alone = mnist.Images(crossed.repeat(250, 1), together.labels)
    model = CVAE(latent_dim=2, hidden=(), shape=(1, 2), generator=generator())
    a, sigma = 2.0, 0.3
    with torch.no_grad():
        layer = linear(model.encoder, 0)
        layer.weight.zero_()
        layer.weight[:2, :2] = 2 * a * torch.eye(2)
        layer.bias[:] = torch.tensor([-a, -a, *[2 * math.log(sigma)] * 2])
    at = np.linspace(-5, 5, 2001)
    q = (norm.pdf(at, a, sigma) + norm.pdf(at, -a, sigma)) / 2
    apart = np.log(np.maximum(q, 1e-300)) - norm.logpdf(at)
    by_dimension = 2 * float(np.trapezoid(q * apart, at))
    for data, correlation in ((together, math.log(2)), (alone, 0)):
        found = latents.latents(model, data, request())
        figures, error = found.figures, 4 * found.errors["dimension_kl"]
        assert figures["total_correlation"] == pytest.approx(correlation, abs=1e-6)
        assert figures["dimension_kl"] == pytest.approx(by_dimension, abs=error)
        both = figures["total_correlation"] + figures["dimension_kl"]
        assert figures["marginal_kl"] == pytest.approx(both, rel=1e-9)


def test_labels_in_z_are_found_and_noise_is_named_by_chance() -> None:
    y = torch.arange(2000) % 10
    coded = torch.eye(10)[y] + 0.1 * torch.randn(2000, 10, generator=generator())
    noise = torch.randn(2000, 4, generator=generator(1))
    known, unknown = latents.label_probes(coded, y), latents.label_probes(noise, y)
    for name in ("label_in_z_neighbours", "label_in_z_linear"):
        assert known.figures[name] > 0.99
        assert unknown.figures[name] == pytest.approx(0.1, abs=0.04)
        assert unknown.errors[name] == pytest.approx(math.sqrt(0.09 / 1000), rel=0.3)
    assert unknown.figures["label_in_z_chance"] == pytest.approx(0.1)

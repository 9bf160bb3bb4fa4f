"""Numbers of the latent space against closed forms and models made by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import norm

from analysis.reading import latent
from analysis.reading.latent import Array, Posterior
from cvae import mnist
from cvae.priors import gaussian_kl_per_dim
from tests.conftest import linear, untrained_run


def posterior(mu: Array, sigma: Array | float = 0.1) -> Posterior:
    """A posterior at `mu` (N, Z) whose labels go round 0 to 9."""
    spread = np.broadcast_to(sigma, mu.shape).astype(float)
    kl = 0.5 * (mu**2 + spread**2 - 1) - np.log(spread)
    return Posterior(mu, spread, kl, np.zeros((len(mu), 4)), np.arange(len(mu)) % 10)


def test_quantiles_stand_at_the_middles_of_equal_mass_and_are_symmetric() -> None:
    for count in (1, 2, 7, 20):
        at = latent.quantiles(count)
        assert at == pytest.approx(-at[::-1])
        assert norm.cdf(at) == pytest.approx([(k + 0.5) / count for k in range(count)])


def test_neighbours_name_separate_clusters_and_know_nothing_of_shuffled_ones() -> None:
    random = np.random.default_rng(0)
    labels = np.arange(2000) % 10
    centres = 10.0 * np.arange(10)[labels, None]
    points = centres + random.normal(size=(2000, 2))
    assert latent.neighbour_accuracy(points, labels) == 1.0
    mixed = latent.neighbour_accuracy(points, random.permutation(labels))
    assert mixed == pytest.approx(0.1, abs=0.03)


def test_the_aggregate_posterior_has_the_variance_of_means_and_of_widths() -> None:
    random = np.random.default_rng(1)
    wanted = np.array([[2.0, 0.6], [0.6, 0.5]])
    mu = random.multivariate_normal([1, -1], wanted, size=200_000)
    sigma = np.array([0.5, 0.1])
    found = latent.covariance(posterior(mu, sigma))
    assert found == pytest.approx(wanted + np.diag(sigma**2), abs=0.02)


def test_principal_axes_are_those_of_a_known_covariance() -> None:
    turn = math.radians(30)
    axes = np.array(
        [[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]]
    )
    mu = np.random.default_rng(2).normal(size=(200_000, 2)) * [2.0, 0.5] @ axes
    variances, found = latent.principal(posterior(mu, 0.3))
    assert variances == pytest.approx([4.09, 0.34], rel=0.02)
    assert found == pytest.approx(axes, abs=0.01)


@pytest.mark.parametrize("correlation", [0.0, 0.5, -0.9])
def test_total_correlation_is_that_of_a_gaussian(correlation: float) -> None:
    both = [[1.0, correlation], [correlation, 1.0]]
    mu = np.random.default_rng(3).multivariate_normal([0, 0], both, size=200_000)
    found = latent.total_correlation(posterior(3 * mu, 1e-6))
    assert found == pytest.approx(-0.5 * math.log(1 - correlation**2), abs=0.01)


def test_the_most_informed_dimensions_come_first_and_still_ones_are_inactive() -> None:
    random = np.random.default_rng(4)
    mu = random.normal(size=(500, 4)) * [0.01, 1.0, 2.0, 0.2]
    found = posterior(mu, np.array([1.0, 0.1, 0.01, 0.9]))
    assert found.order.tolist() == [2, 1, 3, 0]
    assert found.active == [2, 1, 3]


def test_the_arc_keeps_the_norm_and_the_line_does_not() -> None:
    random = np.random.default_rng(5)
    start, end = random.normal(size=(2, 20))
    end *= np.linalg.norm(start) / np.linalg.norm(end)
    arc, line = latent.slerp(start, end, 9), latent.lerp(start, end, 9)
    assert np.linalg.norm(arc, axis=1) == pytest.approx(np.linalg.norm(start))
    assert np.linalg.norm(line[4]) < 0.9 * np.linalg.norm(start)
    for path in (arc, line):
        assert path[0] == pytest.approx(start)
        assert path[-1] == pytest.approx(end)
    cosines = np.sum(arc[1:] * arc[:-1], axis=1) / np.sum(arc[1:] ** 2, axis=1)
    assert np.ptp(cosines) < 1e-9  # equal angles


@pytest.mark.parametrize("dims", [[0], [0, 1]])
def test_the_density_is_that_of_the_gaussians_and_its_gap_their_kl(
    dims: list[int],
) -> None:
    alone = posterior(np.array([[0.5, -1.0]]), np.array([0.3, 1.5]))
    at, found = latent.density(alone, np.array([0]), dims)
    wanted = norm.pdf(at, 0.5, 0.3)
    if len(dims) == 2:
        wanted = norm.pdf(at, -1.0, 1.5)[:, None] * wanted
    np.testing.assert_allclose(found, wanted)
    assert latent.kl_to_prior(at, found) == pytest.approx(
        alone.kl[0, dims].sum(), rel=1e-3
    )


def test_a_posterior_is_that_of_the_encoder(tmp_path: Path) -> None:
    run = untrained_run(tmp_path, model__latent_dim=3)
    found = latent.encode(run)
    test = mnist.load_mnist(tmp_path / "data").test
    mu, logvar = run.model.encode(test.images / 255, test.labels)
    assert found.mu == pytest.approx(mu.detach().numpy(), abs=1e-6)
    assert found.sigma == pytest.approx(np.exp(0.5 * logvar.detach().numpy()), abs=1e-6)
    assert found.labels.tolist() == test.labels.tolist()
    kl = gaussian_kl_per_dim((mu, logvar))
    assert found.kl == pytest.approx(kl.detach().numpy(), abs=1e-6)


def test_a_learned_priors_scale_is_taken_out_of_mean_and_width(tmp_path: Path) -> None:
    run = untrained_run(tmp_path, model__prior="learned", model__hidden=[])
    table = run.model.prior_table
    assert table is not None
    with torch.no_grad():  # q = N(5, 0.25), p = N(1, 4): u = N(2, 1/16)
        layer = linear(run.model.encoder, 0)
        layer.weight.zero_()
        layer.bias.copy_(torch.tensor([5.0, 5.0, math.log(0.25), math.log(0.25)]))
        table.copy_(torch.tensor([1.0, 1.0, math.log(4), math.log(4)]).expand(10, 4))
    found = latent.encode(run)
    assert found.mu == pytest.approx(2.0, abs=1e-5)
    assert found.sigma == pytest.approx(0.25, abs=1e-5)
    assert found.kl == pytest.approx(0.5 * (4 + 1 / 16 - 1 + math.log(16)), abs=1e-5)

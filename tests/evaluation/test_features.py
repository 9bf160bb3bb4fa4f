"""Two sets of features compared: sets whose answer is known."""

from __future__ import annotations

import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from cvae import control
from cvae.evaluation import features
from tests.conftest import generator


def points(count: int, size: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(count, size, generator=generator(seed))


def with_moments(mean: Tensor, covariance: Tensor, count: int = 500) -> Tensor:
    """Points with exactly this mean and covariance."""
    x = points(count, len(mean)).double()
    x = x - x.mean(0)
    white = x @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov())).T
    return torch.addmm(mean, white, torch.linalg.cholesky(covariance).T)


def covariance(seed: int, size: int = 4) -> Tensor:
    factor = points(size, size, seed).double()
    return torch.addmm(0.1 * torch.eye(size).double(), factor, factor.T)


def test_frechet_is_the_closed_form_of_two_gaussians() -> None:
    mean, other = points(2, 4, seed=3).double()
    one, two = covariance(1), covariance(2)
    cross = torch.from_numpy(sqrtm((one @ two).numpy()).real)
    wanted = (mean - other).square().sum() + (one + two - 2 * cross).trace()
    sets = with_moments(mean, one), with_moments(other, two)
    assert features.frechet(*sets) == pytest.approx(float(wanted), rel=1e-6)
    assert features.frechet(*sets[::-1]) == pytest.approx(float(wanted), rel=1e-6)


def test_the_overlap_is_a_plain_recomputation_point_by_point(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each ball by itself, where the passes are smaller than either set."""
    monkeypatch.setattr(control, "CHUNK", 7)
    real, drawn = points(23, 2), points(31, 2, seed=1) + 0.7
    found = features.overlap(drawn, real)

    def radius(point: Tensor, of: Tensor) -> float:
        return float((of - point).norm(dim=1).sort().values[control.NEIGHBOURS])

    def within(point: Tensor, centre: Tensor, of: Tensor) -> bool:
        return float((point - centre).norm()) <= radius(centre, of)

    balls = [[within(d, r, real) for r in real] for d in drawn]
    backwards = [[within(r, d, drawn) for d in drawn] for r in real]
    assert found.precision.tolist() == [any(row) for row in balls]
    wanted = torch.tensor([sum(row) / control.NEIGHBOURS for row in balls])
    torch.testing.assert_close(found.density, wanted.double())
    assert found.recall.tolist() == [any(row) for row in backwards]
    columns = zip(*balls, strict=True)
    assert found.coverage.tolist() == [any(column) for column in columns]

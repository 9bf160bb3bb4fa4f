"""Samples beside real images: sets that are the real ones, copies, and noise."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from cvae import classifier, control, mnist
from cvae.evaluation import features, samples
from cvae.evaluation.estimator import Measured
from cvae.evaluation.metrics import metric
from cvae.model import CVAE
from tests.conftest import generator, linear


@pytest.fixture(scope="module")
def few(shipped: mnist.MNIST) -> mnist.MNIST:
    """600 images of each part."""
    train, validation, test = (
        mnist.Images(part.images[:600], part.labels[:600])
        for part in (shipped.train, shipped.validation, shipped.test)
    )
    return mnist.MNIST(train, validation, test, shipped.shape, shipped.sha256)


def model_of(images: Tensor, *, conditional: bool = True) -> CVAE:
    """A decoder that draws the same image (10, D) for each label, whatever z."""
    model = CVAE(
        latent_dim=2, hidden=(), conditional=conditional, generator=generator()
    )
    with torch.no_grad():
        for part in model.decoder.parameters():
            part.zero_()
        if conditional:
            logits = torch.logit(mnist.pixels(images), eps=1e-4)
            linear(model.decoder, 0).weight[:, 2:] = logits.T
    return model


def judged(
    few: mnist.MNIST, read_by: classifier.Classifier, some: mnist.Images
) -> Measured:
    return samples.feature_figures(
        {"": some}, few.test, read_by, generator(), by_digit=True
    )


def test_the_real_images_themselves_are_a_perfect_sample(
    few: mnist.MNIST, read_by: classifier.Classifier
) -> None:
    figures = judged(few, read_by, few.test).figures
    for prefix in ("", "digit_"):
        assert figures[f"{prefix}frechet"] == pytest.approx(0, abs=1e-4)
        for name in ("precision", "recall", "coverage"):
            assert figures[f"{prefix}{name}"] == 1, name
    assert figures["digit_diversity"] == 1


def test_shuffled_labels_are_told_by_digit_and_not_over_all_images(
    few: mnist.MNIST, read_by: classifier.Classifier
) -> None:
    order = torch.randperm(600, generator=generator())
    shuffled = mnist.Images(few.test.images, few.test.labels[order])
    found = judged(few, read_by, shuffled)
    assert found.figures["precision"] == 1
    assert found.figures["digit_precision"] < 0.4
    assert found.figures["digit_frechet"] > 50
    assert found.figures["digit_diversity"] > 1.5


def test_copies_are_called_copies_and_other_images_are_not(few: mnist.MNIST) -> None:
    copied = samples.memorisation(few.train, few)
    assert copied.figures["copied"] == 1
    assert copied.figures["nearest_train"] == pytest.approx(0, abs=1e-4)
    fair = samples.memorisation(few.test, few)
    error = fair.errors["copied"]
    assert 0.5 / 600**0.5 < error < 1 / 600**0.5
    assert fair.figures["copied"] == pytest.approx(0.5, abs=4 * error)
    assert fair.figures["nearest_train"] == fair.figures["nearest_train_real"]


def test_a_network_learns_from_real_images_and_not_from_shuffled_labels(
    few: mnist.MNIST,
) -> None:
    order = torch.randperm(600, generator=generator())
    shuffled = mnist.Images(few.train.images, few.train.labels[order])
    asked = replace(
        few, test=mnist.Images(few.test.images[:300], few.test.labels[:300])
    )
    figures = samples.classification_accuracy(
        {"": few.train, "_shuffled": shuffled}, asked
    ).figures
    assert figures["classification_accuracy"] > 0.6
    assert figures["classification_accuracy_shuffled"] < 0.3


def test_every_figure_is_listed_and_says_what_it_stands_beside(
    few: mnist.MNIST, read_by: classifier.Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "EPOCHS", 1)
    firsts = [few.test.images[few.test.labels == digit][0] for digit in range(10)]
    model = model_of(torch.stack(firsts))
    found = samples.sample_figures(model, few, read_by, generator())
    assert found.figures.keys() == found.errors.keys()
    for name in found.figures:
        known = metric(f"test/{name}")
        assert known.unit or known.share, name
    assert "the ceiling" in metric("test/digit_recall_real").words
    assert "digit_frechet_shuffled" in found.figures
    assert "frechet_shuffled" not in found.figures


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

"""Samples beside real images: sets that are the real ones, copies, and noise."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cvae import classifier, mnist
from cvae.evaluation import samples
from cvae.evaluation.estimator import Measured
from cvae.evaluation.metrics import metric
from cvae.model import CVAE
from cvae.run import classifiers
from tests.conftest import generator, linear


@pytest.fixture(scope="module")
def few(shipped: mnist.MNIST) -> mnist.MNIST:
    """600 images of each part."""
    train, validation, test = (
        mnist.Images(part.images[:600], part.labels[:600])
        for part in (shipped.train, shipped.validation, shipped.test)
    )
    return mnist.MNIST(train, validation, test, shipped.shape, shipped.sha256)


@pytest.fixture(scope="module")
def read_by() -> classifier.Classifier:
    found = classifiers.published()
    assert found is not None
    return found[0]


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


def first_of_each(data: mnist.Images) -> Tensor:
    return torch.stack([data.images[data.labels == d][0] for d in range(10)])


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


def test_one_image_a_digit_is_precise_and_has_no_recall(
    few: mnist.MNIST, read_by: classifier.Classifier
) -> None:
    real = first_of_each(few.test)
    some = mnist.Images(real[few.test.labels], few.test.labels)
    figures = judged(few, read_by, some).figures
    assert figures["digit_precision"] == 1
    assert figures["digit_recall"] < 0.1
    assert figures["digit_diversity"] == pytest.approx(0, abs=1e-3)


def test_the_error_of_the_distance_is_its_spread_over_sets_of_images() -> None:
    random, found = generator(), []
    for _ in range(30):
        one, two = torch.randn(2, 200, 3, generator=random)
        found.append(samples.compare_features(one + 1, two, random))
    spread = torch.tensor([m.figures["frechet"] for m in found]).std()
    errors = torch.tensor([m.errors["frechet"] for m in found])
    assert float(errors.mean()) == pytest.approx(float(spread), rel=0.35)


def test_the_mean_over_digits_has_the_error_of_a_mean() -> None:
    parts = [Measured({"a": 1.0}, {"a": 0.3}), Measured({"a": 3.0}, {"a": 0.4})]
    found = samples.mean_over_digits(parts)
    assert found.figures == {"a": 2.0}
    assert found.errors == {"a": 0.25}


def test_copies_are_called_copies_and_other_images_are_not(few: mnist.MNIST) -> None:
    copied = samples.memorisation(few.train, few)
    assert copied.figures["copied"] == 1
    assert copied.figures["nearest_train"] == pytest.approx(0, abs=1e-4)
    fair = samples.memorisation(few.test, few)
    error = fair.errors["copied"]
    assert 0.5 / 600**0.5 < error < 1 / 600**0.5
    assert fair.figures["copied"] == pytest.approx(0.5, abs=4 * error)
    assert fair.figures["nearest_train"] == fair.figures["nearest_train_real"]


def test_one_sample_drawn_again_and_again_is_one_witness(few: mnist.MNIST) -> None:
    found = samples.copied_share(few.test.images[:1].expand(600, -1), few)
    assert found.figures["copied"] in (0, 1)
    assert found.errors["copied"] == 0.5


def test_the_neighbours_shown_are_the_nearest_training_images(few: mnist.MNIST) -> None:
    arrays = samples.memorisation(few.test, few).arrays
    assert arrays["sample_labels"][:10].tolist() == list(range(10))
    train = mnist.pixels(few.train.images)
    for sample, neighbour, apart in zip(
        *(arrays[name] for name in ("samples", "neighbours", "apart")), strict=True
    ):
        away = (train - mnist.pixels(sample.flatten())).norm(dim=1)
        assert float(apart) == pytest.approx(float(away.min()), rel=1e-4)
        best = int(away.argmin())
        assert torch.equal(neighbour.flatten(), few.train.images[best])
    assert arrays["samples"].shape == (20, 28, 28)
    assert (arrays["apart"][10:] <= arrays["apart"][:10]).all()


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
    model = model_of(first_of_each(few.test))
    found = samples.sample_figures(model, few, read_by, generator())
    assert found.figures.keys() == found.errors.keys()
    for name in found.figures:
        assert metric(f"test/{name}").unit, name
    assert "the ceiling" in metric("test/digit_recall_real").words
    assert "digit_frechet_shuffled" in found.figures
    assert "frechet_shuffled" not in found.figures


def test_a_plain_model_has_no_figures_by_digit(
    few: mnist.MNIST, read_by: classifier.Classifier
) -> None:
    plain = model_of(few.test.images[:10], conditional=False)
    found = samples.sample_figures(plain, few, read_by, generator())
    assert {"frechet", "recall_draws", "copied"} <= found.figures.keys()
    assert not [n for n in found.figures if "digit" in n or "accuracy" in n]
    assert "sample_labels" not in found.arrays


def test_another_data_set_than_the_judges_has_the_figures_that_need_no_judge(
    few: mnist.MNIST, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "EPOCHS", 1)
    found = samples.sample_figures(
        model_of(first_of_each(few.test)), few, None, generator()
    )
    stems = {name.partition("_")[0] for name in found.figures}
    assert stems == {"nearest", "copied", "classification"}


def test_few_training_images_leave_the_ceiling_out_and_it_is_said(
    few: mnist.MNIST, caplog: pytest.LogCaptureFixture
) -> None:
    twelve = mnist.Images(few.train.images[:12], few.train.labels[:12])
    small = replace(few, train=twelve)
    sets = samples.sample_sets(model_of(first_of_each(few.test)), small, generator())
    assert list(sets) == ["", "_draws", "_shuffled"]
    assert "too few training images" in caplog.text

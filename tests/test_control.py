"""Control on constructed models: which ignore the label or z, or let z carry it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from cvae import classifier, control, mnist
from cvae.model import CVAE
from cvae.run import classifiers
from tests.conftest import generator, linear


@pytest.fixture(scope="module")
def digits(shipped: mnist.MNIST, read_by: classifier.Classifier) -> Tensor:
    """Logits (10, 784) of one test image a digit that the judge reads right."""
    labels, _ = classifier.read(read_by, mnist.pixels(shipped.test.images[:500]))
    right = (labels == shipped.test.labels[:500]).nonzero()[:, 0]
    places = [right[shipped.test.labels[right] == digit][0] for digit in range(10)]
    pixels = mnist.pixels(shipped.test.images[torch.stack(places)])
    return torch.logit(pixels, eps=1e-3)


def constructed(*, latent_dim: int = 10, prior: str = "standard") -> CVAE:
    """A linear model, all weights 0: q(z|x,y) is N(0, I), every pixel is ½."""
    model = CVAE(latent_dim=latent_dim, hidden=(), prior=prior, generator=generator())
    with torch.no_grad():
        for part in model.parameters():
            part.zero_()
    return model


def measured(
    model: CVAE, data: mnist.MNIST, by: classifier.Classifier
) -> dict[str, float]:
    return control.control(model, data.test, by, generator())


def test_a_model_that_does_not_use_z_is_always_right(
    shipped: mnist.MNIST, read_by: classifier.Classifier, digits: Tensor
) -> None:
    model = constructed()
    with torch.no_grad():
        linear(model.decoder, 0).weight[:, 10:] = digits.T
    figures = measured(model, shipped, read_by)
    assert figures["label_fidelity"] == figures["label_fidelity_worst"] == 1
    assert figures["transfer_fidelity"] == 1
    assert figures["sample_diversity"] == pytest.approx(0, abs=1e-3)
    assert figures["sample_coverage"] < 0.2  # always the same image: that is no control


def test_a_model_that_ignores_its_label_is_right_by_chance(
    shipped: mnist.MNIST, read_by: classifier.Classifier, digits: Tensor
) -> None:
    model = constructed()
    with torch.no_grad():
        linear(model.decoder, 0).bias.copy_(digits[3])
    figures = measured(model, shipped, read_by)
    assert figures["label_fidelity"] == pytest.approx(0.1)
    assert figures["label_fidelity_worst"] == 0
    others = int((shipped.test.labels[: control.TRANSFERRED] != 3).sum())
    chance = others / (9 * control.TRANSFERRED)
    assert figures["transfer_fidelity"] == pytest.approx(chance)


def test_z_that_carries_the_digit_is_carried_over_through_the_priors(
    shipped: mnist.MNIST, read_by: classifier.Classifier, digits: Tensor
) -> None:
    model = constructed(prior="learned")
    assert model.prior_table is not None
    with torch.no_grad():
        means = 40 * torch.eye(10)
        model.prior_table[:, :10] = means  # p(z given y): near 40 e_y
        model.prior_table[:, 10:] = -8
        linear(model.decoder, 0).weight[:, :10] = digits.T / 40
        linear(model.encoder, 0).weight[:10, 784:] = means
    figures = measured(model, shipped, read_by)
    assert figures["label_fidelity"] == 1
    assert figures["transfer_fidelity"] == 1
    assert figures["label_in_z"] < 0.25  # in units of its prior z does not know it


def test_the_published_judge_is_that_of_the_shipped_data_and_reads_as_recorded(
    shipped: mnist.MNIST, tmp_path: Path
) -> None:
    found = classifiers.published()
    assert found is not None
    accuracy = found[1]["test_accuracy"]
    assert classifiers.classifier_of(shipped.digest, tmp_path) == (found[0], accuracy)
    assert classifiers.classifier_of("0" * 32, tmp_path) is None
    read = classifier.accuracy(found[0], shipped.test)
    assert 0.994 <= read == pytest.approx(accuracy, abs=2e-4)
    assert (classifiers.PUBLISHED / "judge.safetensors").stat().st_size < 1_000_000


def test_a_plain_vae_and_few_images_are_not_judged(shipped: mnist.MNIST) -> None:
    test = shipped.test
    plain = CVAE(latent_dim=2, hidden=(), conditional=False, generator=generator())
    assert not control.can_be_judged(plain, test)
    assert control.can_be_judged(constructed(), test)
    fives = (test.labels == 5).nonzero()[: control.NEIGHBOURS, 0]
    rows = torch.cat([(test.labels != 5).nonzero()[:, 0], fives])
    few = mnist.Images(test.images[rows], test.labels[rows])
    assert not control.can_be_judged(constructed(), few)

"""Labels by Bayes' rule, on probabilities that are made by hand."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import confusion_matrix, log_loss
from torch import Tensor
from torch.distributions import Bernoulli

from cvae import likelihood, mnist
from cvae.evaluation import labels
from cvae.evaluation.estimator import Measured
from tests.conftest import generator
from tests.evaluation import made


def test_the_true_labels_change_no_probability_and_no_score() -> None:
    """Bit-equal p(y given x) and scores of what is no digit, with labels permuted."""
    made_, data = made.model(3), made.images(40, pixels=16)
    asked = made.request(1, 40)
    permuted = mnist.Images(data.images, data.labels.roll(7))
    one, other = (labels.labels(made_, some, asked) for some in (data, permuted))
    assert torch.equal(one.per_image["label_named"], other.per_image["label_named"])
    scores = [
        {k: v for k, v in found.figures.items() if k.startswith("auroc")}
        for found in (one, other)
    ]
    assert scores[0] == scores[1]
    assert one.figures["label_accuracy_is40"] != other.figures["label_accuracy_is40"]
    logs = [
        labels.label_likelihoods(made_, some.images, generator(), samples=40)
        for some in (data, permuted)
    ]
    assert torch.equal(*logs)


def test_draws_within_reach_name_what_even_draws_name() -> None:
    data = made.images(60, pixels=16)
    made_ = made.model(1)
    found = labels.label_likelihoods(made_, data.images, generator(1), samples=3000)
    even = likelihood.label_likelihoods(made_, data, generator(2), samples=3000)
    apart = (found.log_softmax(1).exp() - even.log_softmax(1).exp()).abs()
    assert float(apart.max()) < 0.05


def images(y: Tensor, size: int = 4) -> mnist.Images:
    x = torch.randint(256, (len(y), size), generator=generator(2), dtype=torch.uint8)
    return mnist.Images(x, y)


def measured(logs: Tensor, y: Tensor) -> Measured:
    return labels.classification(logs, images(y), generator(), samples=5)


def constructed(count: int = 4000) -> tuple[Tensor, Tensor]:
    """log p(x given y) of labels drawn from their own posterior, (N, 10) and (N,)."""
    logs = 3 * torch.randn(count, 10, generator=generator()).double() - 100
    y = torch.multinomial(logs.softmax(1), 1, generator=generator(1))[:, 0]
    return logs, y


def test_the_figures_are_those_of_scikit_learn() -> None:
    logs, y = constructed(500)
    found, p = measured(logs, y), logs.softmax(1)
    named = p.argmax(1)
    figures = found.figures
    assert figures["label_accuracy_is5"] == pytest.approx(
        float((named == y).double().mean())
    )
    wanted = log_loss(y.numpy(), p.numpy(), labels=range(10))
    assert figures["label_log_loss_is5"] == pytest.approx(wanted, rel=1e-9)
    matrix = confusion_matrix(y.numpy(), named.numpy(), labels=range(10))
    assert torch.equal(found.arrays["confusion"], torch.from_numpy(matrix))


def test_the_calibration_error_is_its_definition_on_three_bins() -> None:
    confidence = torch.tensor([0.50, 0.52, 0.90, 0.92, 0.92, 1.0])
    right = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 1.0])
    # bins of 1/15: (0.467, 0.533], (0.867, 0.933], (0.933, 1]
    wanted = (2 * abs(0.5 - 0.51) + 3 * abs(2 / 3 - 2.74 / 3) + 0) / 6
    assert labels.calibration_error(confidence, right) == pytest.approx(wanted)
    table = labels.reliability(confidence, right)
    assert table.shape == (15, 3)
    assert table[:, 0].nonzero()[:, 0].tolist() == [7, 13, 14]
    assert table[13].tolist() == pytest.approx([0.5, 2.74 / 3, 2 / 3])
    assert table[0, 1:].isnan().all()


def test_likelihoods_tell_apart_what_they_order_and_the_ratio_takes_pixels_off() -> (
    None
):
    digits = images(torch.arange(60) % 10)
    dark = torch.zeros(50, 4, dtype=torch.uint8)
    others = {"same": digits.images, "dark": dark, "grey": dark + 128}
    mean = torch.tensor([0.2, 0.5, 0.9, 0.4])

    def likelihoods(some: mnist.Images, name: str = "") -> Tensor:
        """Independent pixels with the mean image, and 9 more nats for the last one."""
        x = mnist.pixels(some.images)
        log_p: Tensor = Bernoulli(mean, validate_args=False).log_prob(x).sum(1)
        return (log_p + 9 * x[:, 3]).double()[:, None].expand(-1, 10)

    found = labels.out_of_distribution(
        digits, likelihoods(digits), others, mean, likelihoods, generator(), samples=5
    )
    figures, scores = found.figures, likelihoods(digits)[:, 0]
    assert figures["auroc_same_is5"] == pytest.approx(0.5)
    of_dark = float((1 - mean).log().sum())
    wanted = float((scores > of_dark).double().mean())
    assert figures["auroc_dark_is5"] == pytest.approx(wanted)
    wanted = float((digits.images[:, 3] > 128).double().mean())
    assert figures["auroc_ratio_grey_is5"] == pytest.approx(wanted)
    assert figures["auroc_ratio_same_is5"] == pytest.approx(0.5)
    assert 0 < found.errors["auroc_same_is5"] < 0.1

"""Figures of an evaluation: what stands on which axis, and under which name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.drawing import evaluation_plots
from analysis.drawing.plates import Plate
from cvae.evaluation.estimator import Measured

FACTS = {"samples": 10}


def axes_of(plates: Sequence[Plate], at: int = 0) -> Axes:
    """Those of the first figure."""
    figure = plates[0].figure
    assert isinstance(figure, Figure)
    return figure.axes[at]


def test_true_labels_are_rows_and_named_labels_columns() -> None:
    confusion = torch.zeros(10, 10, dtype=torch.int64).fill_diagonal_(9)
    confusion[3, 5] = 7  # true label 3, named 5
    arrays = {
        "confusion": confusion,
        "reliability": torch.tensor([[0.5, 0.2, 0.3], [0.5, 0.9, 0.8]]),
        "wrong_images": torch.zeros(0, 28, 28),
    }
    error = {"label_calibration_error_is5": 0.1}
    measured = Measured(error, error, {}, arrays)
    axes = axes_of(evaluation_plots.draw_labels(measured, FACTS), 1)
    (mistake,) = [text for text in axes.texts if text.get_text() == "7"]
    assert mistake.get_position() == (5, 3)
    assert "named by the model" in axes.get_xlabel()
    assert "true label" in axes.get_ylabel()


def test_the_lower_bound_is_the_lower_one() -> None:
    lower, upper = torch.tensor([-91.0, -92.0]), torch.tensor([-89.0, -90.0])
    arrays = {"lower": lower, "upper": upper, "sampled": torch.tensor([-90.0, -91.0])}
    measured = Measured({}, {}, {}, arrays)
    axes = axes_of(evaluation_plots.draw_certified(measured, FACTS))
    lines: dict[Any, Any] = {line.get_label(): line for line in axes.get_lines()}
    assert np.asarray(lines["lower bound"].get_ydata()) == pytest.approx(-1)
    assert np.asarray(lines["upper bound"].get_ydata()) == pytest.approx(1)


def test_rate_is_on_the_horizontal_axis() -> None:
    arrays = {"betas": torch.tensor([0.5, 1.0]), "rate": torch.tensor([5.0, 9.0])}
    arrays |= {"distortion": torch.tensor([99.0, 90.0]), "own": torch.tensor([9.0, 95])}
    measured = Measured({}, {}, {"rd_rate": torch.zeros(4)}, arrays)
    axes = axes_of(evaluation_plots.draw_rate_distortion(measured, FACTS))
    model: dict[Any, Any] = {line.get_label(): line for line in axes.get_lines()}
    line = model["the model: −ELBO"]
    assert (float(line.get_xdata()[0]), float(line.get_ydata()[0])) == (9.0, 95.0)
    assert axes.get_xlabel().startswith("rate")
    assert axes.get_ylabel().startswith("distortion")


def test_metrics_of_one_image_are_drawn_without_standard_errors() -> None:
    terms = {"information_in_digit": 0.0, "aggregate_kl": 0.2, "kl": 0.2}
    figures = terms | {"information": 0.0, "information_upper": 0.1, "active_units": 1}
    arrays = {"kl_per_dim": torch.tensor([0.2, 0.0]), "variance": torch.zeros(2)}
    arrays |= {"u": torch.zeros(1, 2), "prior_u": torch.zeros(1, 2)}
    images = {"information": torch.zeros(1)}
    plates = evaluation_plots.draw_latents(Measured(figures, {}, images, arrays), FACTS)
    assert len(plates) == 2

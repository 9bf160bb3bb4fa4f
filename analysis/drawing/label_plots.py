"""Figures of p(y given x): can it be trusted, what does it confuse, and where."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from analysis.drawing import style
from analysis.drawing.axes import name_axes
from analysis.drawing.plates import Plate
from cvae.evaluation.estimator import Measured
from cvae.run.evaluation import Facts

BLUE, ORANGE = style.COLOURS[:2]
CELL: dict[str, Any] = {"ha": "center", "va": "center", "size": 6}
COLUMNS, ROWS = 10, 4  # of the images that are named wrongly


def draw_labels(measured: Measured, facts: Facts) -> list[Plate]:
    """The reliability diagram beside the confusion matrix, and the mistakes."""
    figure = style.figure(3.4)
    left, right = figure.subplots(1, 2)
    _reliability(left, measured)
    _confusion(right, measured)
    caption = (
        "Left: test images in 15 bins of confidence, the probability of the label that "
        "the model names, with the accuracy in each bin; a calibrated model lies on "
        "the dashed line. Grey: the share of the images in each bin. Right: test "
        "images by true label (rows) and label named by the model (columns)."
    )
    plates = [Plate("labels", figure, caption)]
    if len(measured.arrays["wrong_images"]):
        plates.append(misclassified(measured))
    return plates


def _reliability(axes: Axes, measured: Measured) -> None:
    share, sure, hits = measured.arrays["reliability"].numpy().T
    edges = np.linspace(0, 1, len(share) + 1)
    axes.bar(edges[:-1], share, np.diff(edges), align="edge", color="#dddddd")
    axes.plot([0, 1], [0, 1], "--", color="0.2", lw=0.8)
    some = share > 0
    axes.plot(sure[some], hits[some], "o-", color=BLUE, ms=4)
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    name_axes(axes, "labels")
    key = next(k for k in measured.figures if k.startswith("label_calibration_error"))
    error = measured.errors[key]
    axes.set_title(f"Calibration error {measured.figures[key]:.4f} ± {error:.4f}")


def _confusion(axes: Axes, measured: Measured) -> None:
    counts = measured.arrays["confusion"].numpy()
    wrong = counts * (1 - np.eye(len(counts)))
    axes.imshow(wrong, cmap="Oranges", vmax=1.3 * max(1, wrong.max()))
    axes.grid(visible=False)
    for (row, column), count in np.ndenumerate(counts):
        words = f"{count}" if count else ""
        weight = "bold" if row == column else "normal"
        axes.text(column, row, words, weight=weight, **CELL)
    digits = range(len(counts))
    axes.set(xticks=digits, yticks=digits)
    name_axes(axes, "labels", 1)
    axes.set_title(f"{int(wrong.sum())} of {int(counts.sum()):,} classified wrongly")


def misclassified(measured: Measured) -> Plate:
    """The images that are named wrongly, the surest first, each with its runner-up."""
    images = measured.arrays["wrong_images"].numpy()[: COLUMNS * ROWS]
    said = measured.arrays["wrong_said"].numpy()
    rows = -(-len(images) // COLUMNS)
    figure = style.figure(0.3 + 1.12 * rows)
    every = figure.subplots(rows, COLUMNS, squeeze=False).flat
    for axes, image, (true, named, second, behind) in zip(
        every, images, said, strict=False
    ):
        axes.imshow(image, vmin=0, vmax=255)
        axes.set_xlabel(
            f"{named:.0f}, then {second:.0f}: {behind:.1f}",
            size=6,
            color=ORANGE if second != true else "0.2",
        )
        axes.set_title(f"{true:.0f}", size=8, loc="center", pad=2)
        axes.set(xticks=[], yticks=[])
    for axes in every[len(images) :]:
        axes.remove()
    total = int(measured.arrays["wrong_count"])
    style.title(figure, f"{len(images)} of {total} test images classified wrongly")
    share = 100 * int(measured.arrays["wrong_second"]) / total
    caption = (
        "Above each image: its label. Below: the label named by the model, the label "
        "in second place, and how many nats its log p(x given y) is behind. The most "
        "confident mistakes come first. The second label is the true one in "
        f"{share:.0f} % of all mistakes; orange marks an image where it is not."
    )
    return Plate("mistakes", figure, caption)

"""Figures of the samples: do they copy, and how far are they from real images."""

from __future__ import annotations

import numpy as np

from analysis.drawing import style
from analysis.drawing.axes import name_axes
from analysis.drawing.plates import Plate
from cvae.evaluation.estimator import Measured
from cvae.run.evaluation import Facts

BLUE, _, GREEN = style.COLOURS[:3]
SETS = {  # suffix: words, colour
    "": ("decoder means", BLUE),
    "_draws": ("Bernoulli draws", style.COLOURS[5]),
    "_real": ("training images (ceiling)", GREEN),
    "_shuffled": ("shuffled labels (floor)", "#bbbbbb"),
}
SHARES = {  # what a bar may show: all of them are 1 at best
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "digit_precision": "precision\nby digit",
    "digit_recall": "recall\nby digit",
    "digit_density": "density\nby digit",
    "digit_coverage": "coverage\nby digit",
    "classification_accuracy": "class.\naccuracy",
}


def draw_samples(measured: Measured, facts: Facts) -> list[Plate]:
    """The figures as bars beside ceiling and floor, and the nearest training images."""
    return [*bars(measured), neighbours(measured)]


def bars(measured: Measured) -> list[Plate]:
    """Every figure that is 1 at best, of samples and of what they stand beside."""
    names = [name for name in SHARES if name in measured.figures]
    if not names:
        return []
    sets = [s for s in SETS if any(f"{name}{s}" in measured.figures for name in names)]
    figure = style.figure(3.0)
    axes = figure.subplots()
    width = 0.8 / len(sets)
    for at, suffix in enumerate(sets):
        words, colour = SETS[suffix]
        here = [
            k for k, name in enumerate(names) if f"{name}{suffix}" in measured.figures
        ]
        keys = [f"{names[k]}{suffix}" for k in here]
        axes.bar(
            np.array(here) + (at - (len(sets) - 1) / 2) * width,
            [measured.figures[key] for key in keys],
            width,
            yerr=[measured.errors.get(key, 0.0) for key in keys],
            color=colour,
            label=words,
            error_kw={"lw": 0.8},
        )
    axes.set_xticks(range(len(names)), [SHARES[name] for name in names], size=8)
    axes.axhline(1, color="0.2", lw=0.6)
    name_axes(axes, "samples")
    axes.grid(visible=False, axis="x")
    figure.legend(loc="outside upper left", ncols=len(sets), fontsize=8)
    caption = (
        "Samples compared with the test images by the features of a CNN, over all "
        "images and within each digit; and the test accuracy of a classifier trained "
        "on samples alone. Density may exceed 1."
    )
    return [Plate("samples", figure, caption)]


def neighbours(measured: Measured) -> Plate:
    """Samples over their nearest training images: is it copying?"""
    arrays = measured.arrays
    samples, near = arrays["samples"].numpy(), arrays["neighbours"].numpy()
    columns = len(samples) // 2
    figure = style.figure(3.9)
    every = figure.subplots(4, columns)
    for at, apart in enumerate(arrays["apart"].tolist()):
        top, column = 2 * (at // columns), at % columns
        for axes, image in zip(
            every[top : top + 2, column], (samples[at], near[at]), strict=True
        ):
            axes.imshow(image, vmin=0, vmax=255)
            axes.set(xticks=[], yticks=[])
        every[top + 1, column].set_xlabel(f"{apart:.1f}", size=7)
    for row, words in enumerate(("sample", "training", "sample", "training")):
        every[row, 0].set_ylabel(words, size=8)
    style.title(figure, "Samples, and the training image nearest to each")
    copied, mean, real = (
        measured.figures[name]
        for name in ("copied", "nearest_train", "nearest_train_real")
    )
    digit = "digit" if "sample_labels" in arrays else "tenth"
    caption = (
        f"Upper pair of rows: the first sample of each {digit}; lower pair: of each "
        f"{digit} the sample nearest to a training image. Below each pair: its "
        f"Euclidean distance, pixels in [0, 1]; the mean is {mean:.2f}, and {real:.2f} "
        "for test images. Among equally many training and held-out images, a training "
        f"image is the nearer one for {100 * copied:.1f} ± "
        f"{100 * measured.errors['copied']:.1f} % of the samples; 50 % means no "
        "copying."
    )
    return Plate("neighbours", figure, caption)

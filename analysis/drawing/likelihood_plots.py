"""Figures of the likelihood and of what stands between it and the bound."""

from __future__ import annotations

import numpy as np

from analysis.drawing import style
from analysis.drawing.plates import Plate
from cvae.evaluation.measured import Measured
from cvae.run.measurements import Facts

BLUE = style.COLOURS[0]


def draw_nll(found: Measured, facts: Facts) -> list[Plate]:
    """The estimate by its number of draws, and each image's effective sample size."""
    samples = facts["samples"]
    names = [name for name in found.figures if name.startswith("nll_is")]
    counts = [int(name.removeprefix("nll_is")) for name in names]
    values = np.array([found.figures[name] for name in names])
    errors = np.array([found.errors.get(name, 0.0) for name in names])
    figure = style.figure(2.9)
    left, right = figure.subplots(1, 2)
    left.fill_between(
        counts,
        values - errors,
        values + errors,
        color=BLUE,
        alpha=0.2,
        lw=0,
    )
    left.plot(counts, values, "o-", color=BLUE, ms=4)
    left.set_xscale("log")
    left.set(xlabel="draws K of z an image", ylabel="nll, nats per image")
    left.set_title("The estimate by its draws")
    ess = found.per_image[f"ess_is{samples}"].clamp(min=1).numpy()
    edges = np.geomspace(1, max(samples, 2), 40)
    right.hist(ess, edges, color=BLUE)
    right.set_xscale("log")
    right.set(xlabel=f"effective draws of {samples:,}", ylabel="test images")
    right.set_title("How many draws count")
    caption = (
        "Left: −log p(x given y) by importance sampling; the curve is flat once it has "
        "settled. All K share the same draws; at K = 1 it is −ELBO. The band is the "
        "standard error over images, common to all K. Right: the effective sample "
        "size of every image; where it is near 1, one draw decides."
    )
    return [Plate("nll", figure, caption)]

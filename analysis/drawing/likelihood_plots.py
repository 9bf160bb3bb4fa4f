"""Figures of the likelihood and of what stands between it and the bound."""

from __future__ import annotations

import numpy as np

from analysis.drawing import style
from analysis.drawing.axes import name_axes
from analysis.drawing.plates import Plate
from cvae.evaluation.estimator import Measured
from cvae.run.evaluation import Facts

BLUE = style.COLOURS[0]
ORANGE = style.COLOURS[1]


def draw_nll(measured: Measured, facts: Facts) -> list[Plate]:
    """The estimate by its number of draws, and each image's effective sample size."""
    samples = facts["samples"]
    names = [name for name in measured.figures if name.startswith("nll_is")]
    counts = [int(name.removeprefix("nll_is")) for name in names]
    values = np.array([measured.figures[name] for name in names])
    errors = np.array([measured.errors.get(name, 0.0) for name in names])
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
    if (truth := measured.figures.get("nll_quadrature")) is not None:
        left.axhline(truth, color=ORANGE, lw=1, label="the integral itself")
        left.legend()
    left.set_xscale("log")
    name_axes(left, "nll")
    left.set_title("The estimate by number of draws")
    ess = measured.per_image[f"ess_is{samples}"].clamp(min=1).numpy()
    edges = np.geomspace(1, max(samples, 2), 40)
    right.hist(ess, edges, color=BLUE)
    right.set_xscale("log")
    name_axes(right, "nll", 1, samples=f"{samples:,}")
    right.set_title("Effective sample size")
    caption = (
        "Left: −log p(x given y) by importance sampling; a flat curve has converged. "
        "All K share the same draws; at K = 1 the estimate is −ELBO. The band is the "
        "standard error over images. Right: the effective sample size per image; near "
        "1, a single draw decides."
    )
    return [Plate("nll", figure, caption)]


def draw_certified(measured: Measured, facts: Facts) -> list[Plate]:
    """The interval of each simulated image, around its importance-sampled estimate."""
    lower, upper, sampled = (
        measured.arrays[name].numpy() for name in ("lower", "upper", "sampled")
    )
    low, high = lower - sampled, upper - sampled
    order = np.argsort(low + high)
    figure = style.figure(2.9)
    axes = figure.subplots()
    places = np.arange(len(order))
    axes.vlines(places, np.minimum(low, high)[order], np.maximum(low, high)[order])
    axes.plot(places, low[order], ".", color=BLUE, ms=4, label="lower bound")
    axes.plot(places, high[order], ".", color=ORANGE, ms=4, label="upper bound")
    axes.axhline(0, color="black", lw=0.8)
    axes.set_yscale("symlog", linthresh=0.1)
    name_axes(axes, "certified")
    figure.legend(loc="outside right upper")
    style.title(figure, f"Bounds around {facts['samples']:,} importance samples")
    caption = (
        "Images drawn by the model itself. 0 is the importance-sampled estimate of log "
        "p(x given y); blue is the annealed lower bound, orange the upper bound. They "
        "hold in expectation: single ones may cross. Where both lie above 0, "
        "importance sampling has missed part of p(z given x, y). The vertical axis is "
        "linear between −0.1 and 0.1."
    )
    return [Plate("certified", figure, caption)]


def draw_gaps(measured: Measured, facts: Facts) -> list[Plate]:
    """Both gaps: their mean as a bar, and how they are spread over the images."""
    names = ("approximation_gap", "amortisation_gap")
    words = ("approximation: the family of q", "amortisation: the encoder")
    figure = style.figure(2.6)
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    bottom = 0.0
    for name, text, colour in zip(names, words, (BLUE, ORANGE), strict=True):
        value, error = measured.figures[name], measured.errors.get(name, 0.0)
        left.bar(0, value, 0.5, bottom, color=colour, yerr=error, capsize=3, label=text)
        bottom += value
    left.set(xlim=(-0.6, 0.6), xticks=[])
    name_axes(left, "gaps")
    left.set_title("Mean")
    both = np.concatenate([measured.per_image[name].numpy() for name in names])
    edges = np.linspace(both.min(), np.quantile(both, 0.99), 50)
    for name, colour in zip(names, (BLUE, ORANGE), strict=True):
        values = measured.per_image[name].numpy()
        right.hist(values, edges, color=colour, histtype="step", lw=1.3)
    name_axes(right, "gaps", 1)
    right.set_title("By image")
    figure.legend(loc="outside lower center", ncols=2)
    caption = (
        "The gap between the bound and the likelihood. The best diagonal Gaussian of "
        "each image leaves the approximation gap; the encoder loses the amortisation "
        "gap by not finding that Gaussian. Lines are standard errors; the highest 1 % "
        "of the images is not shown."
    )
    return [Plate("gaps", figure, caption)]


def draw_rate_distortion(measured: Measured, facts: Facts) -> list[Plate]:
    """The curve of the decoder, and the model's own point."""
    betas, rate, distortion = (
        measured.arrays[name].numpy() for name in ("betas", "rate", "distortion")
    )
    own_rate, own_distortion = measured.arrays["own"].tolist()
    shown = betas > 0.02
    figure = style.figure(3.4)
    axes = figure.subplots()
    axes.plot(rate[shown], distortion[shown], color=BLUE, label="the decoder's curve")
    at = int(np.abs(betas - 1).argmin())
    axes.plot(rate[at], distortion[at], "o", color=BLUE, label="its β = 1: −log p")
    axes.plot(own_rate, own_distortion, "s", color=ORANGE, label="the model: −ELBO")
    name_axes(axes, "rate_distortion")
    figure.legend(loc="outside right upper")
    style.title(figure, "Rate and distortion")
    images = max(map(len, measured.per_image.values()))
    caption = (
        f"Every rate and distortion that this decoder can have on {images} test "
        "images, from one annealing run (Huang et al. 2020). An encoder lies above the "
        f"curve; how far to the right is its excess of rate."
    )
    return [Plate("rate_distortion", figure, caption)]

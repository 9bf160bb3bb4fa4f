"""Pictures of an evaluation: likelihoods, p(y given x), samples, and what z carries."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from analysis.drawing import style
from analysis.drawing.plates import Plate
from analysis.reading import latent
from analysis.templates import caption
from cvae.evaluation.estimator import Measured
from cvae.evaluation.metrics import NATS
from cvae.likelihood import ACTIVE_VARIANCE
from cvae.run.evaluation import Facts

BLUE, ORANGE, GREEN = style.COLOURS[:3]
GREY = "#bbbbbb"
CELL: dict[str, Any] = {"ha": "center", "va": "center", "size": 6}
COLUMNS, ROWS = 10, 4  # of the images that are classified wrongly
SETS = {  # the end of a metric's name: words, colour
    "": ("decoder means", BLUE),
    "_draws": ("Bernoulli draws", style.COLOURS[5]),
    "_real": ("training images (ceiling)", GREEN),
    "_shuffled": ("shuffled labels (floor)", GREY),
}
SHARES = {  # metrics that are 1 at best
    **{name: name for name in ("precision", "recall", "density", "coverage")},
    "digit_precision": "precision\nby digit",
    "digit_recall": "recall\nby digit",
    "digit_density": "density\nby digit",
    "digit_coverage": "coverage\nby digit",
    "classification_accuracy": "class.\naccuracy",
}
DIMENSIONS = 6  # of z, whose density is drawn
BINS = np.linspace(-4, 4, 65)


def draw_nll(measured: Measured, facts: Facts) -> list[Plate]:
    """The estimate by its number of draws, and each image's effective sample size."""
    samples = facts["samples"]
    names = [name for name in measured.figures if name.startswith("nll_is")]
    counts = [int(name.removeprefix("nll_is")) for name in names]
    values = np.array([measured.figures[name] for name in names])
    errors = np.array([measured.errors.get(name, 0.0) for name in names])
    figure = style.figure(2.9)
    left, right = figure.subplots(1, 2)
    left.fill_between(counts, values - errors, values + errors, alpha=0.2, lw=0)
    left.plot(counts, values, "o-", color=BLUE, ms=4)
    if (truth := measured.figures.get("nll_quadrature")) is not None:
        left.axhline(truth, color=ORANGE, lw=1, label="the integral itself")
        left.legend()
    left.set(xscale="log", xlabel="K, draws of z per image (number)")
    left.set(ylabel=f"nll ({NATS})", title="The estimate by number of draws")
    ess = measured.per_image[f"ess_is{samples}"].clamp(min=1).numpy()
    right.hist(ess, np.geomspace(1, max(samples, 2), 40), color=BLUE)
    right.set(xscale="log", xlabel=f"effective draws, of {samples:,} (number)")
    right.set(ylabel="test images (number)", title="Effective sample size")
    return [Plate("nll", figure, caption("nll"))]


def draw_certified(measured: Measured, facts: Facts) -> list[Plate]:
    """The interval of each simulated image, around its importance-sampled estimate."""
    lower, upper, sampled = _arrays(measured, "lower", "upper", "sampled")
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
    axes.set(xlabel="images drawn by the model, sorted (number)")
    axes.set(ylabel="bound − estimate (nats)")
    figure.legend(loc="outside right upper")
    style.title(figure, f"Bounds around {facts['samples']:,} importance samples")
    return [Plate("certified", figure, caption("certified"))]


def draw_rate_distortion(measured: Measured, facts: Facts) -> list[Plate]:
    """The curve of the decoder, and the model's own point."""
    betas, rate, distortion = _arrays(measured, "betas", "rate", "distortion")
    own_rate, own_distortion = measured.arrays["own"].tolist()
    shown = betas > 0.02
    figure = style.figure(3.4)
    axes = figure.subplots()
    axes.plot(rate[shown], distortion[shown], color=BLUE, label="the decoder's curve")
    at = int(np.abs(betas - 1).argmin())
    axes.plot(rate[at], distortion[at], "o", color=BLUE, label="its β = 1: −log p")
    axes.plot(own_rate, own_distortion, "s", color=ORANGE, label="the model: −ELBO")
    axes.set(xlabel=f"rate ({NATS})", ylabel=f"distortion ({NATS})")
    figure.legend(loc="outside right upper")
    style.title(figure, "Rate and distortion")
    images = max(map(len, measured.per_image.values()))
    words = caption("decoder_curve", images=images)
    return [Plate("rate_distortion", figure, words)]


def draw_labels(measured: Measured, facts: Facts) -> list[Plate]:
    """The reliability diagram beside the confusion matrix, and the mistakes."""
    figure = style.figure(3.4)
    left, right = figure.subplots(1, 2)
    _reliability(left, measured)
    _confusion(right, measured)
    plates = [Plate("labels", figure, caption("labels"))]
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
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="confidence p(y given x) (share)")
    key = next(k for k in measured.figures if k.startswith("label_calibration_error"))
    error = f"{measured.figures[key]:.4f} ± {measured.errors[key]:.4f}"
    axes.set(ylabel="accuracy; grey: share of images")
    axes.set_title(f"Calibration error {error}")


def _confusion(axes: Axes, measured: Measured) -> None:
    counts = measured.arrays["confusion"].numpy()
    wrong = counts * (1 - np.eye(len(counts)))
    axes.imshow(wrong, cmap="Oranges", vmax=1.3 * max(1, wrong.max()))
    axes.grid(visible=False)
    for (row, column), count in np.ndenumerate(counts):
        weight = "bold" if row == column else "normal"
        axes.text(column, row, f"{count or ''}", weight=weight, **CELL)
    digits = range(len(counts))
    axes.set(xticks=digits, yticks=digits)
    axes.set(xlabel="label named by the model (digit)", ylabel="true label (digit)")
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
        words = f"{named:.0f}, then {second:.0f}: {behind:.1f}"
        axes.set_xlabel(words, size=6, color=ORANGE if second != true else "0.2")
        axes.set_title(f"{true:.0f}", size=8, loc="center", pad=2)
        axes.set(xticks=[], yticks=[])
    for axes in every[len(images) :]:
        axes.remove()
    total = int(measured.arrays["wrong_count"])
    style.title(figure, f"{len(images)} of {total} test images classified wrongly")
    share = 100 * int(measured.arrays["wrong_second"]) / total
    return Plate("mistakes", figure, caption("mistakes", share=share))


def draw_samples(measured: Measured, facts: Facts) -> list[Plate]:
    """The metrics beside ceiling and floor, and the nearest training images."""
    plates, figures = [neighbours(measured)], measured.figures
    if not (names := [name for name in SHARES if name in figures]):
        return plates
    sets = [s for s in SETS if any(f"{name}{s}" in figures for name in names)]
    figure = style.figure(3.0)
    axes = figure.subplots()
    width = 0.8 / len(sets)
    for at, suffix in enumerate(sets):
        words, colour = SETS[suffix]
        here = [k for k, name in enumerate(names) if f"{name}{suffix}" in figures]
        keys = [f"{names[k]}{suffix}" for k in here]
        axes.bar(
            np.array(here) + (at - (len(sets) - 1) / 2) * width,
            [figures[key] for key in keys],
            width,
            yerr=[measured.errors.get(key, 0.0) for key in keys],
            color=colour,
            label=words,
            error_kw={"lw": 0.8},
        )
    axes.set_xticks(range(len(names)), [SHARES[name] for name in names], size=8)
    axes.axhline(1, color="0.2", lw=0.6)
    axes.set(xlabel="metric", ylabel="value (1 is best)")
    axes.grid(visible=False, axis="x")
    figure.legend(loc="outside upper left", ncols=len(sets), fontsize=8)
    return [Plate("samples", figure, caption("samples")), *plates]


def neighbours(measured: Measured) -> Plate:
    """Samples over their nearest training images: is it copying?"""
    samples, near, apart = _arrays(measured, "samples", "neighbours", "apart")
    columns = len(samples) // 2
    figure = style.figure(3.9)
    every = figure.subplots(4, columns)
    for at, distance in enumerate(apart):
        top, column = 2 * (at // columns), at % columns
        for row, image in ((top, samples[at]), (top + 1, near[at])):
            every[row, column].imshow(image, vmin=0, vmax=255)
            every[row, column].set(xticks=[], yticks=[])
        every[top + 1, column].set_xlabel(f"{distance:.1f}", size=7)
    for row, words in enumerate(("sample", "training", "sample", "training")):
        every[row, 0].set_ylabel(words, size=8)
    style.title(figure, "Samples, and the training image nearest to each")
    digit = "digit" if "sample_labels" in measured.arrays else "tenth"
    values, errors = measured.figures, measured.errors
    words = caption("neighbours", figures=values, errors=errors, digit=digit)
    return Plate("neighbours", figure, words)


def draw_latents(measured: Measured, facts: Facts) -> list[Plate]:
    """The kl by dimension and by term; the aggregate posterior against the prior."""
    figure = style.figure(2.8)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _by_dimension(left, measured)
    _by_term(right, measured)
    most = math.log(len(measured.per_image["information"]))
    words = caption("information", figures=measured.figures, most=most)
    return [Plate("information", figure, words), aggregate_plate(measured)]


def _by_dimension(axes: Axes, measured: Measured) -> None:
    kl, variance = _arrays(measured, "kl_per_dim", "variance")
    order = latent.by_nats(kl)
    colours = np.where(variance[order] > ACTIVE_VARIANCE, BLUE, GREY)
    axes.bar(range(len(kl)), kl[order], color=list(colours))
    if len(kl) <= 24:
        axes.set_xticks(range(len(kl)), [f"{dim + 1}" for dim in order], size=7)
    active = int(measured.figures["active_units"])
    axes.set(xlabel="dimension of z, in the order of its nats", ylabel=f"kl ({NATS})")
    axes.set_title(f"{active} of {len(kl)} dimensions are active")
    axes.grid(visible=False, axis="x")


def _by_term(axes: Axes, measured: Measured) -> None:
    terms = {"information_in_digit": "I(x; z | y)"}
    if "marginal_kl" in measured.figures:
        terms |= {"label_information": "I(y; z)", "marginal_kl": "KL(q(z) ‖ p(z))"}
    else:
        terms["aggregate_kl"] = "KL(q(z|y) ‖ p(z|y))"
    values = [measured.figures[name] for name in terms]
    errors = [measured.errors.get(name, 0.0) for name in terms]
    places = range(len(terms))
    bars = axes.barh(places, values, xerr=errors, color=BLUE, error_kw={"lw": 0.8})
    axes.bar_label(bars, [f" {value:.2f}" for value in values], size=8)
    axes.set_yticks(places, list(terms.values()), size=8)
    axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.set(xlabel=f"part of the kl ({NATS})", ylabel="term")
    axes.grid(visible=False, axis="y")
    axes.set_title(f"kl = {measured.figures['kl']:.2f}, by term")


def aggregate_plate(measured: Measured) -> Plate:
    """Histograms of the dimensions with the most nats under the prior's."""
    kl, posterior, prior = _arrays(measured, "kl_per_dim", "u", "prior_u")
    order = latent.by_nats(kl)[:DIMENSIONS]
    columns = min(3, len(order))
    rows = -(-len(order) // columns)
    figure = style.figure(0.5 + 1.7 * rows)
    every = figure.subplots(rows, columns, squeeze=False, sharey=True).flat
    for axes, dim in zip(every, order, strict=False):
        axes.hist(prior[:, dim], BINS, density=True, color="#dddddd")
        axes.hist(posterior[:, dim], BINS, density=True, color=BLUE, histtype="step")
        axes.set(yticks=[], xlabel=f"z{dim + 1} (σ of the prior)", ylabel="density")
    for axes in every[len(order) :]:
        axes.remove()
    style.title(figure, "The aggregate posterior (blue) and the prior (grey)")
    return Plate("aggregate", figure, caption("aggregate"))


def _arrays(measured: Measured, *names: str) -> tuple[NDArray[Any], ...]:
    return tuple(measured.arrays[name].numpy() for name in names)

"""Figures of what z carries: nats by dimension, and the aggregate posterior."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from analysis.drawing import style
from analysis.drawing.plates import Plate
from cvae.evaluation.estimator import Measured
from cvae.likelihood import ACTIVE_VARIANCE
from cvae.run.evaluation import Facts

BLUE, RED = style.COLOURS[:2]
GREY = "#bbbbbb"
SHOWN = 6  # dimensions whose density is drawn
INFORMATION_MARGIN = 0.5  # nats: so near to its maximum the information is not known
BINS = np.linspace(-4, 4, 65)


def draw_latents(measured: Measured, facts: Facts) -> list[Plate]:
    """The kl by dimension and by term; the aggregate posterior against the prior."""
    return [kl_plate(measured), aggregate_plate(measured)]


def kl_plate(measured: Measured) -> Plate:
    """The kl by dimension of z, and taken apart into its terms."""
    figure = style.figure(2.8)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _by_dimension(left, measured)
    _by_term(right, measured)
    caption = (
        "Left: kl of each coordinate, in units of p(z given y), against N(0, 1); grey "
        "dimensions do not vary with the image. Right: the kl taken apart (Hoffman & "
        "Johnson 2016)."
    )
    most, value = math.log(len(measured.per_image["information"])), measured.figures
    if value["information"] > most - INFORMATION_MARGIN:
        caption += (
            f" I(x; z) is {value['information']:.2f} nats, and so many images cannot "
            f"show more than {most:.2f}: z tells each of them from all others, and the "
            "terms on the right say no more than that. Of all such images it is "
            f"{value['information_upper']:.2f} at most."
        )
    return Plate("information", figure, caption)


def _by_dimension(axes: Axes, measured: Measured) -> None:
    kl, variance = (measured.arrays[k].numpy() for k in ("kl_per_dim", "variance"))
    order = np.argsort(-kl, kind="stable")
    colours = np.where(variance[order] > ACTIVE_VARIANCE, BLUE, GREY)
    axes.bar(range(len(kl)), kl[order], color=list(colours))
    if len(kl) <= 24:
        axes.set_xticks(range(len(kl)), [f"{dim + 1}" for dim in order], size=7)
    active = int(measured.figures["active_units"])
    axes.set(xlabel="dimension of z, most nats first", ylabel="kl, nats per image")
    axes.set_title(f"{active} of {len(kl)} dimensions are active")
    axes.grid(visible=False, axis="x")


def _by_term(axes: Axes, measured: Measured) -> None:
    terms = {
        "information_in_digit": "I(x; z | y)",
        "aggregate_kl": "KL(q(z|y) ‖ p(z|y))",
    }
    if "marginal_kl" in measured.figures:
        del terms["aggregate_kl"]
        terms["label_information"] = "I(y; z)"
        terms["marginal_kl"] = "KL(q(z) ‖ p(z))"
    values = [measured.figures[name] for name in terms]
    bars = axes.barh(
        range(len(terms)),
        values,
        xerr=[measured.errors[name] for name in terms],
        color=BLUE,
        error_kw={"lw": 0.8},
    )
    axes.bar_label(bars, [f" {value:.2f}" for value in values], size=8)
    axes.set_yticks(range(len(terms)), list(terms.values()), size=8)
    axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.set(xlabel="nats per image")
    axes.grid(visible=False, axis="y")
    axes.set_title(f"They add up to the kl, {measured.figures['kl']:.2f}")


def aggregate_plate(measured: Measured) -> Plate:
    """Histograms of the dimensions with the most nats under the prior's."""
    order = np.argsort(-measured.arrays["kl_per_dim"].numpy(), kind="stable")[:SHOWN]
    columns = min(3, len(order))
    rows = -(-len(order) // columns)
    figure = style.figure(0.5 + 1.7 * rows)
    every = figure.subplots(rows, columns, squeeze=False, sharey=True).flat
    posterior, prior = (measured.arrays[name].numpy() for name in ("u", "prior_u"))
    look: dict[str, Any] = {"bins": BINS, "density": True, "histtype": "step"}
    for axes, dim in zip(every, order, strict=False):
        axes.hist(prior[:, dim], **look | {"histtype": "stepfilled"}, color="#dddddd")
        axes.hist(posterior[:, dim], **look, color=BLUE)
        axes.set(xlabel=f"z{dim + 1}", yticks=[])
    for axes in every[len(order) :]:
        axes.remove()
    style.title(figure, "The aggregate posterior (blue) and the prior (grey)")
    caption = (
        "One z of each test image, and as many draws from p(z given y) with the same "
        "labels, in units of p(z given y); those beyond ± 4 are not shown. Where blue "
        "is lower, samples come from where no image lies."
    )
    return Plate("aggregate", figure, caption)

"""Figures of what z carries: nats by dimension, and the aggregate posterior."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from analysis.drawing import style
from analysis.drawing.axes import name_axes
from analysis.drawing.plates import Plate
from analysis.reading import latent
from cvae.evaluation.estimator import Measured
from cvae.likelihood import ACTIVE_VARIANCE
from cvae.run.evaluation import Facts

BLUE = style.COLOURS[0]
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
        "Left: the kl of each dimension of z. Grey dimensions do not vary with the "
        "image. Right: the kl as a sum of terms (Hoffman & Johnson 2016)."
    )
    most, value = math.log(len(measured.per_image["information"])), measured.figures
    if value["information"] > most - INFORMATION_MARGIN:
        caption += (
            f" I(x; z) is {value['information']:.2f} nats, close to the most that this "
            f"number of images can show, {most:.2f}: z tells each image from all "
            "others, so the terms on the right are not informative. Over all such "
            f"images I(x; z) is at most {value['information_upper']:.2f}."
        )
    return Plate("information", figure, caption)


def _by_dimension(axes: Axes, measured: Measured) -> None:
    kl, variance = (measured.arrays[k].numpy() for k in ("kl_per_dim", "variance"))
    order = latent.by_nats(kl)
    colours = np.where(variance[order] > ACTIVE_VARIANCE, BLUE, GREY)
    axes.bar(range(len(kl)), kl[order], color=list(colours))
    if len(kl) <= 24:
        axes.set_xticks(range(len(kl)), [f"{dim + 1}" for dim in order], size=7)
    active = int(measured.figures["active_units"])
    name_axes(axes, "information")
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
    name_axes(axes, "information", 1)
    axes.grid(visible=False, axis="y")
    axes.set_title(f"The terms add up to the kl, {measured.figures['kl']:.2f}")


def aggregate_plate(measured: Measured) -> Plate:
    """Histograms of the dimensions with the most nats under the prior's."""
    order = latent.by_nats(measured.arrays["kl_per_dim"].numpy())[:SHOWN]
    columns = min(3, len(order))
    rows = -(-len(order) // columns)
    figure = style.figure(0.5 + 1.7 * rows)
    every = figure.subplots(rows, columns, squeeze=False, sharey=True).flat
    posterior, prior = (measured.arrays[name].numpy() for name in ("u", "prior_u"))
    look: dict[str, Any] = {"bins": BINS, "density": True, "histtype": "step"}
    for axes, dim in zip(every, order, strict=False):
        axes.hist(prior[:, dim], **look | {"histtype": "stepfilled"}, color="#dddddd")
        axes.hist(posterior[:, dim], **look, color=BLUE)
        axes.set(yticks=[])
        name_axes(axes, "aggregate", dimension=f"{dim + 1}")
    for axes in every[len(order) :]:
        axes.remove()
    style.title(figure, "The aggregate posterior (blue) and the prior (grey)")
    caption = (
        "One z per test image (blue), and one draw from p(z given y) with the same "
        "label (grey). z is in standard deviations of p(z given y); values beyond ± 4 "
        "are not shown. Where blue is lower, samples come from where no image lies."
    )
    return Plate("aggregate", figure, caption)

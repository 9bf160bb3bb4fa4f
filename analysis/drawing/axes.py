"""The name and unit of every axis of every figure, in one table."""

from __future__ import annotations

from matplotlib.axes import Axes

from cvae.evaluation import metrics

NATS = "nats per image"
# x and y of each panel, by the figure's name; {…} is filled in by the figure.
AXES: dict[str, tuple[tuple[str, str], ...]] = {
    "curves": (("epoch", "{metric}"),),
    "plane": (("rate, {rate}", "distortion, {distortion}"),),
    "control": (("bound, {bound}", "control, {fidelity}"),),
    "swept": (("{field}", "{metric}"),),
    "learning": (("training images seen", f"bound −neg_elbo, {NATS}"),),
    "posterior": (("{first}", "{second}"),),
    "nll": (
        ("K, draws of z per image (number)", f"nll ({NATS})"),
        ("effective draws, of {samples} (number)", "test images (number)"),
    ),
    "certified": (
        ("images drawn by the model, sorted (number)", "bound − estimate (nats)"),
    ),
    "gaps": (
        ("both gaps, one on the other", f"log p(x given y) − ELBO ({NATS})"),
        ("gap of an image (nats)", "test images (number)"),
    ),
    "rate_distortion": ((f"rate ({NATS})", f"distortion ({NATS})"),),
    "labels": (
        ("confidence p(y given x) (share)", "accuracy; grey: share of images"),
        ("label named by the model (digit)", "true label (digit)"),
    ),
    "samples": (("metric", "value (1 is best)"),),
    "information": (
        ("dimension of z, in the order of its nats", f"kl ({NATS})"),
        (f"part of the kl ({NATS})", "term"),
    ),
    "aggregate": (("z{dimension} (σ of the prior)", "density"),),
}


def name_axes(axes: Axes, figure: str, panel: int = 0, **values: str) -> None:
    """Write the names of both axes of a figure's panel."""
    across, up = (words.format(**values) for words in AXES[figure][panel])
    axes.set(xlabel=across, ylabel=up)


def metric_axis(key: str) -> str:
    """A metric as the name of an axis, with its unit: `test/kl (nats per image)`."""
    known = metrics.metric(key)
    unit = "share" if known.share else known.unit
    return f"{key} ({unit})" if unit else key

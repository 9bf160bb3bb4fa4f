"""Runs as points in a plane: rate and distortion, and the bound and its control."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from analysis.comparing.settings import Comparison, Setting, label, text
from analysis.drawing import style
from analysis.drawing.plates import Plate
from analysis.reading.runs import RunRow
from analysis.templates import caption
from cvae.evaluation import metrics
from cvae.evaluation.metrics import FIDELITY

SHOWN = 7  # settings told apart by colour
GREY = "#767676"
MARKERS, LINES = "osD^vPX", ("-", "--", ":", "-.")  # of networks
BETA = "objective.beta"
BOUND = "test/neg_elbo"
JUDGE = "test/judge_accuracy"
ISO: dict[str, Any] = {"color": "#cccccc", "lw": 0.8, "zorder": 0}


def rate_distortion(comparison: Comparison) -> Plate | None:
    """Rate against distortion on the test set (Alemi et al. 2018)."""
    part = comparison.metric.partition("/")[0]
    rate, distortion = f"{part}/kl", f"{part}/recon"
    points = _run_points(comparison, rate, distortion)
    if not points:
        return None
    figure, panel = _scatter(comparison, points, rate, distortion)
    names = metric_axis(rate), metric_axis(distortion)
    panel.set(xlabel=f"rate, {names[0]}", ylabel=f"distortion, {names[1]}")
    _iso_lines(panel)
    panel.grid(False)
    style.title(figure, f"Rate and distortion, {part} set ({runs_words(len(points))})")
    words = caption("plane", rate=rate, distortion=distortion)
    return Plate("plane", figure, words)


def control(comparison: Comparison) -> Plate | None:
    """The bound against label fidelity: one point per setting, lines along β.

    Both have to be good, and the setting with the best bound may obey labels less well.
    """
    networks = _networks(comparison)
    if not networks:
        return None
    figure = style.figure(4.4)
    panel = figure.subplots()
    few, handles = len(networks) <= SHOWN, list[Line2D]()
    every = [setting for settings in networks.values() for setting in settings]
    sizes = _beta_sizes(every)
    for at, (name, settings) in enumerate(networks.items()):
        look: dict[str, Any] = {"color": GREY, "marker": "o"}
        if few:
            look = {"color": style.COLOURS[at], "marker": MARKERS[at]}
            look["ls"] = LINES[at % len(LINES)]
            if name:
                handles.append(Line2D([], [], ms=5, lw=1, label=name, **look))
        _along_beta(panel, settings, look, sizes)
    panel.set_xlabel(f"bound, {metric_axis(BOUND)}")
    panel.set_ylabel(f"control, {metric_axis(FIDELITY)}")
    panel.margins(0.1)
    panel.set_ylim(top=min(1.02, panel.get_ylim()[1]))
    handles += [
        _legend_dot(GREY, size, f"β = {beta:g}")
        for beta, size in sizes.items()
        if len(sizes) > 1
    ]
    if handles:
        figure.legend(handles=handles, loc="outside right upper", fontsize=8)
    runs = [run for setting in every for run in setting.runs]
    style.title(figure, f"Bound and control ({runs_words(len(runs))})")
    judges = sorted({run.metrics[JUDGE] for run in runs if JUDGE in run.metrics})
    words = caption("control", fidelity=FIDELITY, bound=BOUND, judges=judges)
    return Plate("control", figure, words)


def _networks(comparison: Comparison) -> dict[str, list[Setting]]:
    """The settings with bound and fidelity, by all that they differ in but β."""
    networks: dict[str, list[Setting]] = {}
    for setting in comparison.settings:
        if len(setting.column(BOUND)) and len(setting.column(FIDELITY)):
            others = [label({k: v}) for k, v in setting.values.items() if k != BETA]
            networks.setdefault("\n".join(others), []).append(setting)
    return networks


def _beta_sizes(settings: Sequence[Setting]) -> dict[float, float]:
    """The area of a point by β, in ascending order."""
    betas = sorted({float(run.fields[BETA]) for each in settings for run in each.runs})
    if len(betas) == 1:
        return {betas[0]: 30.0}
    return dict(zip(betas, np.linspace(12, 90, len(betas)).tolist(), strict=True))


def _along_beta(
    panel: Axes,
    settings: Sequence[Setting],
    look: dict[str, Any],
    sizes: dict[float, float],
) -> None:
    """Settings as points with bars, joined in the order of β."""
    points = [(each.summary(BOUND), each.summary(FIDELITY)) for each in settings]
    x, y = ([point[k].mean for point in points] for k in (0, 1))
    bars = [[0.0 if p[k].n < 2 else p[k].sd for p in points] for k in (0, 1)]
    line = {"ls": look.get("ls", "-"), "color": look["color"], "lw": 1}
    panel.errorbar(x, y, bars[1], bars[0], elinewidth=0.8, capsize=2, **line)
    areas = [sizes[float(each.runs[0].fields[BETA])] for each in settings]
    panel.scatter(x, y, areas, color=look["color"], marker=look["marker"], zorder=3)


def _run_points(comparison: Comparison, *keys: str) -> list[tuple[Setting, RunRow]]:
    """The runs that have all these metrics, small latent spaces last, so on top."""
    points = [
        (setting, run)
        for setting in comparison.settings
        for run in setting.runs
        if all(math.isfinite(run.metrics.get(key, math.nan)) for key in keys)
    ]
    return sorted(points, key=lambda point: -point[1].fields["model.latent_dim"])


def _scatter(
    comparison: Comparison,
    points: list[tuple[Setting, RunRow]],
    across: str,
    up: str,
) -> tuple[Figure, Axes]:
    """The points: colour by β or setting, area by latent size; legend beside them."""
    runs = [run for _, run in points]
    x = np.array([run.metrics[across] for run in runs])
    y = np.array([run.metrics[up] for run in runs])
    coloured, by = _hues(comparison, points)
    sizes, sized = _sizes(runs)
    figure = style.figure(4.4)
    panel = figure.subplots()
    colour = [coloured[hue] for hue in by]
    panel.scatter(x, y, s=sizes, c=colour, alpha=0.8, lw=0.6, ec="white")
    panel.set(xlim=_limits(x), ylim=_limits(y))
    handles = [
        *(_legend_dot(colour, 36, name) for name, colour in coloured.items() if name),
        *(_legend_dot(GREY, size, name) for name, size in sized.items()),
        Line2D([], [], label="equal neg_elbo", **ISO),
    ]
    figure.legend(handles=handles, loc="outside right upper", fontsize=8)
    return figure, panel


def colours(settings: Sequence[Setting]) -> list[Any]:
    """One colour a setting: ordered ones where one number is what differs."""
    values = [value for setting in settings for value in setting.values.values()]
    if (
        len(settings) > 2
        and len(values) == len(settings)
        and all(map(is_number, values))
    ):
        return ordered(len(settings))
    return [style.COLOURS[at % len(style.COLOURS)] for at in range(len(settings))]


def ordered(count: int) -> list[Any]:
    scale = mpl.colormaps["viridis"]
    return [scale(at) for at in np.linspace(0.0, 0.88, max(count, 2))[:count]]


def _hues(
    comparison: Comparison, points: list[tuple[Setting, RunRow]]
) -> tuple[dict[str, Any], list[str]]:
    """Colours by β where it differs, else by setting; and the colour's name of each."""
    betas = [float(run.fields[BETA]) for _, run in points]
    if len(set(betas)) > 1:
        names = [f"beta = {text(beta)}" for beta in sorted(set(betas))]
        hues = dict(zip(names, ordered(len(names)), strict=True))
        return hues, [f"beta = {text(beta)}" for beta in betas]
    if 1 < len(comparison.settings) <= SHOWN:
        names = [each.lines for each in comparison.settings]
        by = [setting.lines for setting, _ in points]
        return dict(zip(names, colours(comparison.settings), strict=True)), by
    return {"": style.COLOURS[0]}, [""] * len(points)


def _sizes(runs: Sequence[RunRow]) -> tuple[list[float], dict[str, float]]:
    """Areas by latent size; and the legend's, where it differs."""
    latents = sorted({int(run.fields["model.latent_dim"]) for run in runs})
    if len(latents) == 1:
        return [45.0] * len(runs), {}
    area = dict(zip(latents, np.linspace(18, 160, len(latents)).tolist(), strict=True))
    sizes = [area[int(run.fields["model.latent_dim"])] for run in runs]
    return sizes, {f"latent_dim = {latent}": area[latent] for latent in latents}


def _iso_lines(panel: Axes) -> None:
    """Lines of equal neg_elbo = kl + recon, each named where it leaves the frame."""
    (left, right), (low, high) = panel.get_xlim(), panel.get_ylim()
    width, height = right - left, high - low
    for total in MaxNLocator(11, steps=[1, 2, 5, 10]).tick_values(
        left + low, right + high
    ):
        panel.plot([left, right], [total - left, total - right], **ISO)
        at_the_right = total - right > low + 0.05 * height
        x, y = (right, total - right) if at_the_right else (total - low, low)
        if y < high - 0.03 * height and x > left + 0.15 * width:
            panel.annotate(
                f"{total:g}",
                (x, y),
                xytext=(-3, 0) if at_the_right else (0, 3),
                textcoords="offset points",
                color=GREY,
                fontsize=8,
                ha="right",
                va="center" if at_the_right else "bottom",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
            )
    panel.set(xlim=(left, right), ylim=(low, high))


def _limits(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    room = 0.12 * (high - low) or 1.0
    return max(0.0, low - room), high + room


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _legend_dot(colour: Any, area: float, name: str) -> Line2D:
    look = {"marker": "o", "ls": "", "color": colour, "ms": math.sqrt(area)}
    return Line2D([], [], label=name, **look)


def metric_axis(key: str) -> str:
    """A metric as the name of an axis, with its unit: `test/kl (nats per image)`."""
    known = metrics.metric(key)
    unit = "share" if known.share else known.unit
    return f"{key} ({unit})" if unit else key


def runs_words(count: int) -> str:
    return f"n = {count} {'run' if count == 1 else 'runs'}"

"""The figures of a comparison; each function returns one, or None with nothing to show.

Points are runs, lines and bars are means over them. Legends stand beside or over the
panels, never in them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from analysis.comparing.settings import (
    Comparison,
    Setting,
    label,
    sort_key,
    text,
)
from analysis.drawing import style
from analysis.drawing.plates import Plate
from analysis.reading.runs import RunRow, Runs
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
PANELS = 4  # swept fields with a panel each
LABELS = 40  # characters that fit below a panel
Lines = dict[str, list[Setting]]


@style.house()
def draw_comparison(runs: Runs, comparison: Comparison) -> list[Plate]:
    """Every figure that these runs have something for."""
    drawn = (
        curves(runs, comparison),
        rate_distortion(comparison),
        control(comparison),
        swept(comparison),
    )
    return [plate for plate in drawn if plate]


def curves(runs: Runs, comparison: Comparison) -> Plate | None:
    """A metric by epoch: each setting's mean, in a band from lowest to highest run."""
    name = comparison.metric.rpartition("/")[2]
    for key in (f"val/{name}", f"train/{name}"):
        best = _best_settings(comparison)
        lines = [(each, _histories(runs, each, key)) for each in best]
        lines = [(each, histories) for each, histories in lines if histories]
        if lines:
            break
    else:
        return None
    figure = style.figure(3.6)
    panel = figure.subplots()
    bottom, top = math.inf, -math.inf
    hues = colours([each for each, _ in lines])
    for (each, histories), colour in zip(lines, hues, strict=True):
        low, high = _band(panel, histories, colour, each.lines)
        bottom, top = min(bottom, low), max(top, high)
    if (room := 0.06 * (top - bottom)) > 0:
        panel.set_ylim(bottom - room, top + room)
    panel.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    panel.set(xlabel="epoch", ylabel=metric_axis(key))
    drawn, every = sum(len(histories) for _, histories in lines), comparison.settings
    some = (
        f", the best {len(lines)} of {len(every)} settings"
        if len(every) > len(lines)
        else ""
    )
    style.title(figure, f"{_metric_title(key)} by epoch{some} ({runs_words(drawn)})")
    if len(lines) > 1:
        figure.legend(loc="outside right upper", fontsize=8)
    words = caption("curves", key=key, some=some, several=drawn > len(lines))
    return Plate("curves", figure, words)


def _band(
    panel: Axes, histories: Sequence[dict[int, float]], colour: Any, name: str
) -> tuple[float, float]:
    """One setting's line and band; the lowest and highest value to be seen."""
    epochs = sorted(set.intersection(*(set(each) for each in histories)))
    if not epochs:
        return math.inf, -math.inf
    values = np.array([[each[epoch] for epoch in epochs] for each in histories])
    mark = "o" if len(epochs) == 1 else None
    panel.plot(epochs, values.mean(0), color=colour, label=name, marker=mark, ms=4)
    if len(histories) > 1:
        panel.fill_between(
            epochs, values.min(0), values.max(0), color=colour, alpha=0.2, lw=0
        )
    return values.min(), values[:, len(epochs) // 8 :].max()


def swept(comparison: Comparison) -> Plate | None:
    """The metric against each field that was swept while all others stayed the same."""
    panels = {}
    for key in dict.fromkeys(k for each in comparison.settings for k in each.values):
        if lines := _swept_lines(comparison, key):
            panels[key] = lines
    keys = list(panels)[:PANELS]
    if not keys:
        return None
    columns = min(2, len(keys))
    rows = math.ceil(len(keys) / columns)
    legend = max(min(SHOWN, len(panels[key])) for key in keys)
    figure = style.figure(0.4 + (2.9 + 0.17 * legend) * rows)
    every = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for key, panel in zip(keys, every.flat, strict=False):
        _field_panel(panel, key, panels[key], comparison)
        panel.set_xlabel(key)
    for panel in every[:, 0]:
        panel.set_ylabel(metric_axis(comparison.metric))
    for panel in every.flat[len(keys) :]:
        panel.remove()
    shown = {id(s): s for key in keys for line in panels[key].values() for s in line}
    n = sum(len(each.column(comparison.metric)) for each in shown.values())
    style.title(
        figure, f"{_metric_title(comparison.metric)} by swept field ({runs_words(n)})"
    )
    words = caption("swept", metric=comparison.metric, keys=keys)
    return Plate("swept", figure, words)


def _swept_lines(comparison: Comparison, key: str) -> Lines:
    """Settings that differ in `key` alone, as lines by what their other fields are."""
    lines: Lines = {}
    for each in comparison.settings:
        rest = {k: v for k, v in each.values.items() if k != key}
        lines.setdefault(label(rest), []).append(each)
    return {name: line for name, line in lines.items() if len(line) > 1}


def _field_panel(panel: Axes, key: str, lines: Lines, comparison: Comparison) -> None:
    """One panel: the metric by a field."""
    every = [each.values[key] for line in lines.values() for each in line]
    values = list(dict.fromkeys(map(text, sorted(every, key=sort_key))))
    numbers = all(map(is_number, every))
    few = len(lines) <= SHOWN
    hues = ordered(len(lines)) if 2 < len(lines) <= SHOWN else style.COLOURS
    for at, (name, line) in enumerate(lines.items()):
        colour = hues[at] if few else GREY
        means = []
        for each in line:
            value = each.values[key]
            x = float(value) if numbers else float(values.index(text(value)))
            sample = each.column(comparison.metric)
            panel.plot([x] * len(sample), sample, "o", color=colour, ms=3, alpha=0.5)
            means.append((x, float(sample.mean())))
        panel.plot(*zip(*sorted(means), strict=True), color=colour, label=name)
    if not numbers:
        panel.set_xticks(range(len(values)), values)
        panel.margins(x=0.15)
    else:
        ticks = sorted(set(map(float, every)))
        if ticks[0] > 0 and ticks[-1] >= 8 * ticks[0]:
            panel.set_xscale("log")
            panel.minorticks_off()
        if len(ticks) <= 8:
            panel.set_xticks(ticks, values)
    if sum(map(len, values)) > LABELS:
        panel.tick_params("x", rotation=90)
    if few and len(lines) > 1:
        panel.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1))


def _best_settings(comparison: Comparison) -> list[Setting]:
    """The best settings by the metric, kept in the order of their values."""
    sign = metrics.metric(comparison.metric).sign
    means = [sign * whole.mean for whole in comparison.summaries]
    best = sorted(range(len(means)), key=lambda at: means[at])[:SHOWN]
    return [comparison.settings[at] for at in sorted(best)]


def _histories(runs: Runs, setting: Setting, key: str) -> list[dict[int, float]]:
    """The finite values of a metric by epoch, of each run that has some."""
    histories = (runs.history(run, key) for run in setting.runs)
    finite = ({at: v for at, v in each if math.isfinite(v)} for each in histories)
    return [each for each in finite if each]


def _metric_title(metric: str) -> str:
    part, _, name = metric.rpartition("/")
    words = {"test": "Test", "val": "Validation", "train": "Training"}
    return f"{words.get(part, part)} {name}"


# -- planes: rate and distortion, and the bound and its control ------------------------


def rate_distortion(comparison: Comparison) -> Plate | None:
    """Rate against distortion on the test set (Alemi et al. 2018)."""
    part = comparison.metric.partition("/")[0]
    rate, distortion = f"{part}/kl", f"{part}/recon"
    points = [
        (setting, run)
        for setting in comparison.settings
        for run in setting.runs
        if all(math.isfinite(run.metrics.get(k, math.nan)) for k in (rate, distortion))
    ]
    if not points:
        return None
    points.sort(key=lambda point: -point[1].fields["model.latent_dim"])  # small on top
    runs = [run for _, run in points]
    x, y = (np.array([run.metrics[k] for run in runs]) for k in (rate, distortion))
    coloured, by = _hues(comparison, points)
    sizes, sized = _sizes(runs)
    figure = style.figure(4.4)
    panel = figure.subplots()
    hues = [coloured[hue] for hue in by]
    panel.scatter(x, y, s=sizes, c=hues, alpha=0.8, lw=0.6, ec="white")
    panel.set(xlim=_limits(x), ylim=_limits(y))
    panel.set(xlabel=f"rate, {metric_axis(rate)}")
    panel.set(ylabel=f"distortion, {metric_axis(distortion)}")
    handles = [
        *(_legend_dot(colour, 36, name) for name, colour in coloured.items() if name),
        *(_legend_dot(GREY, size, name) for name, size in sized.items()),
        Line2D([], [], label="equal neg_elbo", **ISO),
    ]
    figure.legend(handles=handles, loc="outside right upper", fontsize=8)
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

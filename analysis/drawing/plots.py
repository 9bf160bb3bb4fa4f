"""The figures of a comparison; each function returns one, or None with nothing to show.

Points are runs, lines and bars are means over them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from analysis.comparing.settings import Comparison, Side, rank, short, text
from analysis.drawing import style
from analysis.reading.runs import Run, Runs
from cvae import metrics

SHOWN = 7  # sides told apart by colour
ROWS = 24  # sides told apart by a row
PANELS = 4  # swept fields with a panel each
GREY = "#767676"
ISO: dict[str, Any] = {"color": "#cccccc", "lw": 0.8, "zorder": 0}

Figures = dict[str, tuple[Figure, str]]  # file name → figure, caption


def figures(runs: Runs, found: Comparison) -> Figures:
    """Every figure that these runs have something for, with its caption."""
    drawn = {
        "curves": curves(runs, found),
        "plane": plane(found),
        "swept": swept(found),
        "active": active(found),
    }
    return {name: each for name, each in drawn.items() if each}


def curves(runs: Runs, found: Comparison) -> tuple[Figure, str] | None:
    """A metric by epoch: each side's mean, in a band from its lowest to highest run."""
    name = found.metric.rpartition("/")[2]
    for key in (f"val/{name}", f"train/{name}"):
        lines = [
            (side, [h for run in side.runs if (h := _finite(runs.history(run, key)))])
            for side in _foremost(found)
        ]
        lines = [(side, histories) for side, histories in lines if histories]
        if lines:
            break
    else:
        return None
    figure = style.figure(3.6)
    axes = figure.subplots()
    drawn, bottom, top = 0, math.inf, -math.inf
    for (side, histories), colour in zip(
        lines, colours([side for side, _ in lines]), strict=True
    ):
        epochs = sorted(set.intersection(*(set(each) for each in histories)))
        values = np.array([[each[epoch] for epoch in epochs] for each in histories])
        drawn += len(histories)
        if not epochs:
            continue
        mark = "o" if len(epochs) == 1 else None
        axes.plot(
            epochs, values.mean(0), color=colour, label=side.label, marker=mark, ms=4
        )
        if len(histories) > 1:
            low, high = values.min(0), values.max(0)
            axes.fill_between(epochs, low, high, color=colour, alpha=0.2, lw=0)
        bottom = min(bottom, values.min())
        top = max(top, values[:, len(epochs) // 8 :].max())
    room = 0.06 * (top - bottom)
    if room > 0:
        axes.set_ylim(bottom - room, top + room)
    axes.xaxis.set_major_locator(_whole())
    axes.set(xlabel="epoch", ylabel=_axis(key))
    every = len(found.sides)
    some = f", the best {len(lines)} of {every} settings" if every > len(lines) else ""
    axes.set_title(f"{_part(key)} by epoch{some} (n = {drawn} {_runs(drawn)})")
    axes.legend(fontsize=8)
    band = "the band spans them" if drawn > len(lines) else "one run a line"
    return figure, (
        f"`{key}` in {unit(key)} by epoch{some}: the line is the "
        f"mean over a setting's runs, {band}. The first epochs may lie above the frame."
    )


def plane(found: Comparison) -> tuple[Figure, str] | None:
    """Rate against distortion on the test set (Alemi et al. 2018)."""
    part = found.metric.partition("/")[0]
    rate, distortion = f"{part}/kl", f"{part}/recon"
    points = [
        (side, run)
        for side in found.sides
        for run in side.runs
        if math.isfinite(run.metrics.get(rate, math.nan))
        and math.isfinite(run.metrics.get(distortion, math.nan))
    ]
    if not points:
        return None
    points.sort(key=lambda point: -point[1].fields["model.latent_dim"])  # small on top
    runs = [run for _, run in points]
    x = np.array([run.metrics[rate] for run in runs])
    y = np.array([run.metrics[distortion] for run in runs])
    coloured, by = _hues(found, points)
    sizes, sized = _sizes(runs)
    figure = style.figure(4.4)
    axes = figure.subplots()
    axes.scatter(
        x, y, s=sizes, c=[coloured[hue] for hue in by], alpha=0.8, lw=0.6, ec="white"
    )
    axes.set_xlim(_roomy(x))
    axes.set_ylim(_roomy(y))
    _iso_lines(axes)
    axes.grid(False)
    axes.set(xlabel=_axis(rate), ylabel=_axis(distortion))
    axes.set_title(f"Rate and distortion, {part} set (n = {len(x)} {_runs(len(x))})")
    handles = [
        *(_dot(colour, 36, name) for name, colour in _some(coloured) if name),
        *(_dot(GREY, size, name) for name, size in _some(sized)),
        Line2D([], [], label="equal neg_elbo", **ISO),
    ]
    figure.legend(handles=handles, loc="outside right upper", fontsize=8)
    return figure, (
        f"`{rate}` (rate) against `{distortion}` (distortion), a point a run. Along a "
        "grey line their sum, neg_elbo, is the number at its end; lower left is better."
    )


def swept(found: Comparison) -> tuple[Figure, str] | None:
    """The metric against each swept field, a line for each setting of the others."""
    keys = [
        key
        for key in dict.fromkeys(key for side in found.sides for key in side.values)
        if len({text(side.values[key]) for side in found.sides}) > 1
    ][:PANELS]
    if not keys:
        return None
    columns = min(2, len(keys))
    rows = math.ceil(len(keys) / columns)
    figure = style.figure(0.4 + 3.1 * rows)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for key, axes in zip(keys, panels.flat, strict=False):
        _against(axes, key, found)
        if axes in panels[:, 0]:
            axes.set_ylabel(_axis(found.metric))
    for axes in panels.flat[len(keys) :]:
        axes.remove()
    n = sum(len(side.column(found.metric)) for side in found.sides)
    figure.suptitle(
        f"{_part(found.metric)} by swept field (n = {n} {_runs(n)})",
        x=0.01,
        ha="left",
        fontsize=style.RC["axes.titlesize"],
    )
    return figure, (
        f"`{found.metric}` in {unit(found.metric)} against "
        f"{' and '.join(f'`{key}`' for key in keys)}: a point a run, lines join means."
    )


def active(found: Comparison) -> tuple[Figure, str] | None:
    """Active units of each side, inside the latent dimensions that it has."""
    key = f"{found.metric.partition('/')[0]}/active_units"
    shown = [side for side in _foremost(found, ROWS) if len(side.column(key))]
    if not shown:
        return None
    figure = style.figure(1.1 + 0.26 * len(shown))
    axes = figure.subplots()
    for row, side in enumerate(shown):
        sizes = [int(run.fields["model.latent_dim"]) for run in side.runs]
        units = side.column(key)
        axes.barh(row, max(sizes), color="#dddddd", height=0.7)
        axes.barh(row, units.mean(), color=style.COLOURS[0], height=0.7)
        axes.plot(units, [row] * len(units), "o", color="black", ms=2.5)
    axes.set_yticks(range(len(shown)), [side.label for side in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.set(xlabel="latent dimensions; in blue the active ones")
    axes.xaxis.set_major_locator(_whole())
    n = sum(len(side.column(key)) for side in shown)
    axes.set_title(f"Active units (n = {n} {_runs(n)})")
    return figure, (
        "Latent dimensions (grey) and those in use (blue: the mean over runs; a dot a "
        "run). A unit is active if Var_x(mu) > 0.01 (Burda et al. 2016)."
    )


def colours(sides: Sequence[Side]) -> list[Any]:
    """One colour a side: ordered ones where one number is what differs."""
    values = [value for side in sides for value in side.values.values()]
    if len(sides) > 2 and len(values) == len(sides) and all(map(_number, values)):
        return _ordered(len(sides))
    return [style.COLOURS[at % len(style.COLOURS)] for at in range(len(sides))]


def _ordered(count: int) -> list[Any]:
    scale = mpl.colormaps["viridis"]
    return [scale(at) for at in np.linspace(0.0, 0.88, max(count, 2))[:count]]


def _foremost(found: Comparison, count: int = SHOWN) -> list[Side]:
    """The best sides by the metric, kept in the order of their values."""
    sign = -1 if metrics.metric(found.metric).higher_is_better else 1
    order = sorted(
        range(len(found.sides)), key=lambda at: sign * found.summaries[at].mean
    )
    return [found.sides[at] for at in sorted(order[:count])]


def _hues(
    found: Comparison, points: list[tuple[Side, Run]]
) -> tuple[dict[str, Any], list[str]]:
    """Colours by β where it differs, else by side; and the colour's name of each."""
    betas = sorted({float(run.fields["objective.beta"]) for _, run in points})
    if len(betas) > 1:
        names = [f"beta = {text(beta)}" for beta in betas]
        by = [
            f"beta = {text(float(run.fields['objective.beta']))}" for _, run in points
        ]
        return dict(zip(names, _ordered(len(names)), strict=True)), by
    if 1 < len(found.sides) <= SHOWN:
        names = [side.label for side in found.sides]
        by = [side.label for side, _ in points]
        return dict(zip(names, colours(found.sides), strict=True)), by
    return {"": style.COLOURS[0]}, [""] * len(points)


def _sizes(runs: Sequence[Run]) -> tuple[list[float], dict[str, float]]:
    """Areas by latent size; and the legend's, where it differs."""
    latents = sorted({int(run.fields["model.latent_dim"]) for run in runs})
    if len(latents) == 1:
        return [45.0] * len(runs), {}
    area = dict(zip(latents, np.linspace(18, 160, len(latents)).tolist(), strict=True))
    sizes = [area[int(run.fields["model.latent_dim"])] for run in runs]
    return sizes, {f"latent_dim = {latent}": area[latent] for latent in latents}


def _iso_lines(axes: Axes) -> None:
    """Lines of equal neg_elbo = kl + recon, each named where it leaves the frame."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    width, height = right - left, high - low
    for total in MaxNLocator(11, steps=[1, 2, 5, 10]).tick_values(
        left + low, right + high
    ):
        axes.plot([left, right], [total - left, total - right], **ISO)
        at_the_side = total - right > low + 0.05 * height
        x, y = (right, total - right) if at_the_side else (total - low, low)
        if y < high - 0.03 * height and x > left + 0.15 * width:
            axes.annotate(
                f"{total:g}",
                (x, y),
                xytext=(-3, 0) if at_the_side else (0, 3),
                textcoords="offset points",
                color=GREY,
                fontsize=8,
                ha="right",
                va="center" if at_the_side else "bottom",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
            )
    axes.set(xlim=(left, right), ylim=(low, high))


def _against(axes: Axes, key: str, found: Comparison) -> None:
    """One panel: the metric by a field; sides alike in all else share a line."""
    ordered = sorted((side.values[key] for side in found.sides), key=rank)
    values = list(dict.fromkeys(map(text, ordered)))
    numbers = all(_number(side.values[key]) for side in found.sides)
    lines: dict[str, list[Side]] = {}
    for side in found.sides:
        rest = [f"{short(k)} = {text(v)}" for k, v in side.values.items() if k != key]
        lines.setdefault(", ".join(rest), []).append(side)
    hues = _ordered(len(lines)) if 2 < len(lines) <= SHOWN else style.COLOURS
    for at, (name, members) in enumerate(lines.items()):
        colour = hues[at] if len(lines) <= SHOWN else GREY
        middle = []
        for side in members:
            value = side.values[key]
            x = float(value) if numbers else float(values.index(text(value)))
            sample = side.column(found.metric)
            axes.plot([x] * len(sample), sample, "o", color=colour, ms=3, alpha=0.5)
            middle.append((x, float(sample.mean())))
        kept = name if len(lines) <= SHOWN else None
        axes.plot(*zip(*sorted(middle), strict=True), color=colour, label=kept or None)
    if not numbers:
        axes.set_xticks(range(len(values)), values)
        axes.margins(x=0.15)
    else:
        positions = sorted(float(side.values[key]) for side in found.sides)
        if positions[0] > 0 and positions[-1] >= 8 * positions[0]:
            axes.set_xscale("log")
            axes.minorticks_off()
        ticks = sorted(set(positions))
        if len(ticks) <= 8:
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xlabel(key)
    if 1 < len(lines) <= SHOWN:
        axes.legend(fontsize=8)


def _roomy(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    room = 0.12 * (high - low) or 1.0
    return max(0.0, low - room), high + room


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _finite(history: Iterable[tuple[int, float]]) -> dict[int, float]:
    return {epoch: value for epoch, value in history if math.isfinite(value)}


def _some(named: dict[str, Any]) -> list[tuple[str, Any]]:
    """What a legend has room for: all, or some from the first to the last."""
    items = list(named.items())
    if len(items) <= SHOWN:
        return items
    return [items[round(at)] for at in np.linspace(0, len(items) - 1, SHOWN)]


def _whole() -> MaxNLocator:
    return MaxNLocator(8, integer=True, steps=[1, 2, 5, 10])


def _dot(colour: Any, area: float, name: str) -> Line2D:
    return Line2D(
        [], [], marker="o", ls="", color=colour, ms=math.sqrt(area), label=name
    )


def _part(metric: str) -> str:
    part, _, name = metric.rpartition("/")
    words = {"test": "Test", "val": "Validation", "train": "Training"}
    return f"{words.get(part, part)} {name}"


def _axis(metric: str) -> str:
    measured = metrics.metric(metric).unit
    return f"{metric} ({measured})" if measured else metric


def _runs(count: int) -> str:
    return "run" if count == 1 else "runs"


def unit(key: str) -> str:
    return metrics.metric(key).unit or "its own unit"

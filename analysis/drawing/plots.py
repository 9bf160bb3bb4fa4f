"""The figures of a comparison; each function returns one, or None with nothing to show.

Points are runs, lines and bars are means over them. Legends stand beside or over the
panels, never in them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from analysis.comparing import settings
from analysis.comparing.settings import Comparison, Setting, sort_key, text
from analysis.drawing import planes, style
from analysis.drawing.planes import (
    SHOWN,
    is_number,
    metric_axis,
    ordered,
    runs_words,
)
from analysis.drawing.plates import Plate
from analysis.reading.runs import Runs
from analysis.templates import caption
from cvae.evaluation import metrics

PANELS = 4  # swept fields with a panel each
LABELS = 40  # characters that fit below a panel
Lines = dict[str, list[Setting]]


@style.house()
def draw_comparison(runs: Runs, comparison: Comparison) -> list[Plate]:
    """Every figure that these runs have something for."""
    drawn = (
        curves(runs, comparison),
        planes.rate_distortion(comparison),
        planes.control(comparison),
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
    hues = planes.colours([each for each, _ in lines])
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
        lines.setdefault(settings.label(rest), []).append(each)
    return {name: line for name, line in lines.items() if len(line) > 1}


def _field_panel(panel: Axes, key: str, lines: Lines, comparison: Comparison) -> None:
    """One panel: the metric by a field."""
    every = [each.values[key] for line in lines.values() for each in line]
    values = list(dict.fromkeys(map(text, sorted(every, key=sort_key))))
    numbers = all(map(is_number, every))
    few = len(lines) <= SHOWN
    hues = ordered(len(lines)) if 2 < len(lines) <= SHOWN else style.COLOURS
    for at, (name, line) in enumerate(lines.items()):
        colour = hues[at] if few else planes.GREY
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

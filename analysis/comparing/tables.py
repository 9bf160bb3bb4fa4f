"""Tables of a comparison as rows of text; its numbers for the CSV."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis.comparing.settings import Comparison, Setting, short, text
from analysis.reading.runs import RunRow
from cvae.evaluation.metrics import ERROR, SCORES, mean_sd, number

Row = dict[str, Any]
LONGEST = 60  # rows of a table that people read; the CSV has all


def settings(comparison: Comparison) -> list[Row]:
    """One row per setting: n, mean ± sd of the metric, interval, difference, p."""
    rows = []
    for setting, whole, each in comparison.rows:
        row = _named(setting) | {"n": str(whole.n)}
        values = setting.column(comparison.metric).tolist()
        row[comparison.metric] = mean_sd(values, comparison.metric)
        row["95 % interval"] = interval_text(whole.low, whole.high, comparison.metric)
        row["difference"] = row["p"] = ""
        if each:
            row["difference"] = number(each.summary.mean, comparison.metric, sign=True)
            enough = not math.isnan(each.adjusted)
            row["p"] = p_value(each.adjusted) if enough else "–"
        row[""] = "best" if setting is comparison.best else ""
        rows.append(row)
    return rows


def other_scores(comparison: Comparison) -> list[Row]:
    """One row per setting: mean ± sd of the usual metrics that are not compared."""
    runs = [run for setting in comparison.settings for run in setting.runs]
    keys = [key for key in SCORES if any(key in run.metrics for run in runs)]
    return [
        _named(setting)
        | {
            key: mean_sd(setting.column(key).tolist(), key)
            for key in keys
            if key != comparison.metric
        }
        | {"": "best" if setting is comparison.best else ""}
        for setting in comparison.settings
    ]


def _named(setting: Setting) -> Row:
    return {short(key): text(value) for key, value in setting.values.items()}


def runs(
    members: Sequence[RunRow], differing: Sequence[str], best: RunRow | None
) -> list[Row]:
    """One row per run: fields that its name does not say, scores, seconds, status."""
    known = {key for run in members for key in run.metrics}
    keys = [key for key in SCORES if key in known]
    keys += sorted(
        k
        for k in known
        if k.startswith("test/") and "_is" in k and not k.endswith(ERROR)
    )
    unsaid = [
        key
        for key in differing
        if key != "name" and not all(f" {short(key)}=" in run.title for run in members)
    ]
    return [
        {"run": run.title}
        | {short(key): text(run.fields.get(key)) for key in unsaid}
        | {key: number(run.metrics.get(key, math.nan), key) for key in keys}
        | {"seconds": f"{run.seconds:.0f}" if run.seconds == run.seconds else "–"}
        | {"status": run.status.lower(), "": "best" if run is best else ""}
        for run in members
    ]


def statistics(comparison: Comparison) -> pd.DataFrame:
    """A row a setting: its fields, and every number of the comparison."""
    rows = []
    for setting, whole, each in comparison.rows:
        row: Row = dict(setting.values)
        row |= {"metric": comparison.metric, "n": whole.n, "seeds": setting.seeds}
        row |= {"mean": whole.mean, "sd": whole.sd, "low": whole.low}
        row |= {"high": whole.high, "best": setting is comparison.best}
        if each:
            row |= {"against": comparison.reference.label, "pairs": each.pairs}
            for key in ("mean", "sd", "low", "high"):
                row[f"difference_{key}"] = getattr(each.summary, key)
            row |= {"p": each.p, "p_adjusted": each.adjusted}
        rows.append(row)
    return pd.DataFrame(rows, dtype=object)


def interval_text(low: float, high: float, metric: str) -> str:
    if math.isnan(low):
        return "–"
    return f"{number(low, metric)} to {number(high, metric)}"


def p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def columns(rows: Sequence[Row]) -> list[str]:
    """The columns that have something in them."""
    return [key for key in rows[0] if any(row.get(key, "") != "" for row in rows)]

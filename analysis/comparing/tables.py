"""Tables of a comparison as rows of text; Markdown and CSV of any rows."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.comparing.settings import Comparison, short, text
from analysis.reading.runs import Run
from cvae.metrics import BOUND, mean_sd, number

Row = dict[str, Any]
SCORES = tuple(f"test/{name}" for name in BOUND)
LONGEST = 60  # rows of a table that people read; the CSV has all


def sides(found: Comparison) -> list[Row]:
    """One row a side: settings, n, mean ± sd of each score, interval, difference."""
    rows = []
    for side, whole, each in zip(
        found.sides, found.summaries, found.differences, strict=True
    ):
        row: Row = {short(key): text(value) for key, value in side.values.items()}
        row["n"] = str(whole.n)
        for key in scores(found):
            row[key] = mean_sd(side.column(key).tolist(), key)
        row["95 % interval"] = between(whole.low, whole.high, found.metric)
        row["difference"] = row["p"] = ""
        if each:
            row["difference"] = number(each.found.mean, found.metric, sign=True)
            enough = not math.isnan(each.adjusted)
            row["p"] = p_value(each.adjusted) if enough else "too few seeds"
        row[""] = "best" if side is found.best else ""
        rows.append(row)
    return rows


def runs(
    members: Sequence[Run], differing: Sequence[str], best: Run | None
) -> list[Row]:
    """One row a run: what differs, its scores, seconds and status."""
    known = {key for run in members for key in run.metrics}
    keys = [key for key in SCORES if key in known]
    keys += sorted(k for k in known if k.startswith("test/") and "_is" in k)
    return [
        {"run": run.name}
        | {short(key): text(run.fields.get(key)) for key in differing}
        | {key: number(run.metrics.get(key, math.nan), key) for key in keys}
        | {"seconds": f"{run.seconds:.0f}" if run.seconds == run.seconds else "–"}
        | {"status": run.status.lower(), "": "best" if run is best else ""}
        for run in members
    ]


def statistics(found: Comparison) -> list[Row]:
    """Every figure of the comparison as numbers, for the CSV."""
    rows = []
    for side, whole, each in zip(
        found.sides, found.summaries, found.differences, strict=True
    ):
        row: Row = dict(side.values)
        row |= {"metric": found.metric, "n": whole.n, "seeds": side.seeds}
        row |= {"mean": whole.mean, "sd": whole.sd}
        row |= {"low": whole.low, "high": whole.high, "best": side is found.best}
        row["against"] = found.against.label if each else ""
        row["pairs"] = each.pairs if each else ""
        for key in ("mean", "sd", "low", "high"):
            row[f"difference_{key}"] = getattr(each.found, key) if each else ""
        for key in ("p", "welch", "adjusted"):
            row[f"p_{key}".replace("p_p", "p")] = getattr(each, key) if each else ""
        rows.append(row)
    return rows


def scores(found: Comparison) -> list[str]:
    """The metric, and the usual ones that the runs have."""
    known = {key for side in found.sides for run in side.runs for key in run.metrics}
    return list(dict.fromkeys([found.metric, *(key for key in SCORES if key in known)]))


def between(low: float, high: float, metric: str) -> str:
    if math.isnan(low):
        return "–"
    return f"{number(low, metric)} to {number(high, metric)}"


def p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def columns(rows: Sequence[Row]) -> list[str]:
    """The columns that have something in them."""
    return [key for key in rows[0] if any(row.get(key, "") != "" for row in rows)]


def markdown(rows: Sequence[Row]) -> str:
    """A table; text that Markdown or HTML would read is made harmless."""
    if not rows:
        return ""
    names = columns(rows)
    lines = [[escaped(name) for name in names], ["---"] * len(names)]
    for row in rows[:LONGEST]:
        cells = [escaped(str(row.get(key, ""))) for key in names]
        if row.get("") == "best":
            cells = [f"**{cell}**" if cell else "" for cell in cells]
        lines.append(cells)
    rest = f"\n\n{len(rows) - LONGEST} more rows are in the CSV." * (
        len(rows) > LONGEST
    )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + rest


def escaped(text: str) -> str:
    """Text for a Markdown page: no tag, link, table or emphasis comes out of it."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{c}" if c in "|*`[]!" else c for c in " ".join(text.split()))


def code_block(text: str) -> str:
    """Text as a block of code, in a fence longer than any inside."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}sh\n{text}\n{fence}"


def write_csv(rows: Sequence[Row], path: Path) -> Path:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return path

"""A run or a sweep in words: the note that the UI shows with it."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from typing import Any

from cvae.evaluation.metrics import (
    BOUND,
    ERROR,
    HEADLINE,
    NATS,
    markdown,
    metric,
    number,
)
from cvae.run.folder import RunFolder, SweepFolder

LONGEST = 2000  # characters of a head comment; MLflow 3.13 refuses 5,000 in all
MOST_ROWS = 40  # of a sweep's table, for the same reason


def description(folder: RunFolder) -> str:
    """The run's note in the UI: question, headline figures, how to run it again."""
    info = folder.info
    final = {k: v for k, v in folder.metrics.items() if k.startswith("test/")}
    headline = folder.status.lower()
    if f"test/{HEADLINE}" in final:
        terms = [f"{name} {number(final[f'test/{name}'], name)}" for name in BOUND[:3]]
        headline = f"test {terms[0]} = {terms[1]} + {terms[2]} {NATS}"
    lines = [f"**{headline}**", ""]
    if header := applicable_header(info):
        lines += [_question(header), ""]
    if changes := _changes(info):
        lines += [f"Changed from the file: {', '.join(map(_code, changes))}", ""]
    if info.get("reason"):
        lines += [f"Ended early: {_without_markup(info['reason'])}", ""]
    if final:
        figures = [
            [
                key,
                f"{number(final[key], key, error=final.get(f'{key}{ERROR}'))} "
                f"{metric(key).unit}".rstrip(),
            ]
            for key in final
            if not key.endswith(ERROR)
        ]
        lines += [markdown([["figure", "value"], *figures]), ""]
    return "\n".join([*lines, f"Again: {_code(info.get('command', ''))}"])


def applicable_header(info: Mapping[str, Any]) -> str:
    """The head comment of a run's file, from its `run.json`.

    What it expects holds for the file as it is: left out where fields were changed.
    """
    header: str = info.get("header", "")
    if not _changes(info):
        return header
    return re.sub(r"(?m)^Expected:.*\n?(?:(?![A-Z]\w*:).+\n?)*", "", header).strip()


def _changes(info: Mapping[str, Any]) -> list[str]:
    """The overrides of a run that change what it computes."""
    changes = info.get("changes", [])
    return [each for each in changes if not each.startswith(("name=", "tracking."))]


def sweep_description(folder: SweepFolder) -> str:
    """A sweep's note: question, mean ± sd over seeds, how to run it again."""
    info = folder.info
    cells = [[_without_markup(cell) for cell in row] for row in info.get("summary", [])]
    parts = [_question(info["header"])]
    parts.append(markdown(cells[: 1 + MOST_ROWS]) if cells else "")
    if (more := len(cells) - 1 - MOST_ROWS) > 0:
        parts.append(f"{more} more rows: table.csv")
    if best := ", ".join(f"{k} = {v}" for k, v in info.get("best", {}).items()):
        parts.append(f"Best setting: {_code(best)}; `best/…` is its mean over seeds.")
    return "\n\n".join([*parts, f"Again: {_code(info['command'])}"])


def report_link(experiment_id: str, run_id: str) -> str:
    """From a run's note to the report among its artifacts."""
    page = f"#/experiments/{experiment_id}/runs/{run_id}/artifacts/report/report.html"
    return f"[**Report**]({page}): every setting's digits side by side, seeds together."


def _question(header: str) -> str:
    shown = header if len(header) < LONGEST else f"{header[:LONGEST]} … (all: run.json)"
    return _without_markup(shown).replace("\n", "  \n")


def _without_markup(text: str) -> str:
    """Text that Markdown shows as it stands: no HTML, link or picture in it."""
    return re.sub(r"[\\`*_\[\]|]", r"\\\g<0>", html.escape(text, quote=False))


def _code(text: str) -> str:
    return f"`` {text} ``" if "`" in text else f"`{text}`"

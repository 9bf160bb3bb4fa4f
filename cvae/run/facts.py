"""What the JSON files of a run's and a sweep's folder hold.

A file that holds something else was damaged or edited, and counts as unreadable: no
reader asks again whether a status is text. Most keys may be missing, and others be
there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Required

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

Numbers = dict[str, float]


class DataFacts(TypedDict, total=False):
    root: str
    name: str
    digest: str
    sha256: dict[str, str]
    shape: list[int]
    images: dict[str, int]


class Member(TypedDict, total=False):
    """A run of a sweep."""

    folder: Required[str]
    id: str
    swept: dict[str, Any]


class Facts(TypedDict, total=False):
    """run.json, sweep.json and tracking.json: one meaning of a key in all of them."""

    uid: str
    id: str
    name: str
    status: str
    reason: str
    started: float  # seconds since 1970
    ended: float
    header: str
    command: str
    changes: list[str]
    git: dict[str, str]
    facts: dict[str, Any]
    data: DataFacts
    sweep: str
    swept: dict[str, Any]
    label: str
    # of a sweep
    experiment: str
    keys: list[str]
    runs: list[Member]
    summary: list[list[str]]
    best: dict[str, Any]
    figures: Numbers
    # of what was published
    uri: str
    run_id: str
    records: int
    images: list[str]
    model: dict[str, Any]


class Line(TypedDict, total=False):
    """A line of records.jsonl."""

    epoch: Required[int]
    step: int
    time: int  # milliseconds since 1970
    metrics: Required[Numbers]
    seconds: Numbers


_facts, _lines = TypeAdapter(Facts), TypeAdapter(list[Line])


def read(path: Path) -> dict[str, Any]:
    """A JSON file of facts; empty where there is none, or not one that was written."""
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        _facts.validate_python(content, strict=True)
    except (OSError, ValueError):
        return {}
    return content


def records(lines: Sequence[str]) -> list[dict[str, Any]]:
    """Lines of JSON as records.

    Raises:
        ValueError: a line is none.
    """
    records: list[dict[str, Any]] = [json.loads(line) for line in lines]
    try:
        _lines.validate_python(records, strict=True)
    except ValidationError as error:
        (line, *path), problem = error.errors()[0]["loc"], error.errors()[0]["msg"]
        where = ".".join(["line", str(int(line) + 1), *map(str, path)])
        raise ValueError(f"{where}: {problem}") from error
    return records

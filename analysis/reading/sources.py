"""Runs read from their folders, and from a tracking store."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.reading.runs import DEFAULTS, RunRow
from cvae.run.find import display_name, folders
from cvae.run.folder import RunFolder, SweepFolder
from cvae.spec.identity import flatten

if TYPE_CHECKING:
    from cvae.tracking.store import Reader, StoredRun

SECTIONS = {key.partition(".")[0] for key in DEFAULTS if "." in key}
OVERFLOW = 1.79e308  # MLflow stores infinity as the largest double


def from_folders(
    runs: Path, experiment: str | None, sweep: str | None
) -> tuple[list[RunRow], dict[str, str]]:
    """The folders that fit; those that cannot be read, by name with the reason."""
    listed = SweepFolder(runs / "sweeps" / sweep).info.get("runs", []) if sweep else []
    members = {entry["folder"] for entry in listed}
    rows, unreadable = [], {}
    for folder in folders(runs):
        if sweep and folder.info.get("sweep") != sweep and folder.name not in members:
            continue
        try:
            run = _folder_row(folder)
        except Exception as error:  # whatever it is, it is wrong with this folder only
            unreadable[folder.name] = " ".join(str(error).split())[:200]
            continue
        if experiment in (None, run.experiment):
            rows.append(run)
    return rows, unreadable


def _folder_row(folder: RunFolder) -> RunRow:
    folder.check_files()
    info, fields = folder.info, flatten(folder.spec())
    return RunRow(
        name=folder.name,
        title=display_name(folder),
        id=info["id"],
        uid=info["uid"],
        status=folder.status,
        experiment=fields["tracking.experiment"],
        started=info.get("started", 0.0),
        fields=fields,
        metrics=folder.metrics,
        facts=info.get("facts", {}),
        digest=info.get("data", {}).get("digest", ""),
        command=info.get("command", ""),
        commit=info.get("git", {}).get("commit", ""),
        sweep=info.get("sweep", ""),
        run_id=folder.published.get("run_id"),
        folder=folder,
    )


def from_store(
    store: Reader, experiment: str | None, sweep: str | None
) -> list[RunRow]:
    """The runs of the store that fit; neither parents of sweeps nor pages."""
    names = store.experiments()
    places = [id for name, id in names.items() if experiment in (None, name)]
    query = f"tags.`cvae.sweep` = '{sweep}'" if sweep else ""
    return [
        _stored_row(stored)
        for stored in (store.search(places, query) if places else ())
        if "cvae.kind" not in stored.tags and "name" in stored.params
    ]


def _stored_row(stored: StoredRun) -> RunRow:
    known = {key: value for key, value in stored.params.items() if _is_field(key)}
    facts = {key: stored.params[key] for key in stored.params.keys() - known.keys()}
    facts |= stored.facts  # runs published before have them among the params
    fields = DEFAULTS | {key: _value(key, text) for key, text in known.items()}
    return RunRow(
        name=stored.tags.get("cvae.folder", stored.name),
        title=stored.name,
        id=stored.tags.get("cvae.id", ""),
        uid=stored.tags.get("cvae.uid", ""),
        status=stored.status,
        experiment=str(fields["tracking.experiment"]),
        started=stored.started,
        fields=fields,
        metrics={key: _infinite(value) for key, value in stored.metrics.items()},
        facts=facts,
        digest=stored.digest,
        command=stored.tags.get("mlflow.source.name", ""),
        commit=stored.tags.get("mlflow.source.git.commit", ""),
        sweep=stored.tags.get("cvae.sweep", ""),
        run_id=stored.run_id,
    )


def _is_field(key: str) -> bool:
    return key in DEFAULTS or ("." in key and key.partition(".")[0] in SECTIONS)


def _value(key: str, text: str) -> Any:
    """A param's text as the field's value; text fields are never read as JSON."""
    if isinstance(DEFAULTS.get(key), str):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _infinite(value: float) -> float:
    return math.copysign(math.inf, value) if abs(value) > OVERFLOW else value

"""Runs as a table, from their folders, and from MLflow where it is named.

runs = load_runs(sweep="beta")
runs.table()                                    # a pandas.DataFrame, one row a run
runs.history(runs.rows[0], "val/neg_elbo")
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.reading.runs import DEFAULTS, RunRow, Runs
from cvae.errors import RunNotFound
from cvae.run import published
from cvae.run.find import display_name, find_sweep, folders, sweeps
from cvae.run.folder import FIRST, RUNS, RunFolder, SweepFolder
from cvae.spec.document import nearest
from cvae.spec.identity import NAME, flatten
from cvae.tracking.address import VARIABLE

if TYPE_CHECKING:
    from cvae.tracking.store import Reader, StoredRun

log = logging.getLogger("cvae")
SECTIONS = {key.partition(".")[0] for key in DEFAULTS if "." in key}
OVERFLOW = 1.79e308  # MLflow stores infinity as the largest double


def load_runs(
    *,
    experiment: str | None = None,
    sweep: str | None = None,
    ids: Sequence[str] = (),
    runs: Path = RUNS,
    folders_only: bool = False,
) -> Runs:
    """The runs of an experiment, of a sweep or by name; or all.

    The folders are the truth. Where MLFLOW_TRACKING_URI names a store, the runs that
    have no readable folder here are added from it. Where neither has any that fit,
    published ones stand in, and that is said. Nothing is written.

    Args:
        ids: run names, ids, spec names, folders or MLflow run ids.
        folders_only: ask no store.

    Raises:
        RunNotFound: nothing fits; names the nearest that would.
        TrackingError: the store cannot be read.
    """
    try:
        return _load(experiment, sweep, ids, runs, not folders_only)
    except RunNotFound as none_of_ones_own:
        results = published.fallback(runs)
        if results is None:
            raise
        try:
            loaded = _load(experiment, sweep, ids, results.path, False)
        except RunNotFound as error:
            raise RunNotFound(f"{none_of_ones_own}\n{error}") from error
    log.warning("none in %s/: using what is published in %s", runs, results.path)
    return loaded


def _load(
    experiment: str | None,
    sweep: str | None,
    ids: Sequence[str],
    runs: Path,
    ask_store: bool,
) -> Runs:
    if sweep and NAME.fullmatch(sweep):
        sweep = find_sweep(sweep, runs)
    elif sweep:
        raise RunNotFound(f"no sweep {sweep[:80]!r}; {_list_sweeps(runs)}")
    rows, unreadable = _from_folders(runs, experiment, sweep)
    store = None
    if ask_store and os.environ.get(VARIABLE):
        from cvae.tracking.store import Reader

        store = Reader(runs)
        here = {run.uid for run in rows}
        stored = _from_store(store, experiment, sweep)
        rows += [run for run in stored if run.uid not in here]
    try:
        rows = _select(rows, ids) if ids and rows else rows
        if not rows:
            known = {run.experiment for run in _from_folders(runs, None, None)[0]}
            known |= set(store.experiments() if store else ())
            raise RunNotFound(_no_match(runs, experiment, sweep, sorted(known)))
    except RunNotFound as error:
        why = "".join(f"\n{name}: {text}" for name, text in unreadable.items())
        raise RunNotFound(f"{error}{why}") from error
    name = sweep or experiment or (ids[0] if len(ids) == 1 else "runs")
    titles = Counter(run.title for run in rows)
    titled = tuple(
        run if titles[run.title] == 1 else replace(run, title=run.name)
        for run in sorted(rows, key=lambda run: (run.started, run.name))
    )
    return Runs(name, titled, unreadable, sweep or "", experiment or "", runs, store)


def _select(rows: list[RunRow], ids: Sequence[str]) -> list[RunRow]:
    """The runs meant; `_` and `-` count as one in their names."""
    chosen: dict[str, RunRow] = {}
    for wanted in ids:
        name = Path(wanted).name.replace("_", "-")
        fitting = [
            run
            for run in rows
            if wanted in (run.id, run.run_id)
            or name in (each.replace("_", "-") for each in (run.name, run.spec_name))
        ]
        if not fitting:
            names = sorted({run.name for run in rows})
            raise RunNotFound(f"no run {wanted[:80]!r}; {_hint(wanted, names)}")
        chosen |= {run.uid or run.name: run for run in fitting}
    return list(chosen.values())


def _no_match(
    runs: Path, experiment: str | None, sweep: str | None, known: Sequence[str]
) -> str:
    """Why nothing was found, and what would be; `known` are the experiments."""
    if sweep:
        return f"no runs of a sweep {sweep!r}; {_list_sweeps(runs)}"
    if experiment and known:
        return f"no experiment {experiment[:80]!r}; {_hint(experiment, known)}"
    return f"no runs in {runs}/; make one with\n  {FIRST}"


def _hint(wanted: str, names: Sequence[str]) -> str:
    return (nearest(wanted[:300], names) or f"; there is {', '.join(names[:8])}")[2:]


def _list_sweeps(runs: Path) -> str:
    names = [sweep.name for sweep in sweeps(runs)]
    return f"sweeps in {runs}/: {', '.join(names[:8]) or 'none'}"


def _from_folders(
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


def _from_store(
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

"""Runs as a table, from the tracking store or from their folders.

runs = load_runs(sweep="beta")
pandas.DataFrame(runs.table())      # one row a run
runs.history(runs.rows[0], "val/neg_elbo")
"""

from __future__ import annotations

import difflib
import json
import logging
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cvae.folder import RunFolder, SweepFolder, folders, has_store, sweeps
from cvae.spec import NAME, Spec, flatten

if TYPE_CHECKING:
    from cvae.store import Stored
    from cvae.tracking import Tracker

DEFAULTS = flatten(Spec(name="default"))
OVERFLOW = 1.79e308  # MLflow stores infinity as the largest double
RUNS = Path("runs")

log = logging.getLogger("cvae")


class RunNotFound(Exception):
    """Nothing fits what was asked for; the message says what there is."""


@dataclass(frozen=True)
class Run:
    """One run: every dotted spec field, the last value of every metric.

    `folder` is None where the run's folder is not on this machine, `run_id` where the
    run was read from its folder and has not been published.
    """

    name: str
    id: str
    uid: str
    status: str
    experiment: str
    started: float  # seconds since 1970
    fields: dict[str, Any]
    metrics: dict[str, float]
    facts: dict[str, Any]  # parameters, device, versions
    digest: str  # of the data set
    command: str = ""
    commit: str = ""
    sweep: str = ""
    run_id: str | None = None
    folder: RunFolder | None = None

    @property
    def seconds(self) -> float:
        """Wall-clock time in all; nan for a run that did not come so far."""
        return self.metrics.get("time/total", math.nan)

    @property
    def seed(self) -> int:
        return int(self.fields["training.seed"])


@dataclass(frozen=True)
class Runs:
    """The runs that were asked for, oldest first, and where the rest of them is."""

    name: str
    rows: tuple[Run, ...]
    unreadable: dict[str, str] = field(default_factory=dict)  # name → why
    sweep: str = ""
    experiment: str = ""
    place: Path = RUNS
    tracker: Tracker | None = None

    @property
    def differing(self) -> list[str]:
        """The spec fields that are not the same in all runs, in the spec's order."""
        return [
            key
            for key in _keys(self.rows)
            if len({_plain(run.fields.get(key)) for run in self.rows}) > 1
        ]

    @property
    def finished(self) -> tuple[Run, ...]:
        return tuple(run for run in self.rows if run.status == "FINISHED")

    def table(self) -> list[dict[str, Any]]:
        """One row a run: what differs, `test/…`, seconds, status."""
        scores = {key for run in self.rows for key in run.metrics}
        chosen = sorted(key for key in scores if key.startswith("test/"))
        differing = self.differing
        return [
            {"run": run.name}
            | {key: run.fields.get(key) for key in differing}
            | {key: run.metrics.get(key) for key in chosen}
            | {"seconds": run.seconds, "status": run.status}
            for run in self.rows
        ]

    def history(self, run: Run, key: str) -> list[tuple[int, float]]:
        """(epoch, value) of a metric, from the run's folder if it is here.

        Raises:
            TrackingError: it is not, and the store does not answer.
        """
        if run.folder is not None:
            return [
                (record["epoch"], record["metrics"][key])
                for record in run.folder.records()
                if key in record["metrics"]
            ]
        if self.tracker is None or run.run_id is None:
            return []
        from cvae import store

        return store.history(self.tracker, run.run_id, key)

    def file(self, run: Run, path: str) -> bytes | None:
        """A file of the run's folder, or that artifact of it; None if it is missing."""
        if run.folder is not None:
            try:
                return (run.folder.path / path).read_bytes()
            except OSError:
                return None
        if self.tracker is None or run.run_id is None:
            return None
        from cvae import store

        return store.artifact(self.tracker, run.run_id, path)


def load_runs(
    *,
    experiment: str | None = None,
    sweep: str | None = None,
    ids: Sequence[str] = (),
    filter: str = "",  # MLflow's word
    runs: Path = RUNS,
    source: Literal["auto", "store", "folders"] = "auto",
) -> Runs:
    """The runs of an experiment, of a sweep, by name or by MLflow's filter; or all.

    Args:
        ids: run names, ids, spec names, folders or MLflow run ids.
        filter: MLflow's filter string, such as "metrics.`test/kl` > 5".
        source: `auto` is the tracking store where there is one, else the folders.

    Raises:
        RunNotFound: nothing fits; names the nearest that would.
        TrackingError: the store cannot be read.
        ValueError: a bad filter, or a filter without a store.
    """
    if sweep and not NAME.fullmatch(sweep):
        raise RunNotFound(f"no sweep {sweep[:80]!r}; {_sweeps(runs)}")
    tracker: Tracker | None = None
    found: list[Run] = []
    unreadable: dict[str, str] = {}
    if source == "store" or (source == "auto" and has_store(runs)):
        tracker, found = _from_store(runs, experiment, sweep, filter)
    elif filter:
        raise ValueError("a filter is answered by the tracking store; there is none")
    if source == "folders" or (source == "auto" and not filter):
        more, unreadable = _from_folders(runs, experiment, sweep, tracker)
        known = {run.uid for run in found}
        found += [run for run in more if run.uid not in known]
    chosen = _chosen(found, ids) if ids and found else found
    if not chosen:
        raise RunNotFound(_nothing(runs, experiment, sweep, filter, tracker))
    name = sweep or experiment or (ids[0] if len(ids) == 1 else "runs")
    rows = tuple(sorted(chosen, key=lambda run: (run.started, run.name)))
    return Runs(name, rows, unreadable, sweep or "", experiment or "", runs, tracker)


def _from_store(
    runs: Path, experiment: str | None, sweep: str | None, query: str
) -> tuple[Tracker, list[Run]]:
    from cvae import store
    from cvae.tracking import Tracker

    tracker = Tracker(runs)
    names = store.experiments(tracker)
    places = [id for name, id in names.items() if experiment in (None, name)]
    if sweep:
        tagged = f"tags.`cvae.sweep` = '{sweep}'"
        query = f"{tagged} and {query}" if query else tagged
    here = {folder.info.get("uid"): folder for folder in folders(runs)}
    return tracker, [
        _stored_run(stored, here.get(stored.tags.get("cvae.uid", "")))
        for stored in (store.search(tracker, places, query) if places else ())
        if "cvae.kind" not in stored.tags and "name" in stored.params
    ]


def _stored_run(stored: Stored, folder: RunFolder | None) -> Run:
    known = {key: value for key, value in stored.params.items() if _is_field(key)}
    facts = {key: stored.params[key] for key in stored.params.keys() - known.keys()}
    fields = DEFAULTS | {key: _value(key, text) for key, text in known.items()}
    return Run(
        name=folder.name if folder else stored.name,
        id=stored.tags.get("cvae.id", ""),
        uid=stored.tags.get("cvae.uid", ""),
        status=stored.status,
        experiment=str(fields["tracking.experiment"]),
        started=stored.started,
        fields=fields,
        metrics={key: _finite_again(value) for key, value in stored.metrics.items()},
        facts=facts,
        digest=stored.digest,
        command=stored.tags.get("mlflow.source.name", ""),
        commit=stored.tags.get("mlflow.source.git.commit", ""),
        sweep=stored.tags.get("cvae.sweep", ""),
        run_id=stored.run_id,
        folder=folder,
    )


def _from_folders(
    runs: Path, experiment: str | None, sweep: str | None, tracker: Tracker | None
) -> tuple[list[Run], dict[str, str]]:
    """The folders that fit and are not in the store; the unreadable with the reason."""
    listed = SweepFolder(runs / "sweeps" / sweep).info.get("runs", []) if sweep else []
    members = {entry["folder"] for entry in listed}
    found, unreadable = [], {}
    for folder in folders(runs):
        info = folder.info
        tagged = sweep is not None and info.get("sweep") == sweep
        if sweep and not tagged and folder.name not in members:
            continue
        if tracker and (tagged or not sweep) and _published(folder, tracker.uri):
            continue
        try:
            run = _folder_run(folder)
        except Exception as error:  # whatever it is, it is wrong with this folder only
            unreadable[folder.name] = " ".join(str(error).split())[:200]
            continue
        if experiment in (None, run.experiment):
            found.append(run)
    return found, unreadable


def _published(folder: RunFolder, uri: str) -> bool:
    return f'"{uri}"' in _text(folder.path / "tracking.json")


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _folder_run(folder: RunFolder) -> Run:
    info = folder.info
    fields = flatten(folder.spec())
    seen = re.search(r'"run_id": "(\w+)"', _text(folder.path / "tracking.json"))
    if info["status"] == "FINISHED" and not (folder.path / "records.jsonl").exists():
        raise ValueError("records.jsonl is missing")
    return Run(
        name=folder.name,
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
        run_id=seen[1] if seen else None,
        folder=folder,
    )


def _chosen(found: list[Run], ids: Sequence[str]) -> list[Run]:
    chosen: dict[str, Run] = {}
    for wanted in ids:
        name = Path(wanted).name
        fitting = [
            run
            for run in found
            if wanted in (run.id, run.run_id, run.fields["name"]) or name == run.name
        ]
        if not fitting:
            names = sorted({run.name for run in found})
            raise RunNotFound(f"no run {wanted[:80]!r}; {_nearest(wanted, names)}")
        chosen |= {run.uid or run.name: run for run in fitting}
    return list(chosen.values())


def _nothing(
    runs: Path,
    experiment: str | None,
    sweep: str | None,
    query: str,
    tracker: Tracker | None,
) -> str:
    """Why nothing was found, and what would be."""
    if experiment:
        known = _experiments(runs, tracker)
        if experiment not in known:
            return f"no experiment {experiment[:80]!r}; {_nearest(experiment, known)}"
    if query:
        return f"no run fits the filter {query!r}"
    if sweep:
        return f"no runs of a sweep {sweep!r}; {_sweeps(runs)}"
    if experiment:
        return f"the experiment {experiment!r} has no runs"
    return (
        f"no runs in {runs}/; make one with\n"
        "  make experiment CONFIG=experiments/quickstart.yaml"
    )


def _experiments(runs: Path, tracker: Tracker | None) -> list[str]:
    """The experiments of the store and of the folders."""
    found = {run.experiment for run in _from_folders(runs, None, None, None)[0]}
    if tracker is not None:
        from cvae import store

        found |= set(store.experiments(tracker))
    return sorted(found)


def _nearest(wanted: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(wanted[:300], names, 3, 0.4)
    return (
        f"did you mean {' or '.join(near)}?" if near else f"there is {_listed(names)}"
    )


def _sweeps(runs: Path) -> str:
    return f"sweeps in {runs}/: {_listed([sweep.name for sweep in sweeps(runs)])}"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:8]) or "none"
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown


def _is_field(key: str) -> bool:
    sections = {known.partition(".")[0] for known in DEFAULTS}
    return key in DEFAULTS or ("." in key and key.partition(".")[0] in sections)


def _value(key: str, text: str) -> Any:
    """A param's text as the field's value; text fields are never read as JSON."""
    if isinstance(DEFAULTS.get(key), str):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _finite_again(value: float) -> float:
    return math.copysign(math.inf, value) if abs(value) > OVERFLOW else value


def _keys(rows: Iterable[Run]) -> list[str]:
    return list(
        dict.fromkeys([*DEFAULTS, *(key for run in rows for key in run.fields)])
    )


def _plain(value: Any) -> str:
    return json.dumps(value, sort_keys=True)

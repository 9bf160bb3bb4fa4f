"""Runs as a table, from their folders, and from MLflow where it is named.

runs = load_runs(sweep="beta")
runs.table()                                    # a pandas.DataFrame, one row a run
runs.history(runs.rows[0], "val/neg_elbo")
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from analysis.reading.runs import RunRow, Runs
from analysis.reading.sources import from_folders, from_store
from cvae.errors import RunNotFound
from cvae.run import published
from cvae.run.find import find_sweep, sweeps
from cvae.run.folder import FIRST, RUNS
from cvae.spec.document import nearest
from cvae.spec.identity import NAME
from cvae.tracking.address import VARIABLE

log = logging.getLogger("cvae")


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
    rows, unreadable = from_folders(runs, experiment, sweep)
    store = None
    if ask_store and os.environ.get(VARIABLE):
        from cvae.tracking.store import Reader

        store = Reader(runs)
        here = {run.uid for run in rows}
        stored = from_store(store, experiment, sweep)
        rows += [run for run in stored if run.uid not in here]
    try:
        rows = _select(rows, ids) if ids and rows else rows
        if not rows:
            known = {run.experiment for run in from_folders(runs, None, None)[0]}
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

"""What was made from runs, put where they are in the tracking store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.reading.load import load_runs
from analysis.reading.runs import Runs
from cvae.errors import TrackingError
from cvae.run.folder import SweepFolder
from cvae.tracking.address import has_store

if TYPE_CHECKING:
    from cvae.loading.samples import Run
    from cvae.tracking.store import Store


def attach(
    runs: Runs, files: Sequence[Path], folder: str, *, always: bool = False
) -> str:
    """Files as artifacts of a sweep's parent run, in `folder`; says where, or why not.

    Files of one run go to the run itself. With `always` those of several runs without a
    sweep go to a run of MLflow's experiment `reports`, which holds nothing else.
    """
    if runs.store is None and not has_store(runs.place):
        return "not in MLflow: there is no tracking store"
    from cvae.tracking.store import Store

    try:
        store = runs.store or Store(runs.place)
        home = _parent(runs, store) if runs.sweep else None
        if home is None and len(runs.rows) == 1:
            home = runs.rows[0].run_id
        elif home is None and always:
            known = runs.experiment in store.experiments()
            home = store.report_run(runs.experiment) if known else None
        if home is None:
            return f"not in MLflow: {_why_not_attached(runs)}"
        for file in files:
            store.attach(home, file, folder)
        store.link_report(home)
    except TrackingError as error:
        return f"not in MLflow: {error}"
    return f"in MLflow: run {home}, artifacts {folder}/"


def attach_to_run(run: Run, runs: Path, files: Sequence[Path], folder: str) -> str:
    """Files as artifacts of the one run that they were made of; as `attach`."""
    return attach(load_runs(ids=[run.folder.name], runs=runs), files, folder)


def _parent(runs: Runs, store: Store) -> str | None:
    """The sweep's run: as its folder says, or as the store does."""
    known = SweepFolder(runs.place / "sweeps" / runs.sweep).published
    if known.get("uri") == store.uri and "run_id" in known:
        return str(known["run_id"])
    places = list(store.experiments().values())
    query = f"tags.`cvae.sweep` = '{runs.sweep}' and tags.`cvae.kind` = 'sweep'"
    for parent in store.search(places, query):
        return parent.run_id
    return None


def _why_not_attached(runs: Runs) -> str:
    if runs.sweep:
        return f"the sweep {runs.sweep} has no run of its own there"
    if len(runs.rows) == 1:
        return f"the run is not there; make sync RUN={runs.rows[0].name}"
    return "only a sweep has a run of its own to hold this"

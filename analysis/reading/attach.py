"""Files made from runs, put beside the runs in MLflow: with ATTACH=1 alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.reading.load import load_runs
from analysis.reading.runs import Runs
from cvae.errors import RunNotFound
from cvae.run.folder import SweepFolder

if TYPE_CHECKING:
    from cvae.loading.loaded import LoadedRun
    from cvae.tracking.store import Store


def attach(runs: Runs, files: Sequence[Path], folder: str) -> str:
    """Put files among the artifacts of a run in MLflow, in `folder`; say which run.

    Those of a sweep go to the sweep's own run, those of one run to that run, those of
    an experiment to a run of MLflow's experiment `reports`, which holds nothing else.

    Raises:
        RunNotFound: the runs are not in MLflow, or are of no one sweep or experiment.
        TrackingError: the store cannot be used.
    """
    from cvae.tracking.connection import clear_errors
    from cvae.tracking.store import Store

    store = Store(runs.place)
    home = None
    if runs.sweep:
        home = _parent(runs, store)
    elif len(runs.rows) == 1:
        home = runs.rows[0].run_id
    elif runs.experiment in store.experiments():
        home = store.report_run(runs.experiment)
    with clear_errors(store.address):
        missing = home is None or not store.has_run(home)
    if home is None or missing:
        one = f"RUN={runs.rows[0].name} " if len(runs.rows) == 1 else ""
        raise RunNotFound(
            f"written, but not attached: {runs.name} is not in MLflow as one run, "
            f"sweep or experiment; make sync {one}publishes runs"
        )
    for file in files:
        store.attach(home, file, folder)
    store.link_report(home)
    return f"in MLflow: run {home}, artifacts {folder}/"


def attach_to_run(
    run: LoadedRun, runs: Path, files: Sequence[Path], folder: str
) -> str:
    """Files as artifacts of the one run that they were made of; as `attach`."""
    return attach(
        load_runs(ids=[run.folder.name], runs=runs, folders_only=True), files, folder
    )


def _parent(runs: Runs, store: Store) -> str | None:
    """The sweep's run: as its folder says, or as the store does."""
    known = SweepFolder(runs.place / "sweeps" / runs.sweep).published
    if known.get("uri") == store.uri and "run_id" in known:
        return str(known["run_id"])
    places = list(store.experiments().values())
    query = f"tags.`cvae.sweep` = '{runs.sweep}' and tags.`cvae.kind` = 'sweep'"
    return next((parent.run_id for parent in store.search(places, query)), None)

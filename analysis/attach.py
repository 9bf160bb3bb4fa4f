"""What was made from runs, put where they are in the tracking store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.runs import Runs
from cvae.folder import has_store

if TYPE_CHECKING:
    from cvae.tracking import Tracker


def attach(
    runs: Runs, files: Sequence[Path], folder: str, *, always: bool = False
) -> str:
    """Files as artifacts of a sweep's parent run, in `folder`; says where, or why not.

    With `always` files of runs without a sweep go somewhere, too: to the run itself if
    it is one, else to a run of the experiment that holds nothing but such pages.
    """
    if runs.tracker is None and not has_store(runs.place):
        return "not in MLflow: there is no tracking store"
    from cvae import store
    from cvae.tracking import Tracker, TrackingError

    try:
        tracker = runs.tracker or Tracker(runs.place)
        home = _parent(runs, tracker) if runs.sweep else None
        if home is None and always:
            home = _page(runs, tracker)
        if home is None:
            return f"not in MLflow: {_why(runs)}"
        for file in files:
            store.attach(tracker, home, file, folder)
    except TrackingError as error:
        return f"not in MLflow: {error}"
    return f"in MLflow: run {home}, artifacts {folder}/"


def _parent(runs: Runs, tracker: Tracker) -> str | None:
    """The sweep's run: as its folder says, or as the store does."""
    from cvae import store

    note = runs.place / "sweeps" / runs.sweep / "tracking.json"
    try:
        known = json.loads(note.read_text())
        if known["uri"] == tracker.uri:
            return str(known["run_id"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    places = list(store.experiments(tracker).values())
    query = f"tags.`cvae.sweep` = '{runs.sweep}' and tags.`cvae.kind` = 'sweep'"
    for parent in store.search(tracker, places, query):
        return parent.run_id
    return None


def _page(runs: Runs, tracker: Tracker) -> str | None:
    from cvae import store

    if len(runs.rows) == 1:
        return runs.rows[0].run_id
    place = store.experiments(tracker).get(runs.experiment)
    return store.page(tracker, place, "report") if place else None


def _why(runs: Runs) -> str:
    if runs.sweep:
        return f"the sweep {runs.sweep} has no run of its own there"
    return "only a sweep has a run of its own to hold this"

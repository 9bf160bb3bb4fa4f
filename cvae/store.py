"""What a tracking store has of runs, read page by page, and files added to it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from cvae.tracking import BATCH, Tracker, TrackingError, clear_errors

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


class Stored(NamedTuple):
    """A run as the store has it; every param is text, every metric its last value."""

    run_id: str
    name: str
    status: str
    started: float  # seconds since 1970
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]
    digest: str  # of the data set; empty if none was logged


def experiments(tracker: Tracker) -> dict[str, str]:
    """The id of every experiment by its name."""
    with clear_errors(tracker.uri):
        found = tracker.client.search_experiments()
    return {each.name: str(each.experiment_id) for each in found}


def search(
    tracker: Tracker, experiments: list[str], query: str = ""
) -> Iterator[Stored]:
    """The runs of these experiment ids that fit MLflow's filter, newest first.

    Raises:
        ValueError: MLflow does not understand the filter.
    """
    token: str | None = None
    while token != "":
        try:
            with clear_errors(tracker.uri):
                page = tracker.client.search_runs(
                    experiments, query, max_results=BATCH, page_token=token
                )
        except TrackingError as error:
            code = getattr(error.__cause__, "error_code", "")
            if query and code == "INVALID_PARAMETER_VALUE":
                raise ValueError(f"filter {query!r}: {error.__cause__}") from error
            raise
        yield from map(_stored, page)
        token = page.token or ""


def history(tracker: Tracker, run_id: str, key: str) -> list[tuple[int, float]]:
    """(step, value) of a metric, in order of steps."""
    with clear_errors(tracker.uri):
        points = tracker.client.get_metric_history(run_id, key)
    return sorted({point.step: point.value for point in points}.items())


def artifact(tracker: Tracker, run_id: str, path: str) -> bytes | None:
    """The content of a run's artifact; None if there is none."""
    with tempfile.TemporaryDirectory() as aside, suppress(TrackingError, OSError):
        with clear_errors(tracker.uri):
            found = tracker.client.download_artifacts(run_id, path, aside)
        return Path(found).read_bytes()
    return None


def attach(tracker: Tracker, run_id: str, path: Path, folder: str) -> None:
    """Add a file to the run's artifacts, in a folder of them; an older one goes."""
    with clear_errors(tracker.uri):
        tracker.client.log_artifact(run_id, str(path), folder)


def page(tracker: Tracker, experiment: str, name: str) -> str:
    """The id of a run of the experiment that only holds files, made if missing."""
    query = f"tags.`cvae.kind` = 'page' and attributes.run_name = '{name}'"
    client = tracker.client
    with clear_errors(tracker.uri):
        for run in client.search_runs([experiment], query, max_results=1):
            return str(run.info.run_id)
        run = client.create_run(experiment, tags={"cvae.kind": "page"}, run_name=name)
        client.set_terminated(run.info.run_id, "FINISHED")
    return str(run.info.run_id)


def _stored(run: Any) -> Stored:
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return Stored(
        run.info.run_id,
        run.info.run_name or run.info.run_id,
        run.info.status,
        (run.info.start_time or 0) / 1000,
        run.data.params,
        run.data.metrics,
        run.data.tags,
        next((given.dataset.digest for given in inputs), ""),
    )

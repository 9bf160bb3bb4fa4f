"""A tracking store: reached, and read page by page; `publish.py` writes runs to it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from cvae.errors import TrackingError
from cvae.tracking import charts
from cvae.tracking.address import (
    database,
    is_sqlite,
    mlflow_command,
    redacted,
    tracking_uri,
)
from cvae.tracking.connection import (
    MlflowClient,
    MlflowException,
    alone,
    clear_errors,
    make_database,
    relocate_artifacts,
)
from cvae.tracking.note import report_link

BATCH = 1000  # what a call may log or ask for, MLflow's own limit
REPORTS = "reports"  # the experiment of what only holds pages
FACT = "fact."  # prefix of the tags that name hardware and versions


class StoredRun(NamedTuple):
    """A run as the store has it; every param is text, every metric its last value."""

    run_id: str
    name: str
    status: str
    started: float  # seconds since 1970
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]
    digest: str  # of the data set; empty if none was logged

    @property
    def facts(self) -> dict[str, str]:
        """Hardware and versions, by the names that `run.json` gives them."""
        facts = [key for key in self.tags if key.startswith(FACT)]
        return {key.removeprefix(FACT): self.tags[key] for key in facts}


class Store:
    """The store at MLFLOW_TRACKING_URI, or a database beside the runs, made if missing.

    Raises:
        TrackingError: from the constructor, when the store cannot be used.
    """

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self.address = tracking_uri(runs)  # may hold a password: never shown
        self.uri = redacted(self.address)  # what is printed and kept in files
        self.local = is_sqlite(self.address)
        with clear_errors(self.address):
            self._prepare()
            self.client = self.connect()

    def _prepare(self) -> None:
        """Make a missing database; let one that was copied or moved know of it."""
        if not self.local:
            return
        with self._one_at_a_time():
            make_database(place := database(self.address))
        self.connect()  # a database of another MLflow is left alone
        if place.parent == self.runs.resolve():  # the layout made here
            with self._one_at_a_time():
                relocate_artifacts(place)

    def connect(self) -> MlflowClient:
        """A client of a store that answers.

        Raises:
            TrackingError: it does not.
        """
        with clear_errors(self.address):
            client = MlflowClient(self.address)
            client.search_experiments(max_results=1)
        return client

    def experiment(self, name: str) -> str:
        """The id of the experiment, made if there is none."""
        with self._one_at_a_time():
            stored = self.client.get_experiment_by_name(name)
            if stored is None:
                place = (self.runs.resolve() / "artifacts").as_uri()
                kind = {"mlflow.experimentKind": "custom_model_development"}
                made = self.client.create_experiment(
                    name, place if self.local else None, kind
                )
                return str(made)
        if stored.lifecycle_stage != "active":
            words = ("experiments", "restore", "-x", stored.experiment_id)
            raise TrackingError(
                f"the experiment {name!r} was deleted but keeps its name; choose "
                "another with tracking.experiment, or restore it:\n  "
                + mlflow_command(self.address, *words)
            )
        return str(stored.experiment_id)

    def has_run(self, run_id: str) -> bool:
        """Whether the run is there and not deleted."""
        try:
            return bool(self.client.get_run(run_id).info.lifecycle_stage == "active")
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":  # another store, same URI
                return False
            raise

    def page_links(self, address: str) -> dict[str, str]:
        """The links to a UI at `address` by experiment, that of the newest run last."""
        with clear_errors(self.address):
            known = self.client.search_experiments()
            ids = [experiment.experiment_id for experiment in known]
            newest = self.client.search_runs(ids, charts.RUNS_ONLY, max_results=1)
        last = newest[0].info.experiment_id if newest else ""
        links = {}
        for one in sorted(known, key=lambda one: one.experiment_id == last):
            if (view := charts.TAG in one.tags) or one.name == REPORTS:
                links[one.name] = charts.link(address, one.experiment_id, view=view)
        return links

    def experiments(self) -> dict[str, str]:
        """The id of every experiment by its name."""
        with clear_errors(self.address):
            stored = self.client.search_experiments()
        return {each.name: str(each.experiment_id) for each in stored}

    def search(self, experiments: list[str], query: str = "") -> Iterator[StoredRun]:
        """The runs of these experiment ids that fit MLflow's filter, newest first."""
        token: str | None = None
        while token != "":
            with clear_errors(self.address):
                page = self.client.search_runs(
                    experiments, query, max_results=BATCH, page_token=token
                )
            yield from map(_stored_run, page)
            token = page.token or ""

    def history(self, run_id: str, key: str) -> list[tuple[int, float]]:
        """(step, value) of a metric, in order of steps."""
        with clear_errors(self.address):
            points = self.client.get_metric_history(run_id, key)
        return sorted({point.step: point.value for point in points}.items())

    def artifact(self, run_id: str, path: str) -> bytes | None:
        """The content of a run's artifact; None if there is none."""
        with tempfile.TemporaryDirectory() as aside, suppress(TrackingError, OSError):
            with clear_errors(self.address):
                copy = self.client.download_artifacts(run_id, path, aside)
            return Path(copy).read_bytes()
        return None

    def attach(self, run_id: str, path: Path, folder: str) -> None:
        """Add a file to the run's artifacts, in a folder of them; an older one goes."""
        with clear_errors(self.address):
            self.client.log_artifact(run_id, str(path), folder)

    def link_report(self, run_id: str) -> None:
        """Lead from a run's description to the report among its artifacts, if any."""
        with clear_errors(self.address):
            if not self.client.list_artifacts(run_id, "report"):
                return
            run = self.client.get_run(run_id)
            link = report_link(run.info.experiment_id, run_id)
            note = run.data.tags.get("mlflow.note.content", "")
            if link not in note:
                text = f"{link}\n\n{note}"
                self.client.set_tag(run_id, "mlflow.note.content", text)

    def report_run(self, name: str) -> str:
        """The id of the run that holds the reports of an experiment, made if missing.

        It lies in an experiment of its own: among the runs it would be one of them.
        """
        place = self.experiment(REPORTS)
        with clear_errors(self.address):
            for run in self.client.search_runs([place], "tags.`cvae.kind` = 'page'"):
                if run.info.run_name == name:
                    return str(run.info.run_id)
            tags = {"cvae.kind": "page"}
            run = self.client.create_run(place, tags=tags, run_name=name)
            self.client.set_terminated(run.info.run_id, "FINISHED")
        return str(run.info.run_id)

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        """Migrations and experiment creation take no lock of their own in MLflow."""
        place = database(self.address).parent if self.local else self.runs
        place.mkdir(parents=True, exist_ok=True)
        with alone(place / ".store.lock"):
            yield


class Reader(Store):
    """A store that is only read: nothing is made, migrated or moved in it.

    Raises:
        TrackingError: from the constructor, when there is none or it does not answer.
    """

    def _prepare(self) -> None:
        if self.local and not database(self.address).exists():
            raise TrackingError(f"tracking store {self.uri}: there is no such file")


def _stored_run(run: Any) -> StoredRun:
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return StoredRun(
        run.info.run_id,
        run.info.run_name or run.info.run_id,
        run.info.status,
        (run.info.start_time or 0) / 1000,
        run.data.params,
        run.data.metrics,
        run.data.tags,
        next((given.dataset.digest for given in inputs), ""),
    )

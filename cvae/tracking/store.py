"""A tracking store: reached, and read page by page; `tracking.py` writes to it.

Only these two files import MLflow.
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from cvae.errors import TrackingError
from cvae.run.folder import database, tracking_uri
from cvae.tracking import charts

# An absent server is noticed in seconds, and nobody is phoned home.
for _key, _value in {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}.items():
    os.environ.setdefault(_key, _value)

from mlflow import MlflowClient  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402

BATCH = 1000  # what a call may log or ask for, MLflow's own limit
CONNECT = 6.0  # seconds that a server or database may take to say hello

T = TypeVar("T")
log = logging.getLogger("cvae")
for _name in ("urllib3", "mlflow.store.db.utils"):  # we say it ourselves, in one line
    logging.getLogger(_name).setLevel(logging.CRITICAL)


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


class Store:
    """The store at MLFLOW_TRACKING_URI, or a database beside the runs, made if missing.

    Raises:
        TrackingError: from the constructor, when the store cannot be used.
    """

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self.uri = tracking_uri(runs)
        self.local = self.uri.startswith("sqlite:")
        with clear_errors(self.uri):
            if self.local:
                with self._one_at_a_time():
                    make_database(database(self.uri))
            self.client = self.greet()

    def greet(self) -> MlflowClient:
        """A client of a store that answers.

        Raises:
            TrackingError: it does not.
        """
        seconds = math.inf if self.local else CONNECT
        with clear_errors(self.uri):
            client = within(seconds, lambda: MlflowClient(self.uri))
            within(seconds, lambda: client.search_experiments(max_results=1))
        return client

    def experiment(self, name: str) -> str:
        """The id of the experiment, made if there is none."""
        with self._one_at_a_time():
            found = self.client.get_experiment_by_name(name)
            if found is None:
                place = (self.runs.resolve() / "artifacts").as_uri()
                kind = {
                    "mlflow.experimentKind": "custom_model_development",
                    "mlflow.note.content": "Compare test/neg_elbo: nats per image, "
                    "lower is better; not between grey and binarised pixels.",
                }
                return str(
                    self.client.create_experiment(
                        name, place if self.local else None, kind
                    )
                )
        if found.lifecycle_stage != "active":
            raise TrackingError(
                f"the experiment {name!r} was deleted but keeps its name; restore it "
                f"(mlflow experiments restore -x {found.experiment_id}) or "
                "choose another with tracking.experiment"
            )
        return str(found.experiment_id)

    def has(self, run_id: str) -> bool:
        """Whether the run is there and not deleted."""
        try:
            return bool(self.client.get_run(run_id).info.lifecycle_stage == "active")
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":  # another store, same URI
                return False
            raise

    def pages(self, address: str) -> dict[str, str]:
        """The comparison page of every experiment in a UI at `address`, by name."""
        with clear_errors(self.uri):
            found = self.client.search_experiments()
        return {
            experiment.name: charts.link(address, experiment.experiment_id)
            for experiment in found
            if charts.TAG in experiment.tags
        }

    def experiments(self) -> dict[str, str]:
        """The id of every experiment by its name."""
        with clear_errors(self.uri):
            found = self.client.search_experiments()
        return {each.name: str(each.experiment_id) for each in found}

    def search(self, experiments: list[str], query: str = "") -> Iterator[Stored]:
        """The runs of these experiment ids that fit MLflow's filter, newest first.

        Raises:
            ValueError: MLflow does not understand the filter.
        """
        token: str | None = None
        while token != "":
            try:
                with clear_errors(self.uri):
                    page = self.client.search_runs(
                        experiments, query, max_results=BATCH, page_token=token
                    )
            except TrackingError as error:
                code = getattr(error.__cause__, "error_code", "")
                if query and code == "INVALID_PARAMETER_VALUE":
                    raise ValueError(f"filter {query!r}: {error.__cause__}") from error
                raise
            yield from map(_stored, page)
            token = page.token or ""

    def history(self, run_id: str, key: str) -> list[tuple[int, float]]:
        """(step, value) of a metric, in order of steps."""
        with clear_errors(self.uri):
            points = self.client.get_metric_history(run_id, key)
        return sorted({point.step: point.value for point in points}.items())

    def artifact(self, run_id: str, path: str) -> bytes | None:
        """The content of a run's artifact; None if there is none."""
        with tempfile.TemporaryDirectory() as aside, suppress(TrackingError, OSError):
            with clear_errors(self.uri):
                found = self.client.download_artifacts(run_id, path, aside)
            return Path(found).read_bytes()
        return None

    def attach(self, run_id: str, path: Path, folder: str) -> None:
        """Add a file to the run's artifacts, in a folder of them; an older one goes."""
        with clear_errors(self.uri):
            self.client.log_artifact(run_id, str(path), folder)

    def page(self, experiment: str, name: str) -> str:
        """The id of a run of the experiment that only holds files, made if missing."""
        query = f"tags.`cvae.kind` = 'page' and attributes.run_name = '{name}'"
        with clear_errors(self.uri):
            for run in self.client.search_runs([experiment], query, max_results=1):
                return str(run.info.run_id)
            run = self.client.create_run(
                experiment, tags={"cvae.kind": "page"}, run_name=name
            )
            self.client.set_terminated(run.info.run_id, "FINISHED")
        return str(run.info.run_id)

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        """Migrations and experiment creation take no lock of their own in MLflow."""
        place = database(self.uri).parent if self.local else self.runs
        place.mkdir(parents=True, exist_ok=True)
        with (place / ".store.lock").open("a") as file:
            for tries in range(60 * 20):
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if tries == 10 * 20:
                        log.info("waiting for another process that sets up %s", place)
                time.sleep(0.05)
            else:
                raise TimeoutError(f"{file.name} has been held for a minute")
            yield


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


def preload() -> None:
    """Import what MLflow itself imports at the first use of a database: a second."""
    if not os.environ.get("MLFLOW_TRACKING_URI", "").startswith("http"):
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401


def make_database(path: Path) -> None:
    """A new database, aside and then renamed: MLflow cannot go on with half of one."""
    if path.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    aside = path.with_name(f".{path.name}.part")
    for file in path.parent.glob(f"{aside.name}*"):
        file.unlink()
    with closing(sqlite3.connect(aside)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    store = SqlAlchemyStore(f"sqlite:///{aside}", (path.parent / "artifacts").as_uri())
    store.engine.dispose()
    with closing(sqlite3.connect(aside)) as connection:  # the log into the file
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    aside.replace(path)


def within(seconds: float, act: Callable[[], T]) -> T:
    """`act()`, but not waited for any longer; it may then go on behind the scenes.

    Raises:
        TimeoutError: it takes longer. Whatever `act` raises.
    """
    if seconds == math.inf:
        return act()
    answer: Future[T] = Future()

    def ask() -> None:
        try:
            answer.set_result(act())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    wait([answer], seconds)
    if not answer.done():
        raise TimeoutError(f"no answer in {seconds:.0f} s")
    return answer.result()


@contextmanager
def clear_errors(uri: str) -> Iterator[None]:
    """Whatever MLflow, its database or the network throws, as one clear line."""
    import requests
    import sqlalchemy.exc

    try:
        yield
    except (
        MlflowException,
        requests.RequestException,
        sqlalchemy.exc.SQLAlchemyError,
        OSError,  # the artifacts' disk, and what took too long
        ValueError,  # an answer that is no JSON
        ImportError,  # the database's driver
        sqlite3.Error,
    ) as error:
        text = " ".join(str(error).split())
        advice = ""
        if "out-of-date database schema" in text:
            advice = (
                "; made by another MLflow version: copy the file, then "
                f"'mlflow db upgrade {uri}'"
            )
        raise TrackingError(f"tracking store {uri}: {text[:300]}{advice}") from error

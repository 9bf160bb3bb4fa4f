"""Run folders published to MLflow.

Publishing is one idempotent function of the folder: it logs what the store lacks, so
the live run, a resumed run and a later `sync` are the same call. A metric point carries
the time of its record, which makes a repeated point the same point. Params, metrics and
status come first; each further part is tried on its own, and may be refused.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, RunTag
from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING

from cvae.errors import UNREADABLE, TrackingError
from cvae.run.files import write_atomic
from cvae.run.find import display_name
from cvae.run.folder import RunFolder, SweepFolder
from cvae.spec.identity import flatten
from cvae.tracking import charts, logged_model, parts
from cvae.tracking.address import redacted
from cvae.tracking.connection import MlflowException, alone, clear_errors
from cvae.tracking.note import description, sweep_description
from cvae.tracking.parts import text
from cvae.tracking.store import BATCH, FACT, Store

LONGEST_NAME = 250  # of a run, MLflow's own limit
LIVE = ("NEW", "RUNNING")
LOCK = "tracking.lock"  # in the folder: one process at a time publishes it
CURES = {
    "files": "a server needs --serve-artifacts to take them",
    "model": "tracking.log_model=false leaves models out",
    "pictures": "a larger tracking.images_every logs fewer",
}

log = logging.getLogger("cvae")


class Tracker(Store):
    """A store that run folders are published to.

    Raises:
        TrackingError: from the constructor, when the store cannot be used.
    """

    def __init__(self, runs: Path) -> None:
        super().__init__(runs)
        self._refused: dict[tuple[str, str], Any] = {}  # (folder, part): when
        self._named: set[str] = set()  # parts that the user has been told of

    def try_publish(self, folder: RunFolder | SweepFolder, *, adopt: str = "") -> str:
        """Publish a run or a sweep; returns why the store lacks it, or nothing.

        Raises:
            TrackingError: the store cannot be reached.
        """
        try:
            folder.check_files()
            if isinstance(folder, SweepFolder):
                self.publish_sweep(folder, adopt=adopt)
            else:
                self.publish(folder, adopt=adopt)
        except UNREADABLE as error:
            if isinstance(error, TrackingError):
                self.connect()  # one folder's fault, or the store's?
            return f"{folder.name}: not published: {error}"
        return ""

    def publish(
        self, folder: RunFolder, *, model: bool = False, adopt: str = ""
    ) -> None:
        """Log whatever of the run the store does not have yet.

        A part after params, metrics and status that the store refuses is left out, and
        named once in a line.

        Args:
            model: log its model even where the spec says not to.
            adopt: an MLflow run that a new run becomes, made by `mlflow run`.

        Raises:
            TrackingError: the store cannot be reached or refuses; call again later.
        """
        with clear_errors(self.address), alone(folder.path / LOCK):
            status = folder.status  # first: one that ended has all its records
            cursor = self._start_run(folder, adopt)
            self._metrics(folder, cursor)
            self._tell_status(folder, cursor, status)
            client, run_id = self.client, cursor["run_id"]
            view = (cursor["experiment_id"], charts.TAG, charts.view())
            each = {
                "description": lambda: client.set_tag(
                    run_id, "mlflow.note.content", description(folder)
                ),
                "data sets": lambda: self._data_sets(folder, run_id),
                "page of charts": lambda: client.set_experiment_tag(*view),
                "pictures": lambda: self._images(folder, cursor),
            }
            if status not in LIVE:
                each["files"] = lambda: parts.log_files(client, folder, run_id)
            if status == "FINISHED":
                each["model"] = lambda: self._model(folder, cursor, asked=model)
            when = [status, 0 if status in LIVE else cursor["records"]]
            self._further(folder, cursor, each, when, asked=model)

    def _further(
        self,
        folder: RunFolder | SweepFolder,
        cursor: dict[str, Any],
        each: dict[str, Callable[[], None]],
        when: list[Any],
        *,
        asked: bool = False,
    ) -> None:
        """Each part on its own, unless it was done or refused `when` all was as now."""
        done, refused = cursor.setdefault("done", {}), dict[str, str]()
        before = dict(done)
        for part, act in each.items():
            forced = part == "pictures" or (asked and part == "model")
            if done.get(part) == when and not forced:
                continue
            if self._refused.get((folder.name, part)) == when:
                continue
            try:
                with clear_errors(self.address):
                    act()
                done[part] = when
            except TrackingError as error:
                self.client.get_run(cursor["run_id"])  # or is the whole store away?
                if asked and part == "model":
                    raise
                self._refused[folder.name, part] = when
                refused[part] = str(error.__cause__)
        if done != before:
            _write_cursor(folder, cursor)
        if new := [part for part in refused if part not in self._named]:
            self._named |= set(new)
            cures = [CURES[part] for part in new if part in CURES]
            log.warning(
                "%s: MLflow refuses its %s and has all else: %s; "
                "make sync tries again%s",
                *(folder.name, ", ".join(new)),
                " ".join(redacted(refused[new[0]]).split())[:300],
                "".join(f"; {cure}" for cure in cures),
            )

    def publish_sweep(self, folder: SweepFolder, *, adopt: str = "") -> str:
        """Make the run that a sweep's runs are nested under, or bring it up to date.

        Returns:
            Its run id.

        Raises:
            TrackingError: as `publish`.
        """
        info = folder.info
        with clear_errors(self.address), alone(folder.path / LOCK):
            cursor = self._sweep_run(folder, adopt)
            run_id = str(cursor["run_id"])
            tags = parts.swept_values(info)
            tags |= {"cvae.best": text(info.get("best", {}))}
            all_tags = [RunTag(key, value[:5000]) for key, value in tags.items()]
            self.client.log_batch(run_id, tags=all_tags)
            if info["status"] == "RUNNING":
                self.client.update_run(run_id, status="RUNNING")
            else:
                ended = int(1000 * info["ended"])
                figures = info.get("figures", {}).items()
                points = [Metric(key, value, ended, 0) for key, value in figures]
                self.client.log_batch(run_id, metrics=points)
                self.client.set_terminated(run_id, info["status"], ended)
            cursor["status"] = info["status"]
            _write_cursor(folder, cursor)
            each = {
                "description": lambda: self._describe_sweep(folder, run_id),
                "files": lambda: parts.log_artifacts(
                    self.client, folder.path, run_id, parts.SWEEP_ARTIFACTS
                ),
            }
            self._further(folder, cursor, each, [time.time()])  # each time anew
        return run_id

    def _describe_sweep(self, folder: SweepFolder, run_id: str) -> None:
        note = sweep_description(folder)
        self.client.set_tag(run_id, "mlflow.note.content", note)
        self.link_report(run_id)

    def _sweep_run(self, folder: SweepFolder, adopt: str) -> dict[str, Any]:
        """The cursor of the sweep's run, which is found by its uid or made."""
        info = folder.info
        experiment = self.experiment(info["experiment"])
        cursor = _read_cursor(folder, self.uri)
        if cursor.get("experiment_id") == experiment and self.has_run(cursor["run_id"]):
            return cursor
        tags = {"cvae.kind": "sweep", "cvae.sweep": folder.name}
        tags |= parts.source_tags(info)
        return self._made(folder, experiment, folder.name, tags, adopt)

    def start_monitor(self, folder: RunFolder | SweepFolder) -> Any:
        """MLflow's monitor of this machine, which logs to the folder's run.

        None unless MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING asks for it.
        """
        if not MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get():
            return None
        try:
            from mlflow.system_metrics import system_metrics_monitor as of_mlflow
        except ImportError as error:
            log.warning("no system metrics: pip install %s", error.name)
            return None
        monitor = of_mlflow.SystemMetricsMonitor(
            folder.published["run_id"], resume_logging=True, tracking_uri=self.address
        )
        monitor.start()
        return monitor

    def is_told(self, folder: RunFolder | SweepFolder) -> bool:
        """Whether the store has the status and the metrics of the folder."""
        cursor = _read_cursor(folder, self.uri)
        if isinstance(folder, SweepFolder):
            return bool(cursor.get("status") == folder.info["status"])
        told = (cursor.get("status"), cursor.get("records"))
        return told == (folder.status, len(folder.records()))

    def needs_publishing(self, folder: RunFolder) -> bool:
        """Whether a run ended and the store, which has it, was not told."""
        known = bool(_read_cursor(folder, self.uri))
        return known and not self.is_told(folder) and not folder.held()

    def _start_run(self, folder: RunFolder, adopt: str) -> dict[str, Any]:
        """The run in the store, found by its uid or made; what was published so far."""
        cursor = _read_cursor(folder, self.uri)
        if cursor.keys() >= {"records", "images"} and self.has_run(cursor["run_id"]):
            return cursor
        spec, info = folder.spec(), folder.info
        experiment = self.experiment(spec.tracking.experiment)
        name = display_name(folder)[:LONGEST_NAME]
        cursor = self._made(folder, experiment, name, self._tags(folder), adopt)
        params = [Param(key, text(value)) for key, value in flatten(spec).items()]
        facts = {key: text(value) for key, value in info["facts"].items()}
        if count := facts.pop("parameters", ""):  # of the model: as good as a setting
            params.append(Param("parameters", count))
        tags = [RunTag(f"{FACT}{key}", value) for key, value in facts.items()]
        self.client.log_batch(cursor["run_id"], params=params, tags=tags)
        cursor |= {"records": 0, "images": []}
        _write_cursor(folder, cursor)
        return cursor

    def _made(
        self,
        folder: RunFolder | SweepFolder,
        experiment: str,
        name: str,
        tags: dict[str, str],
        adopt: str,
    ) -> dict[str, Any]:
        """The cursor of the run with the folder's uid: found, adopted or made."""
        client, query = self.client, f"tags.`cvae.uid` = '{tags['cvae.uid']}'"
        if runs := client.search_runs([experiment], query):
            run = runs[0]
        elif adopt and "cvae.uid" not in client.get_run(adopt).data.tags:
            client.log_batch(adopt, tags=[RunTag(*tag) for tag in tags.items()])
            client.update_run(adopt, name=name)
            run = client.get_run(adopt)
        else:
            began = int(1000 * folder.info["started"])
            run = client.create_run(experiment, began, tags, name)
        place = {"run_id": run.info.run_id, "experiment_id": run.info.experiment_id}
        return {"uri": self.uri} | place

    def _tags(self, folder: RunFolder) -> dict[str, str]:
        """What the run is found, sorted and nested by."""
        info, tags = folder.info, parts.run_tags(folder)
        if name := info.get("sweep"):
            parent = SweepFolder(folder.path.parent / "sweeps" / name)
            run_id = _read_cursor(parent, self.uri).get("run_id")
            if not run_id and parent.info:
                run_id = self.publish_sweep(parent)
            tags["cvae.sweep"] = name
            tags |= {f"sweep.{key}": text(v) for key, v in info["swept"].items()}
            if run_id:
                tags["mlflow.parentRunId"] = run_id
        return tags

    def _data_sets(self, folder: RunFolder, run_id: str) -> None:
        """Twice, if need be: another run may make the same data set at this moment."""
        inputs = parts.inputs(folder)
        try:
            self.client.log_inputs(run_id, inputs)
        except MlflowException:
            self.client.log_inputs(run_id, inputs)

    def _metrics(self, folder: RunFolder, cursor: dict[str, Any]) -> None:
        records = folder.records()
        new = [
            Metric(key, value, record["time"], record["epoch"])
            for record in records[cursor["records"] :]
            for key, value in record["metrics"].items()
        ]
        for start in range(0, len(new), BATCH):
            self.client.log_batch(cursor["run_id"], metrics=new[start : start + BATCH])
        if new:
            cursor["records"] = len(records)
            _write_cursor(folder, cursor)

    def _tell_status(
        self, folder: RunFolder, cursor: dict[str, Any], status: str
    ) -> None:
        info, run_id = folder.info, cursor["run_id"]
        now = {"status": status, "ended": 0 if status in LIVE else info.get("ended", 0)}
        if now.items() <= cursor.items():
            return
        if reason := info.get("reason"):
            self.client.set_tag(run_id, "cvae.reason", reason[:5000])
        if status in LIVE:
            self.client.update_run(run_id, status="RUNNING")
        else:
            ended = int(1000 * (now["ended"] or time.time()))
            self.client.set_terminated(run_id, status, ended)
        cursor |= now
        _write_cursor(folder, cursor)

    def _images(self, folder: RunFolder, cursor: dict[str, Any]) -> None:
        for name in parts.log_pictures(self.client, folder, cursor):
            cursor["images"].append(name)
            _write_cursor(folder, cursor)

    def _model(self, folder: RunFolder, cursor: dict[str, Any], *, asked: bool) -> None:
        """The final model, and the test figures that were added since, once."""
        spec, count = folder.spec(), len(folder.records())
        new = (
            cursor.get("model", {}).get("records") != count and folder.weights.exists()
        )
        if asked or (new and spec.tracking.log_model):
            name = logged_model.publish(self.client, folder, cursor["run_id"])
            cursor["model"] = {"id": name, "records": count}
            _write_cursor(folder, cursor)


def _read_cursor(folder: RunFolder | SweepFolder, uri: str) -> dict[str, Any]:
    """What `_write_cursor` wrote for this store; losing it costs time, not truth."""
    cursor = folder.published
    return cursor if "run_id" in cursor and cursor.get("uri") == uri else {}


def _write_cursor(folder: RunFolder | SweepFolder, cursor: dict[str, Any]) -> None:
    write_atomic(folder.path / "tracking.json", json.dumps(cursor).encode())

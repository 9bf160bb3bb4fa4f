"""Run folders published to MLflow.

Publishing is one idempotent function of the folder: it logs what the store lacks, so
the live run, a resumed run and a later `sync` are the same call. A metric point carries
the time of its record, which makes a repeated point the same point.
"""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, RunTag
from PIL import Image

from cvae.errors import TrackingError
from cvae.run.files import write_atomic
from cvae.run.find import display_name
from cvae.run.folder import RunFolder, SweepFolder
from cvae.spec.identity import flatten
from cvae.tracking import charts, logged_model
from cvae.tracking.connection import clear_errors, with_timeout
from cvae.tracking.entities import datasets, points, source_tags, swept_values, text
from cvae.tracking.note import description, sweep_description
from cvae.tracking.store import BATCH, FACT, Store

LONGEST_NAME = 250  # of a run, MLflow's own limit
PAUSE = 60.0  # seconds between attempts to reach a store that went away
STEP_IMAGE = re.compile(r"(?P<key>[a-z_]+)-(?P<step>\d+)\.png")
SWEEP_ARTIFACTS = ("sweep.yaml", "table.csv")
ARTIFACTS = ("spec.yaml", "records.jsonl", "run.json", "git.diff", "model.safetensors")

log = logging.getLogger("cvae")


class Tracker(Store):
    """A store that run folders are published to.

    Raises:
        TrackingError: from the constructor, when the store cannot be used.
    """

    def __init__(self, runs: Path) -> None:
        super().__init__(runs)
        self.failed_at = -PAUSE

    def publish(self, folder: RunFolder, *, model: bool = False) -> None:
        """Log whatever of the run the store does not have yet.

        Args:
            model: log its model even where the spec says not to.

        Raises:
            TrackingError: the store cannot be reached or refuses; call again later.
        """
        with clear_errors(self.address):
            cursor = self._start_run(folder)
            self._metrics(folder, cursor)
            self._images(folder, cursor)
            status = folder.status
            if status not in ("NEW", "RUNNING"):
                self._artifacts(folder, cursor)
            if status == "FINISHED":
                self._model(folder, cursor, asked=model)
            self._describe(folder, cursor, status)

    def publish_sweep(self, folder: SweepFolder) -> str:
        """Make the run that a sweep's runs are nested under, or bring it up to date.

        Returns:
            Its run id.

        Raises:
            TrackingError: as `publish`.
        """
        info = folder.info
        with clear_errors(self.address):
            run_id = self._sweep_run(folder)
            tags = {f"sweep.{key}": value for key, value in swept_values(info).items()}
            tags |= {"mlflow.note.content": sweep_description(folder)}
            tags |= {"cvae.best": text(info.get("best", {}))}
            all_tags = [RunTag(key, value[:5000]) for key, value in tags.items()]
            self.client.log_batch(run_id, tags=all_tags)
            self.link_report(run_id)
            for name in SWEEP_ARTIFACTS:
                if (path := folder.path / name).exists():
                    self.client.log_artifact(run_id, str(path))
            if info["status"] == "RUNNING":
                self.client.update_run(run_id, status="RUNNING")
            else:
                ended = int(1000 * info["ended"])
                figures = info.get("figures", {}).items()
                points = [Metric(key, value, ended, 0) for key, value in figures]
                self.client.log_batch(run_id, metrics=points)
                self.client.set_terminated(run_id, info["status"], ended)
        return run_id

    def _sweep_run(self, folder: SweepFolder) -> str:
        """The id of the sweep's run, found by its uid or made."""
        info = folder.info
        experiment = self.experiment(info["experiment"])
        cursor = _read_cursor(folder, self.uri)
        if cursor.get("experiment_id") == experiment and self.has_run(cursor["run_id"]):
            return str(cursor["run_id"])
        tags = source_tags(info) | {"cvae.kind": "sweep", "cvae.sweep": folder.name}
        began = int(1000 * info["started"])
        run_id = self._find_or_create(experiment, folder.name, tags, began)
        cursor = {"uri": self.uri, "run_id": run_id, "experiment_id": experiment}
        _write_cursor(folder, cursor)
        return run_id

    def try_publish_sweep(self, folder: SweepFolder) -> bool:
        """`publish_sweep`; a store that is away is said."""
        try:
            self.publish_sweep(folder)
        except TrackingError as error:
            log.warning("%s; publish the sweep later: make sync", error)
            return False
        return True

    def try_publish(self, folder: RunFolder, *, seconds: float = math.inf) -> bool:
        """`publish`, but a store that is away is said, and asked again in a minute."""
        running = folder.info.get("status") == "RUNNING"
        if running and time.monotonic() - self.failed_at < PAUSE:
            return False
        try:
            with clear_errors(self.address):
                with_timeout(seconds, lambda: self.publish(folder))
        except TrackingError as error:
            self.failed_at = time.monotonic()
            goes_on = "training goes on, " if running else ""
            log.warning("%s; %sall is kept in %s", error, goes_on, folder.path)
            return False
        self.failed_at = -PAUSE
        return True

    def needs_publishing(self, folder: RunFolder) -> bool:
        """Whether a run ended and the store, which has it, was not told."""
        cursor = _read_cursor(folder, self.uri)
        told = cursor.get("status") == folder.status
        return bool(cursor) and not told and not folder.held()

    def _start_run(self, folder: RunFolder) -> dict[str, Any]:
        """The run in the store, found by its uid or made; what was published so far."""
        cursor = _read_cursor(folder, self.uri)
        if cursor.keys() >= {"records", "images"} and self.has_run(cursor["run_id"]):
            return cursor
        spec, info = folder.spec(), folder.info
        experiment = self.experiment(spec.tracking.experiment)
        run_id = self._find_or_create(
            experiment,
            display_name(folder)[:LONGEST_NAME],
            self._tags(folder),
            int(1000 * info["started"]),
        )
        params = [Param(key, text(value)) for key, value in flatten(spec).items()]
        facts = {key: text(value) for key, value in info["facts"].items()}
        if count := facts.pop("parameters", ""):  # of the model: as good as a setting
            params.append(Param("parameters", count))
        tags = [RunTag(f"{FACT}{key}", value) for key, value in facts.items()]
        self.client.log_batch(run_id, params=params, tags=tags)
        self.client.log_inputs(run_id, datasets(info))
        self.client.log_artifact(run_id, str(folder.path / "spec.yaml"))
        cursor = {"uri": self.uri, "run_id": run_id, "experiment_id": experiment}
        cursor |= {"records": 0, "images": []}
        _write_cursor(folder, cursor)
        return cursor

    def _find_or_create(
        self, experiment: str, name: str, tags: dict[str, str], began: int
    ) -> str:
        query = f"tags.`cvae.uid` = '{tags['cvae.uid']}'"
        runs = self.client.search_runs([experiment], query)
        run = runs or [self.client.create_run(experiment, began, tags, name)]
        return str(run[0].info.run_id)

    def _tags(self, folder: RunFolder) -> dict[str, str]:
        """What the run is found, sorted and nested by."""
        info = folder.info
        tags = source_tags(info) | {
            "cvae.id": info["id"],
            "cvae.folder": folder.name,
            "cvae.host": info.get("host", ""),
        }
        for key, value in info.get("git", {}).items():
            tags[f"mlflow.source.git.{key}"] = value
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

    def _metrics(self, folder: RunFolder, cursor: dict[str, Any]) -> None:
        records = folder.records()
        unseen = records[cursor["records"] :]
        new = [point for record in unseen for point in points(record)]
        for start in range(0, len(new), BATCH):
            self.client.log_batch(cursor["run_id"], metrics=new[start : start + BATCH])
        if new:
            cursor["records"] = len(records)
            _write_cursor(folder, cursor)

    def _images(self, folder: RunFolder, cursor: dict[str, Any]) -> None:
        """As `log_image` does, but under names that are the same at every call."""
        times = {record["epoch"]: record["time"] for record in folder.records()[::-1]}
        for path in sorted(folder.figures.glob("*.png")):
            match = STEP_IMAGE.fullmatch(path.name)
            if not match or path.name in cursor["images"]:
                continue
            key, step = match["key"], int(match["step"])
            if step not in times:  # drawn, then killed before the record
                continue
            if not cursor["images"]:
                self.client.set_tag(cursor["run_id"], "mlflow.loggedImages", True)
            one = uuid.uuid5(uuid.UUID(folder.info["uid"]), path.name)
            name = f"{key}+step+{step}+timestamp+{times[step]}+{one}"
            with tempfile.TemporaryDirectory() as place:
                shutil.copyfile(path, Path(place, f"{name}.png"))
                with Image.open(path) as picture:
                    picture.thumbnail((256, 256))
                    picture.convert("RGB").save(Path(place, f"{name}+compressed.webp"))
                self.client.log_artifacts(cursor["run_id"], place, "images")
            cursor["images"].append(path.name)
            _write_cursor(folder, cursor)

    def _artifacts(self, folder: RunFolder, cursor: dict[str, Any]) -> None:
        for name in ARTIFACTS:
            if (path := folder.path / name).exists():
                self.client.log_artifact(cursor["run_id"], str(path))
        for path in sorted(folder.figures.glob("*.png")):
            if not STEP_IMAGE.fullmatch(path.name):
                self.client.log_artifact(cursor["run_id"], str(path), "figures")

    def _model(self, folder: RunFolder, cursor: dict[str, Any], *, asked: bool) -> None:
        """The final model, and the test figures that were added since, once."""
        spec, count = folder.spec(), len(folder.records())
        logged = cursor.get("model", {}).get("records")
        new = logged != count and folder.weights.exists()
        if asked or (new and spec.tracking.log_model):
            name = logged_model.publish(self.client, folder, cursor["run_id"])
            cursor["model"] = {"id": name, "records": count}
            _write_cursor(folder, cursor)

    def _describe(self, folder: RunFolder, cursor: dict[str, Any], status: str) -> None:
        info = folder.info
        known = [status, cursor["records"]] if status != "RUNNING" else [status]
        if cursor.get("described") == known:
            return
        tags = {"mlflow.note.content": description(folder)}
        if info.get("reason"):
            tags["cvae.reason"] = info["reason"][:5000]
        self.client.log_batch(
            cursor["run_id"], tags=[RunTag(key, value) for key, value in tags.items()]
        )
        if status in ("NEW", "RUNNING"):
            self.client.update_run(cursor["run_id"], status="RUNNING")
        else:
            ended = int(1000 * info.get("ended", time.time()))
            self.client.set_terminated(cursor["run_id"], status, ended)
            spec = folder.spec()  # a step of most pictures
            step = min(spec.tracking.images_every, spec.training.epochs)
            experiment, view = cursor["experiment_id"], charts.view(step)
            self.client.set_experiment_tag(experiment, charts.TAG, view)
        cursor |= {"status": status, "described": known}
        _write_cursor(folder, cursor)


def _read_cursor(folder: RunFolder | SweepFolder, uri: str) -> dict[str, Any]:
    """What `_write_cursor` wrote for this store; losing it costs time, not truth."""
    cursor = folder.published
    return cursor if "run_id" in cursor and cursor.get("uri") == uri else {}


def _write_cursor(folder: RunFolder | SweepFolder, cursor: dict[str, Any]) -> None:
    write_atomic(folder.path / "tracking.json", json.dumps(cursor).encode())

"""The files of a run or a sweep in MLflow: pictures by step, and artifacts."""

from __future__ import annotations

import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from cvae.run.folder import RunFolder, SweepFolder
from cvae.tracking import charts
from cvae.tracking.connection import MlflowClient

STEP_IMAGE = re.compile(r"(?P<key>[a-z_]+)-(?P<step>\d+)\.png")
FINAL_STEP = 0  # of the final pictures: one place for runs of any length
SWEEP_ARTIFACTS = ("sweep.yaml", "table.csv")
ARTIFACTS = ("spec.yaml", "records.jsonl", "run.json", "git.diff", "model.safetensors")


def log_pictures(
    client: MlflowClient, folder: RunFolder, cursor: dict[str, Any]
) -> Iterator[str]:
    """Log each picture that `cursor` does not name; yields its name.

    As `log_image` does, but under names that are the same at every call.
    """
    run_id = cursor["run_id"]
    for path, key, step, time in _pictures(folder):
        if path.name in cursor["images"]:
            continue
        if not cursor["images"]:
            client.set_tag(run_id, "mlflow.loggedImages", True)
        one = uuid.uuid5(uuid.UUID(folder.info["uid"]), path.name)
        name = f"{key}+step+{step}+timestamp+{time}+{one}"
        with tempfile.TemporaryDirectory() as place:
            shutil.copyfile(path, Path(place, f"{name}.png"))
            with Image.open(path) as picture:
                picture.thumbnail((256, 256))
                picture.convert("RGB").save(Path(place, f"{name}+compressed.webp"))
            client.log_artifacts(run_id, place, "images")
        yield path.name


def _pictures(folder: RunFolder) -> Iterator[tuple[Path, str, int, int]]:
    """Each picture with its key, step and time in ms; final ones have own keys."""
    records = folder.records()
    times = {record["epoch"]: record["time"] for record in records[::-1]}
    for path in sorted(folder.figures.glob("*.png")):
        match = STEP_IMAGE.fullmatch(path.name)
        if match and int(match["step"]) in times:  # else drawn, but killed meanwhile
            step = int(match["step"])
            yield path, match["key"], step, times[step]
        elif folder.info["status"] == "FINISHED" and path.stem in charts.PICTURES:
            yield path, f"{charts.FINAL}{path.stem}", FINAL_STEP, records[-1]["time"]


def log_files(client: MlflowClient, folder: RunFolder, run_id: str) -> None:
    """Log what a run that ended has in its folder; older artifacts are replaced."""
    _log(client, folder, run_id, ARTIFACTS)
    for path in sorted(folder.figures.glob("*.png")):
        if not STEP_IMAGE.fullmatch(path.name):
            client.log_artifact(run_id, str(path), "figures")


def log_sweep_files(client: MlflowClient, folder: SweepFolder, run_id: str) -> None:
    """Log a sweep's specs and table."""
    _log(client, folder, run_id, SWEEP_ARTIFACTS)


def _log(
    client: MlflowClient,
    folder: RunFolder | SweepFolder,
    run_id: str,
    names: tuple[str, ...],
) -> None:
    for name in names:
        if (path := folder.path / name).exists():
            client.log_artifact(run_id, str(path))

"""A run or a sweep in MLflow's own types: metrics, data sets, tags, pictures, files."""

from __future__ import annotations

import getpass
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag
from PIL import Image

from cvae.run.folder import RunFolder
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
    log_artifacts(client, folder.path, run_id, ARTIFACTS)
    for path in sorted(folder.figures.glob("*.png")):
        if not STEP_IMAGE.fullmatch(path.name):
            client.log_artifact(run_id, str(path), "figures")


def log_artifacts(
    client: MlflowClient, place: Path, run_id: str, names: tuple[str, ...]
) -> None:
    """Log those of these files that are there."""
    for name in names:
        if (path := place / name).exists():
            client.log_artifact(run_id, str(path))


def inputs(folder: RunFolder) -> list[DatasetInput]:
    """The data sets of a run, one for each use of them."""
    info, found = folder.info, []
    for context, count in info["data"]["images"].items():
        dataset = Dataset(
            name=f"{info['data']['name']}-{context}",
            digest=info["data"]["digest"],
            source_type="local",
            source=json.dumps({"uri": info["data"]["root"]}),
            profile=json.dumps({"num_rows": count, "sha256": info["data"]["sha256"]}),
        )
        found.append(DatasetInput(dataset, [InputTag("mlflow.data.context", context)]))
    return found


def swept_values(info: dict[str, Any]) -> dict[str, str]:
    """Tags with the values of each swept field of a sweep, in the order of its runs."""
    values: dict[str, dict[str, None]] = {key: {} for key in info["keys"]}
    for run in info["runs"]:
        for key, value in run["swept"].items():
            values[key][text(value)] = None
    return {f"sweep.{key}": ", ".join(distinct) for key, distinct in values.items()}


def source_tags(info: dict[str, Any]) -> dict[str, str]:
    """Who made a run or a sweep, by which command, and its uid."""
    return {
        "mlflow.user": user(),
        "mlflow.source.name": info.get("command", "cvae"),
        "mlflow.source.type": "LOCAL",
        "cvae.uid": info["uid"],
    }


def run_tags(folder: RunFolder) -> dict[str, str]:
    """What a run is found and sorted by."""
    info = folder.info
    tags = source_tags(info) | {
        "cvae.id": info["id"],
        "cvae.folder": folder.name,
        "cvae.host": info.get("host", ""),
    }
    for key, value in info.get("git", {}).items():
        tags[f"mlflow.source.git.{key}"] = value
    return tags


def user() -> str:
    """The user's name, or number where the system has no name for it."""
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):  # a container's user id, say
        return str(os.getuid())


def text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)

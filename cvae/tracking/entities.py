"""Facts and records of a run in MLflow's own types."""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Iterator
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric

from cvae.run.folder import Record, RunFolder


def points(record: Record) -> Iterator[Metric]:
    for key, value in record["metrics"].items():
        yield Metric(key, value, record["time"], record["epoch"])


def datasets(info: dict[str, Any]) -> list[DatasetInput]:
    inputs = []
    for context, count in info["data"]["images"].items():
        dataset = Dataset(
            name=f"{info['data']['name']}-{context}",
            digest=info["data"]["digest"],
            source_type="local",
            source=json.dumps({"uri": info["data"]["root"]}),
            profile=json.dumps({"num_rows": count, "sha256": info["data"]["sha256"]}),
        )
        inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", context)]))
    return inputs


def swept_values(info: dict[str, Any]) -> dict[str, str]:
    """The values of each swept field of a sweep, in the order of its runs."""
    values: dict[str, dict[str, None]] = {key: {} for key in info["keys"]}
    for run in info["runs"]:
        for key, value in run["swept"].items():
            values[key][text(value)] = None
    return {key: ", ".join(distinct) for key, distinct in values.items()}


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
        return str(os.getuid()) if hasattr(os, "getuid") else ""


def text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)

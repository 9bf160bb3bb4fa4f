"""What a run leaves in its folder and in MLflow, to be compared with another run's."""

from __future__ import annotations

import hashlib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import safetensors.torch
from mlflow import MlflowClient
from PIL import Image

from cvae.run import checkpoint
from cvae.run.folder import RunFolder
from cvae.tracking.publish import STEP_IMAGE

CLOCKED = {"run.json", "tracking.json", "records.jsonl", "lock"}
Kept = dict[str, Any]


def kept(runs: Path, run: str = "*") -> Kept:
    """All that a run leaves and that no clock is in, by name."""
    left: Kept = {}
    folders = [RunFolder(path.parent) for path in runs.glob(f"{run}/run.json")]
    left["run folders"] = [folder.name for folder in folders]
    for folder in folders:
        left["status"] = folder.status
        records = folder.records()
        left["records"] = [_untimed(record["metrics"]) for record in records]
        for path in sorted(folder.path.rglob("*")):
            name = str(path.relative_to(folder.path))
            if name == "git.diff":  # of the code, not of the run
                continue
            if name.startswith("checkpoint"):  # the order in its header is not fixed
                tensors, state = checkpoint.load(path)
                left[name] = state, _digest(safetensors.torch.save(tensors))
            elif path.is_file():
                left[name] = name in CLOCKED or _digest(path.read_bytes())
    left |= _in_mlflow(runs, run)
    return left


def _in_mlflow(runs: Path, name: str) -> Kept:
    """What MLflow holds, likewise; its metrics are checked against the records."""
    client = MlflowClient(f"sqlite:///{runs / 'mlflow.db'}")
    everything = [one.experiment_id for one in client.search_experiments()]
    stored = client.search_runs(everything)
    stored = [r for r in stored if fnmatch(r.data.tags.get("cvae.folder", ""), name)]
    left: Kept = {"MLflow runs": [run.info.run_name for run in stored]}
    for run in stored:
        run_id = run.info.run_id
        folder = RunFolder(runs / run.data.tags["cvae.folder"])
        left["MLflow status"] = run.info.status
        left["params"] = {
            key: value for key, value in run.data.params.items() if key != "data.root"
        }
        truth: dict[str, list[tuple[int, float]]] = {}
        for record in folder.records():
            for key, value in record["metrics"].items():
                truth.setdefault(key, []).append((record["epoch"], value))
        history = {
            key: [(p.step, p.value) for p in client.get_metric_history(run_id, key)]
            for key in run.data.metrics
        }
        left["MLflow history is the records"] = history == truth
        left["inputs"] = len(run.inputs.dataset_inputs)
        left["models"] = _models(client, run.info.experiment_id, run_id)
        images = [Path(file.path) for file in client.list_artifacts(run_id, "images")]
        left["images"] = sorted(
            (path.name.partition("+timestamp+")[0], path.suffix) for path in images
        )
        place = runs / "artifacts" / run_id / "artifacts"
        for path in sorted(place.rglob("*.png")) + sorted(place.rglob("*.webp")):
            with Image.open(path) as picture:
                picture.load()  # raises if it is torn
        pictures = folder.figures.glob("*.png")
        steps = sum(STEP_IMAGE.fullmatch(path.name) is not None for path in pictures)
        left["every picture is an image"] = len(images) == 2 * steps
    return left


def _models(client: MlflowClient, experiment: str, run_id: str) -> list[Any]:
    """Every logged model of a run: its status, and its figures by name and step."""
    made = client.search_logged_models([experiment], f"source_run_id = '{run_id}'")
    return [
        (str(model.status), sorted((m.key, m.step) for m in model.metrics or []))
        for model in made
    ]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _untimed(metrics: dict[str, float]) -> dict[str, float]:
    return {k: v for k, v in metrics.items() if not k.startswith("time/")}

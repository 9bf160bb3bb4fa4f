"""Run folders written by hand: figures that are known, in the time of a few files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cvae.run.folder import RunFolder
from tests.conftest import spec

GIT = {"commit": "0123456789abcdef0123456789abcdef01234567", "branch": "main"}


def made_run(
    runs: Path,
    bound: float,
    *,
    kl: float = 10.0,
    status: str = "FINISHED",
    epochs: int = 3,
    started: float | None = None,
    info: dict[str, Any] | None = None,
    **fields: Any,
) -> RunFolder:
    """A run whose test/neg_elbo is `bound`, and val/neg_elbo nears it by epochs."""
    if started is None:
        started = float(len(list(runs.glob("*/run.json"))))
    wanted = spec(**{"training__epochs": epochs} | fields)
    folder = RunFolder(runs / f"{wanted.name}-{wanted.id}")
    while folder.path.exists():
        folder = RunFolder(folder.path.with_name(f"{folder.name}-2"))
    folder.create(wanted)
    for epoch in range(1, epochs + 1):
        now = {
            f"val/{key}": value + 60 / epoch**2 - 60 / epochs**2
            for key, value in scores(bound, kl, wanted.model.latent_dim).items()
        }
        now["train/neg_elbo"] = now["val/neg_elbo"]
        line = {"epoch": epoch, "step": 10 * epoch, "time": 1000 * epoch}
        folder.append(line | {"metrics": now, "seconds": {}})
    if status == "FINISHED":
        last = scores(bound, kl, wanted.model.latent_dim)
        metrics = {f"test/{key}": value for key, value in last.items()}
        metrics |= {"time/training": 8.0, "time/total": 12.0}
        line = {"epoch": epochs, "step": 10 * epochs, "time": 1000 * epochs + 1}
        folder.append(line | {"metrics": metrics, "seconds": {}})
    for name in ("digits", "reconstructions"):
        tile = np.full((40, 120), 30, np.uint8)
        tile[10:30, 20:100] = 255
        with Image.fromarray(tile) as image:
            image.save(folder.figures / f"{name}.png")
    folder.update(
        **{
            "status": status,
            "started": started,
            "ended": started + 12,
            "header": "Question: what does it do?\nExpected: 100 nats per image",
            "command": "make experiment CONFIG=experiments/quickstart.yaml",
            "git": GIT,
            "facts": {"parameters": 123, "device": "cpu", "processor": "Test CPU"}
            | {"version.torch": "2.14.1", "version.python": "3.11.7"},
            "data": {
                "digest": "0" * 32,
                "sha256": {},
                "name": "MNIST",
                "root": "mnist_data/raw",
                "shape": [28, 28],
                "images": {"training": 55000, "validation": 5000, "test": 10000},
            },
        }
        | (info or {})
    )
    return folder


def scores(bound: float, kl: float, active: int) -> dict[str, float]:
    found = {"neg_elbo": bound, "kl": kl, "recon": bound - kl, "loss": bound}
    return found | {"active_units": active}


def rewrite(folder: RunFolder, key: str, value: str) -> None:
    """Put a value in the last record as JSON text, NaN and Infinity included."""
    path = folder.path / "records.jsonl"
    lines = path.read_text().splitlines()
    last = json.loads(lines[-1])
    last["metrics"][key] = "HERE"
    lines[-1] = json.dumps(last).replace('"HERE"', value)
    path.write_text("\n".join(lines) + "\n")

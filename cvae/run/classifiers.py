"""Which classifier reads the samples of a run: the one trained on the same data.

runs/judges/<digest of the data>/   judge.json      accuracy, settings, commit
                                    judge.safetensors
"""

from __future__ import annotations

import functools
import json
import logging
import shlex
import time
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from cvae import classifier, mnist
from cvae.classifier import Classifier
from cvae.run import provenance
from cvae.run.files import write_atomic
from cvae.run.find import folders
from cvae.run.folder import JUDGES
from cvae.run.progress import item_progress
from cvae.spec.fields import Data

PUBLISHED = Path(__file__).resolve().parents[2] / "results" / "judge"
log = logging.getLogger("cvae")
Record = dict[str, Any]


def train_classifier(
    root: str,
    runs: Path,
    *,
    train_images: int | None = None,
    validation_images: int = 5000,
    epochs: int | None = None,
    seed: int = 0,
) -> tuple[Path, Record]:
    """Train the classifier of the data in `root`; written to `runs` once it is whole.

    Returns:
        Its folder and its record, with `test_accuracy`.

    Raises:
        DataError: a file is missing or wrong, or there are too few images.
    """
    data = mnist.load_mnist(
        root, train_images=train_images, validation_images=validation_images
    )
    began, track = time.monotonic(), item_progress("classifier")
    epochs = epochs or classifier.default_epochs(len(data.train))
    network = classifier.train(
        data.train,
        data.shape,
        classes=data.classes,
        epochs=epochs,
        seed=seed,
        track=track,
    )
    splits = {"training": data.train, "validation": data.validation}
    record = {
        "digest": data.digest,
        "shape": list(data.shape),
        "classes": data.classes,
        "images": {name: len(part) for name, part in splits.items()},
        "epochs": epochs,
        "seed": seed,
        "seconds": round(time.monotonic() - began, 1),
        "torch": torch.__version__,
        "git": provenance.git_state()[0],
        "test_accuracy": classifier.accuracy(network, data.test),
    }
    folder = runs / JUDGES / data.digest
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "judge.json").unlink(missing_ok=True)  # never one with other weights
    weights = {k: v.contiguous() for k, v in network.state_dict().items()}
    write_atomic(folder / "judge.safetensors", safetensors.torch.save(weights))
    text = json.dumps(record, indent=2, allow_nan=False)
    write_atomic(folder / "judge.json", f"{text}\n".encode())
    return folder, record


def load_classifier(folder: Path) -> tuple[Classifier, Record] | None:
    """The classifier in a folder and its record; None where there is none."""
    if not (folder / "judge.json").exists():
        return None
    record = json.loads((folder / "judge.json").read_text())
    network = Classifier(tuple(record["shape"]), record.get("classes", 10))
    network.load_state_dict(safetensors.torch.load_file(folder / "judge.safetensors"))
    return network.eval(), record


@functools.cache
def published() -> tuple[Classifier, Record] | None:
    """The classifier in results/ and its record; None where there is none."""
    return load_classifier(PUBLISHED)


def classifier_of(digest: str, runs: Path) -> tuple[Classifier, float] | None:
    """The classifier of the data with this digest; its accuracy on their test images.

    The published one, or the one trained in `runs`; None if there is none.
    """
    for known in (published(), load_classifier(runs / JUDGES / digest)):
        if known and known[1]["digest"] == digest:
            return known[0], known[1]["test_accuracy"]
    for folder in reversed(folders(runs / JUDGES)):  # runs, as version 1 made them
        info = folder.info
        if info.get("status") == "FINISHED" and info["data"]["digest"] == digest:
            rows, columns = info["data"]["shape"]
            network = Classifier((rows, columns))
            network.load_state_dict(safetensors.torch.load(folder.read_weights()))
            return network.eval(), folder.metrics["test/accuracy"]
    return None


def warn_without_classifier(digest: str, runs: Path, data: Data) -> None:
    """Say how to get the metrics of control, if no classifier knows the data."""
    if classifier_of(digest, runs) is None:
        changes = f"data.root={data.root}"
        if (held_back := data.validation_images) != Data().validation_images:
            changes += f" data.validation_images={held_back}"
        log.info(
            "metrics of control are left out: no classifier was trained on the data in "
            "%s; to get them: make judge SET=%s and then make evaluate",
            *(data.root, shlex.quote(changes)),
        )

"""Which judge reads the samples of a run: the one that learned the same data."""

from __future__ import annotations

import logging
from pathlib import Path

import safetensors.torch

from cvae import judge
from cvae.judge import Judge
from cvae.run.find import judges
from cvae.run.folder import make_command
from cvae.spec.fields import Data

SPEC = "experiments/judge.yaml"
log = logging.getLogger("cvae")


def judge_of(digest: str, runs: Path) -> tuple[Judge, float] | None:
    """The judge of the data with this digest and its accuracy on their test images.

    The published one, or the newest that was trained in `runs`; None if there is none.
    """
    published = judge.published()
    if published and published[1]["digest"] == digest:
        return published[0], published[1]["test_accuracy"]
    for folder in reversed(judges(runs)):
        info = folder.info
        if info.get("status") == "FINISHED" and info["data"]["digest"] == digest:
            rows, columns = info["data"]["shape"]
            network = Judge((rows, columns))
            network.load_state_dict(safetensors.torch.load(folder.read_weights()))
            return network.eval(), folder.metrics["test/accuracy"]
    return None


def warn_without_judge(digest: str, runs: Path, data: Data) -> None:
    """Say that there are no figures of control, and how to get them, if it is so."""
    if judge_of(digest, runs) is None:
        changes = f"data.root={data.root}"
        if (held_back := data.validation_images) != Data().validation_images:
            changes += f" data.validation_images={held_back}"
        log.info(
            "figures of control are left out: no judge has learned the data in %s; to "
            "get them: %s and then make evaluate",
            *(data.root, make_command("experiment", SPEC, changes)),
        )

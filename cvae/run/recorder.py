"""What a run leaves in its folder: facts, records, pictures, weights, figures."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch

from cvae import mnist
from cvae.run import files, provenance, state
from cvae.run.evaluation import record
from cvae.run.folder import Origin, Record, RunFolder
from cvae.run.train_cvae import CVAETask
from cvae.spec.fields import Spec
from cvae.training import Epoch

GPU_PAUSE = 10.0  # seconds between two checkpoints there
log = logging.getLogger("cvae")


@dataclass
class Clock:
    """Wall-clock seconds by part of the run; what no part claims is `other`."""

    seconds: dict[str, float] = field(default_factory=dict)
    claimed: float = 0.0
    began: float = field(default_factory=time.perf_counter)

    @contextlib.contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(part, time.perf_counter() - began)

    def add(self, part: str, seconds: float) -> None:
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds
        self.claimed += seconds

    def take(self) -> dict[str, float]:
        """The seconds since the last call, which start again from nothing."""
        self.add("other", time.perf_counter() - self.began - self.claimed)
        taken, self.seconds = self.seconds, {}
        return taken


@dataclass
class Recorder:
    """Writes one run into its folder: `start`, `epoch` after each epoch, `finish`."""

    folder: RunFolder
    spec: Spec
    data: mnist.MNIST
    task: CVAETask
    clock: Clock
    saved: float = -math.inf  # when the last checkpoint was written

    def start(self, origin: Origin) -> None:
        """Who runs what on what, into `run.json`; what a first start wrote is kept."""
        facts: dict[str, Any] = {}
        git, diff = provenance.git_state()
        if "facts" in self.folder.info:
            self._warn_of_changes(git)
        else:
            if diff:
                files.write_atomic(self.folder.path / "git.diff", diff.encode())
            facts = {
                "started": time.time(),
                "header": origin.header,
                "command": origin.command,
                "changes": list(origin.changes),
                "git": git,
                "facts": self._facts(),
                "data": self._data(),
            }
        host = socket.gethostname()
        facts |= {"status": "RUNNING", "reason": "", "pid": os.getpid(), "host": host}
        self.folder.update(**facts, **origin.sweep)

    def _warn_of_changes(self, git: dict[str, str]) -> None:
        """Say what is not as it was when the run began."""
        if changed := provenance.changes(self.folder.info, git, self._facts()):
            log.warning(
                "%s: begun with %s; its last digits may differ from those of a run "
                "made in one go",
                *(self.folder.path, "; ".join(changed)),
            )

    def epoch(self, epoch: Epoch) -> None:
        """Validation, a line in the records, pictures, the checkpoint.

        A record that is there already (written, then killed before the checkpoint)
        stays.
        """
        every, last = self.spec.tracking.images_every, self.task.last
        drawn = epoch.epoch % every == 0 or epoch.epoch == last
        metrics = {f"train/{key}": value for key, value in epoch.metrics.items()}
        with self.clock("evaluation"):
            metrics |= self.task.validation(epoch, drawn=drawn)
        if drawn:
            self._draw(suffix=f"-{epoch.epoch:04d}")
        if epoch.epoch > len(self.folder.records()):
            line = self._line(epoch.epoch, epoch.step, metrics)
            self.folder.append(line | {"seconds": self.clock.take()})
        if epoch.epoch == last or self._checkpoint_is_due():
            with self.clock("checkpoints"):
                state.save(self.folder, self.task.state, epoch=epoch.epoch)
            self.saved = time.monotonic()

    def _checkpoint_is_due(self) -> bool:
        """On a GPU an epoch can be shorter than writing a checkpoint of it."""
        on_gpu = self.task.state.device.type == "cuda"
        return not on_gpu or time.monotonic() - self.saved >= GPU_PAUSE

    def finish(self) -> None:
        """Weights, final pictures, test figures; the clock's totals come last.

        Figures of the test images that are recorded already stay as they are.
        """
        with self.clock("checkpoints"):
            weights = self.task.state.model.state_dict().items()
            whole = {key: value.detach().cpu().contiguous() for key, value in weights}
            files.write_atomic(self.folder.weights, safetensors.torch.save(whole))
        self._draw(suffix="")
        last = self.folder.records()[-1]
        if "time/total" not in last["metrics"]:
            with self.clock("evaluation"):
                metrics = self.task.test()
            metrics |= self._times()
            self.folder.append(self._line(last["epoch"], last["step"], metrics))
        self.folder.update(status="FINISHED", reason="", ended=time.time())

    def _line(self, epoch: int, step: int, metrics: dict[str, float]) -> Record:
        """A line of the records, which names the weights that were evaluated."""
        return record(epoch, step, metrics) | {"weights": self.task.weights}

    def _facts(self) -> dict[str, Any]:
        state = self.task.state
        parameters = sum(weight.numel() for weight in state.model.parameters())
        versions = {f"version.{k}": v for k, v in provenance.versions().items()}
        hardware = provenance.hardware(state.device)
        return {"parameters": parameters} | hardware | versions

    def _data(self) -> dict[str, Any]:
        data, root = self.data, self.spec.data.root
        return {
            "root": root,
            "name": "MNIST" if data.sha256 == mnist.SHA256 else Path(root).name,
            "digest": data.digest,
            "sha256": data.sha256,
            "shape": list(data.shape),
            "classes": data.classes,
            "images": {
                "training": len(data.train),
                "validation": len(data.validation),
                "test": len(data.test),
            },
        }

    def _times(self) -> dict[str, float]:
        """Seconds by part of the run, earlier starts included, and in all."""
        seconds = self.clock.take()
        for line in self.folder.records():
            for part, value in line["seconds"].items():
                seconds[part] = seconds.get(part, 0.0) + value
        times = {f"time/{part}": value for part, value in sorted(seconds.items())}
        return times | {"time/total": sum(seconds.values())}

    def _draw(self, *, suffix: str) -> None:
        with self.clock("figures"):
            for name, picture in self.task.pictures().items():
                files.save_png(picture, self.folder.figures / f"{name}{suffix}.png")

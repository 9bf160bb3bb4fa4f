"""A run's epochs, figures and pictures, and what it leaves of them in its folder."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from cvae import grids, mnist, training
from cvae.fast.steps import fastest
from cvae.grids import Picture
from cvae.run import evaluation, exact, files, provenance, state
from cvae.run.classifiers import warn_without_classifier
from cvae.run.evaluation import record
from cvae.run.folder import Origin, Record, RunFolder
from cvae.spec.fields import Spec
from cvae.training import Epoch

Figures = dict[str, float]  # by their key, such as val/neg_elbo
WHILE_TRAINING = ("label_fidelity", "transfer_fidelity", "label_in_z")
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


class Recorder:
    """One run in its folder: `start`, `epoch` after each one of `train`, `finish`."""

    def __init__(
        self,
        folder: RunFolder,
        spec: Spec,
        data: mnist.MNIST,
        device: torch.device,
        clock: Clock,
    ) -> None:
        known = folder.info.get("data", {"classes": data.classes})
        data = replace(data, classes=known.get("classes", 10))  # 10: an older run
        self.folder, self.spec, self.data, self.clock = folder, spec, data, clock
        self.last, ema = spec.training.epochs, spec.training.ema
        self.weights = f"ema {ema:g}" if ema else "last"
        self.state = state.assemble(spec, data, device)
        self.saved = -math.inf  # when the last checkpoint was written

    def start(self, origin: Origin) -> None:
        """Who runs what on what, into `run.json`; what a first start wrote is kept."""
        facts: dict[str, Any] = {}
        git, diff = provenance.git_state()
        if "facts" in self.folder.info:
            if changed := provenance.changes(self.folder.info, git, self._facts()):
                log.warning(
                    "%s: begun with %s; its last digits may differ from those of a run "
                    "made in one go",
                    *(self.folder.path, "; ".join(changed)),
                )
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

    def train(self, done: int) -> Iterator[Epoch]:
        """The epochs after the first `done`."""
        now, train = self.state, self.data.train.to(self.state.device)
        wanted = state.hyperparameters(self.spec)
        known = now.trained, now.optimizer, train, wanted, now.streams
        steps = exact.by_grid if wanted.grid else fastest
        for epoch in training.train_epochs(*known, start=done, steps=steps):
            began = time.perf_counter()
            if now.model.is_mixture and epoch.epoch == self.last:
                state.fit_prior(now, train, self.spec)
            yield replace(epoch, seconds=epoch.seconds + time.perf_counter() - began)

    def epoch(self, epoch: Epoch) -> None:
        """Validation, a line in the records, pictures, the checkpoint.

        A record that is there already (written, then killed before the checkpoint)
        stays.
        """
        every, last = self.spec.tracking.images_every, self.last
        drawn = epoch.epoch % every == 0 or epoch.epoch == last
        metrics = {f"train/{key}": value for key, value in epoch.metrics.items()}
        with self.clock("evaluation"):
            metrics |= self._validation(epoch, drawn=drawn)
        if drawn:
            self._draw(suffix=f"-{epoch.epoch:04d}")
        if epoch.epoch > len(self.folder.records()):
            line = self._line(epoch.epoch, epoch.step, metrics)
            self.folder.append(line | {"seconds": self.clock.take()})
        # on a GPU an epoch can be shorter than writing a checkpoint of it
        pause = GPU_PAUSE if self.state.device.type == "cuda" else 0.0
        if epoch.epoch == last or time.monotonic() - self.saved >= pause:
            with self.clock("checkpoints"):
                state.save(self.folder, self.state, epoch=epoch.epoch)
            self.saved = time.monotonic()

    def finish(self) -> None:
        """Weights, final pictures, test figures; the clock's totals come last.

        Figures of the test images that are recorded already stay as they are.
        """
        with self.clock("checkpoints"):
            weights = self.state.model.state_dict().items()
            whole = {key: value.detach().cpu().contiguous() for key, value in weights}
            files.write_atomic(self.folder.weights, safetensors.torch.save(whole))
        self._draw(suffix="")
        last = self.folder.records()[-1]
        if "time/total" not in last["metrics"]:
            with self.clock("evaluation"):
                metrics = self._test()
            metrics |= self._times()
            self.folder.append(self._line(last["epoch"], last["step"], metrics))
        self.folder.update(status="FINISHED", reason="", ended=time.time())

    def _validation(self, epoch: Epoch, *, drawn: bool) -> Figures:
        """The bound, and so that one sees control come and go, some of its figures."""
        model, validation = self.state.model, self.data.validation
        if not len(validation):
            return {}
        beta = epoch.metrics["beta"]
        figures = evaluation.bound(model, validation, self.spec, beta=beta)
        if drawn:
            control = self._control(validation)
            figures |= {key: control[key] for key in WHILE_TRAINING if key in control}
        return {f"val/{key}": value for key, value in figures.items()}

    def _test(self) -> Figures:
        model, test = self.state.model, self.data.test
        figures = evaluation.test_figures(model, test, self.spec)
        if model.classes:
            runs = self.folder.path.parent
            warn_without_classifier(self.data.digest, runs, self.spec.data)
        control = self._control(test)
        evaluation.measure_all(self.folder, self.spec, model, self.data)
        return figures | {f"test/{key}": value for key, value in control.items()}

    def _control(self, images: mnist.Images) -> Figures:
        runs = self.folder.path.parent  # where a judge of these data may be
        model, digest = self.state.model, self.data.digest
        return evaluation.control_figures(model, images, digest, runs)

    def _line(self, epoch: int, step: int, metrics: dict[str, float]) -> Record:
        """A line of the records, which names the weights that were evaluated."""
        return record(epoch, step, metrics) | {"weights": self.weights}

    def _facts(self) -> dict[str, Any]:
        parameters = sum(part.numel() for part in self.state.model.parameters())
        versions = {f"version.{k}": v for k, v in provenance.versions().items()}
        hardware = provenance.hardware(self.state.device)
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
            for name, picture in self._pictures().items():
                files.save_png(picture, self.folder.figures / f"{name}{suffix}.png")

    def _pictures(self) -> dict[str, Picture]:
        """Samples and reconstructions, from the same images and z in every run."""
        model, data, corrupt = self.state.model, self.data, self.spec.data.corrupt
        figures = state.stream(0, "figures")  # not the run's seed: runs are
        count = grids.SHOWN if model.classes else grids.SHOWN**2  # compared by eye
        noise = torch.randn(count, model.latent_dim, generator=figures)
        shown = grids.shown_images(data.test)
        return {
            "digits": grids.digit_grid(model, noise, data.shape),
            "reconstructions": grids.reconstructions(
                model, shown, data.shape, corrupt=corrupt, generator=figures
            ),
        }

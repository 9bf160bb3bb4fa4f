"""What a run leaves in its folder: facts, records, pictures, figures."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from cvae import engine, evaluate, files, grids, mnist
from cvae.errors import Diverged
from cvae.model import CVAE
from cvae.run import provenance, state
from cvae.run.folder import Origin, Record, RunFolder
from cvae.run.state import State, stream
from cvae.spec.fields import Spec


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


def introduce(
    folder: RunFolder,
    spec: Spec,
    data: mnist.MNIST,
    now: State,
    origin: Origin,
) -> None:
    """Who runs what on what, into `run.json`; what a first start said is kept."""
    facts: dict[str, Any] = {}
    if "facts" not in folder.info:
        git, diff = provenance.git_state()
        if diff:
            files.write_atomic(folder.path / "git.diff", diff.encode())
        parameters = sum(weight.numel() for weight in now.model.parameters())
        facts = {
            "started": time.time(),
            "header": origin.header,
            "command": origin.command,
            "changes": list(origin.changes),
            "git": git,
            "facts": {"parameters": parameters}
            | provenance.hardware(now.device)
            | {f"version.{k}": v for k, v in provenance.versions().items()},
            "data": {
                "root": spec.data.root,
                "name": _data_name(spec, data),
                "digest": data.digest,
                "sha256": data.sha256,
                "shape": list(data.shape),
                "images": {
                    "training": len(data.train),
                    "validation": len(data.validation),
                    "test": len(data.test),
                },
            },
        }
    host = socket.gethostname()
    facts |= {"status": "RUNNING", "reason": "", "pid": os.getpid(), "host": host}
    folder.update(**facts, **origin.sweep)


def _data_name(spec: Spec, data: mnist.MNIST) -> str:
    return "MNIST" if data.sha256 == mnist.SHA256 else Path(spec.data.root).name


def record(
    folder: RunFolder,
    now: State,
    spec: Spec,
    data: mnist.MNIST,
    epoch: engine.Epoch,
    clock: Clock,
) -> None:
    """After an epoch: validation, a line in the records, pictures, the checkpoint.

    A record that is there already (written, then killed before the checkpoint) stays.
    """
    metrics = {f"train/{key}": value for key, value in epoch.metrics.items()}
    if len(data.validation):
        with clock("evaluation"):
            beta = epoch.metrics["beta"]
            found = _bound(now.model, data.validation, spec, beta=beta)
            metrics |= {f"val/{key}": value for key, value in found.items()}
    every, last = spec.tracking.images_every, spec.training.epochs
    if epoch.epoch % every == 0 or epoch.epoch == last:
        with clock("figures"):
            _draw(folder, now.model, spec, data, suffix=f"-{epoch.epoch:04d}")
    if epoch.epoch > len(folder.records()):
        record = _line(epoch.epoch, epoch.step, metrics)
        folder.append(record | {"seconds": clock.take()})
    with clock("checkpoints"):
        state.save(folder, now, epoch=epoch.epoch)


def finish(
    folder: RunFolder,
    now: State,
    spec: Spec,
    data: mnist.MNIST,
    clock: Clock,
    publish: Callable[[], None],
) -> None:
    """Weights, final pictures, test figures; the clock's totals come last."""
    with clock("checkpoints"):
        weights = {k: v.detach().cpu() for k, v in now.model.state_dict().items()}
        files.write_atomic(folder.weights, safetensors.torch.save(weights))
    with clock("figures"):
        _draw(folder, now.model, spec, data, suffix="")
    with clock("evaluation"):
        found = _bound(now.model, data.test, spec, beta=spec.objective.beta)
        found |= extra_figures(
            now.model,
            data.test,
            spec,
            importance_samples=spec.evaluation.importance_samples,
            label_samples=spec.evaluation.label_samples,
        )
    publish()
    records = folder.records()
    last = records[-1]
    if "test/neg_elbo" in last["metrics"]:
        folder.update(status="FINISHED", reason="", ended=time.time())
        return
    seconds = clock.take()
    for record in records:
        for part, value in record["seconds"].items():
            seconds[part] = seconds.get(part, 0.0) + value
    metrics = {f"test/{key}": value for key, value in found.items()}
    metrics |= {f"time/{part}": value for part, value in sorted(seconds.items())}
    metrics["time/total"] = sum(seconds.values())
    folder.append(_line(last["epoch"], last["step"], metrics) | {"seconds": {}})
    folder.update(status="FINISHED", reason="", ended=time.time())


def evaluate_run(
    folder: RunFolder,
    spec: Spec,
    model: CVAE,
    *,
    importance_samples: int,
    label_samples: int,
) -> dict[str, float]:
    """`extra_figures` of a finished run, kept in its records from then on."""
    data = mnist.load_mnist(spec.data.root, **split_options(spec))
    records = folder.records()
    found = extra_figures(
        model,
        data.test,
        spec,
        importance_samples=importance_samples,
        label_samples=label_samples,
    )
    metrics = {f"test/{key}": value for key, value in found.items()}
    known = {key for record in records for key in record["metrics"]}
    if new := {key: value for key, value in metrics.items() if key not in known}:
        last = records[-1]
        folder.append(_line(last["epoch"], last["step"], new) | {"seconds": {}})
    return metrics


def extra_figures(
    model: CVAE,
    test: mnist.Images,
    spec: Spec,
    *,
    importance_samples: int,
    label_samples: int,
) -> dict[str, float]:
    """`nll_isK`, and by Bayes' rule `label_accuracy` and `marginal_nll_isK`."""
    seed, corrupt = spec.training.seed, spec.data.corrupt
    found: dict[str, float] = {}
    if importance_samples:
        found[f"nll_is{importance_samples}"] = evaluate.importance_nll(
            model,
            test,
            stream(seed, "evaluate"),
            samples=importance_samples,
            corrupt=corrupt,
        )
    if label_samples:
        posterior, nll = evaluate.label_posterior(
            model,
            test,
            stream(seed, "evaluate"),
            samples=label_samples,
            corrupt=corrupt,
        )
        right = posterior.argmax(1) == test.labels.cpu()
        found[f"label_accuracy_is{label_samples}"] = float(right.double().mean())
        found[f"marginal_nll_is{label_samples}"] = nll
    return found


def _bound(
    model: CVAE, part: mnist.Images, spec: Spec, *, beta: float
) -> dict[str, float]:
    return evaluate.bound(
        model,
        part,
        stream(spec.training.seed, "evaluate"),
        beta=beta,
        samples=spec.objective.importance_samples,
        corrupt=spec.data.corrupt,
    )


def _draw(
    folder: RunFolder, model: CVAE, spec: Spec, data: mnist.MNIST, *, suffix: str
) -> None:
    """Both grids as PNG, from the same images and the same z at every call."""
    figures = stream(0, "figures")  # not the run's seed: runs are compared by eye
    count = grids.SHOWN if model.classes else grids.SHOWN**2
    noise = torch.randn(count, model.latent_dim, generator=figures)
    shown = grids.shown_images(data.test)
    pictures = {
        "digits": grids.digit_grid(model, noise, data.shape),
        "reconstructions": grids.reconstructions(
            model, shown, data.shape, corrupt=spec.data.corrupt, generator=figures
        ),
    }
    for name, picture in pictures.items():
        grids.save_png(picture, folder.figures / f"{name}{suffix}.png")


def _line(epoch: int, step: int, metrics: dict[str, float]) -> Record:
    for key, value in metrics.items():
        if not math.isfinite(value):
            raise Diverged(f"{key} is not finite after step {step}")
    now = int(time.time() * 1000)
    return {"epoch": epoch, "step": step, "time": now, "metrics": metrics}


def split_options(spec: Spec) -> dict[str, Any]:
    data = spec.data
    return {
        "train_images": data.train_images,
        "validation_images": data.validation_images,
        "binarize": data.binarize,
    }

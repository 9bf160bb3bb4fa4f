"""One run: pick the device, seed the streams, assemble, resume, record, publish.

run = data → claimed folder → model, optimiser → [train, record, checkpoint]* → finish
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from torch import Tensor
from tqdm import tqdm

from cvae import checkpoint, engine, evaluate, grids, mnist, provenance
from cvae.folder import Record, RunFolder, folder_for
from cvae.model import CVAE
from cvae.spec import Spec
from cvae.specfile import SpecError

if TYPE_CHECKING:
    from cvae.tracking import Tracker

STREAMS = ("init", "shuffle", "noise", "binarize", "corrupt")
log = logging.getLogger("cvae")


class Terminated(KeyboardInterrupt):
    """SIGTERM (exit code 143)."""


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
class State:
    """All that training changes: what a checkpoint holds."""

    model: CVAE
    optimizer: engine.Adam
    streams: engine.Streams


def run(
    spec: Spec,
    *,
    runs: Path,
    offline: bool = False,
    header: str = "",
    command: str = "",
    clock: Clock | None = None,
) -> RunFolder:
    """Train, evaluate and publish one spec; go on where an unfinished run stopped.

    Raises:
        DataError, Diverged, TrackingError, SpecError, Busy: with one clear message.
    """
    clock = clock or Clock()
    device = pick_device(spec.training.device)
    with clock("data"):
        data = mnist.load_mnist(spec.data.root, **_split_options(spec))
    with claim(spec, runs) as folder:
        tracker = None if offline else _connect(runs, clock)
        state = assemble(spec, data, device)
        _introduce(folder, spec, data, state, device, header=header, command=command)
        publish = _publisher(tracker, folder, clock)
        with _status(folder, publish):
            publish()
            done = resume(folder, state)
            train = data.train.to(device)
            epochs = engine.train(
                state.model, state.optimizer, train, spec, state.streams, start=done
            )
            for epoch in _progress(epochs, folder.name, done, spec.training.epochs):
                clock.add("training", epoch.seconds)
                _record(folder, state, spec, data, epoch, clock)
                publish()
            _finish(folder, state, spec, data, clock, publish)
    return folder


def pick_device(wanted: str) -> torch.device:
    """`auto` is the GPU where there is one; on the CPU, denormals are flushed to zero.

    The gradients of pixels that never hold ink shrink until Adam's averages of them are
    denormal numbers, and arithmetic on those is up to a hundred times slower.

    Raises:
        SpecError: CUDA asked for where there is none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise SpecError(
            "training.device: cuda asked for, but torch sees no CUDA device here; use "
            "auto or cpu"
        )
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_flush_denormal(True)
    return torch.device(wanted)


def stream(seed: int, name: str, device: torch.device | str = "cpu") -> torch.Generator:
    """The generator of one named stream; no two names or seeds share one."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    value = int.from_bytes(digest[:8], "big") >> 1
    return torch.Generator(device).manual_seed(value)


def assemble(spec: Spec, data: mnist.MNIST, device: torch.device) -> State:
    """Model, optimiser and streams at step 0; the same weights on every device."""
    seed, pixels = spec.training.seed, data.train.images.shape[1]
    model = engine.build_model(spec, pixels=pixels, generator=stream(seed, "init"))
    if spec.training.output_bias == "mean_image":
        model.start_from(data.train.images.float().mean(0) / 255)
    model.to(device)
    streams = {name: stream(seed, name, device) for name in STREAMS}
    return State(model, engine.Adam(model, spec), streams)


@contextlib.contextmanager
def claim(spec: Spec, runs: Path) -> Iterator[RunFolder]:
    """The run's folder, held for this process.

    Raises:
        Busy: another process is at it. OSError: `runs` cannot be written.
    """
    runs.mkdir(parents=True, exist_ok=True)
    folder = folder_for(spec, runs)
    folder.path.mkdir(exist_ok=True)
    with folder.lock():
        if folder.info.get("status") == "FINISHED":  # in the meantime
            raise SpecError(f"{folder.path}: was finished by another process just now")
        if not folder.info:
            folder.create(spec)
        yield folder


def save_state(folder: RunFolder, state: State, *, epoch: int) -> None:
    """Checkpoint weights, optimiser and streams after `epoch` epochs."""
    tensors = {f"model.{k}": v for k, v in state.model.state_dict().items()}
    tensors |= {f"adam.{k}": v for k, v in state.optimizer.state.items()}
    tensors |= {f"stream.{k}": g.get_state() for k, g in state.streams.items()}
    device = next(state.model.parameters()).device.type
    checkpoint.save(folder.checkpoint, tensors, {"epoch": epoch, "device": device})


def resume(folder: RunFolder, state: State) -> int:
    """Put the newest sound checkpoint into `state`; returns the epochs it has done."""
    for path in (folder.checkpoint, checkpoint.previous_of(folder.checkpoint)):
        if not path.exists():
            continue
        try:
            tensors, facts = checkpoint.load(path)
        except checkpoint.CheckpointError as error:
            log.warning("%s; falling back", error)
            continue
        here = next(state.model.parameters()).device.type
        if facts["device"] != here:
            raise SpecError(
                f"{folder.path}: was begun on {facts['device']} and cannot go on on "
                f"{here}; go on there, or remove the folder to start again"
            )
        _restore(state, tensors)
        log.info("going on with %s after epoch %d", folder.path, facts["epoch"])
        return int(facts["epoch"])
    return 0


def _restore(state: State, tensors: dict[str, Tensor]) -> None:
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "adam": {}, "stream": {}}
    for name, tensor in tensors.items():
        part, _, key = name.partition(".")
        parts[part][key] = tensor
    state.model.load_state_dict(parts["model"])  # in place: Adam's views stay views
    for name, tensor in state.optimizer.state.items():
        tensor.copy_(parts["adam"][name])
    for name, generator in state.streams.items():
        generator.set_state(parts["stream"][name])


def _record(
    folder: RunFolder,
    state: State,
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
            found = _bound(state.model, data.validation, spec, beta=beta)
            metrics |= {f"val/{key}": value for key, value in found.items()}
    every, last = spec.tracking.images_every, spec.training.epochs
    if epoch.epoch % every == 0 or epoch.epoch == last:
        with clock("figures"):
            _draw(folder, state.model, spec, data, suffix=f"-{epoch.epoch:04d}")
    if epoch.epoch > len(folder.records()):
        record = _line(epoch.epoch, epoch.step, metrics)
        folder.append(record | {"seconds": clock.take()})
    with clock("checkpoints"):
        save_state(folder, state, epoch=epoch.epoch)


def _finish(
    folder: RunFolder,
    state: State,
    spec: Spec,
    data: mnist.MNIST,
    clock: Clock,
    publish: Callable[[], None],
) -> None:
    """Weights, final pictures, test figures; the clock's totals come last."""
    with clock("checkpoints"):
        weights = {k: v.detach().cpu() for k, v in state.model.state_dict().items()}
        checkpoint.write_atomic(folder.weights, safetensors.torch.save(weights))
    with clock("figures"):
        _draw(folder, state.model, spec, data, suffix="")
    with clock("evaluation"):
        found = _bound(state.model, data.test, spec, beta=spec.objective.beta)
        found |= extra_figures(
            state.model,
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
    data = mnist.load_mnist(spec.data.root, **_split_options(spec))
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
    now = int(time.time() * 1000)
    return {"epoch": epoch, "step": step, "time": now, "metrics": metrics}


def _introduce(
    folder: RunFolder,
    spec: Spec,
    data: mnist.MNIST,
    state: State,
    device: torch.device,
    *,
    header: str,
    command: str,
) -> None:
    """Who runs what on what, into `run.json`; what a first start said is kept."""
    facts: dict[str, Any] = {}
    if "facts" not in folder.info:
        git, diff = provenance.git_state()
        if diff:
            checkpoint.write_atomic(folder.path / "git.diff", diff.encode())
        parameters = sum(weight.numel() for weight in state.model.parameters())
        facts = {
            "started": time.time(),
            "header": header,
            "command": command,
            "git": git,
            "facts": {"parameters": parameters}
            | provenance.hardware(device)
            | {f"version.{k}": v for k, v in provenance.versions().items()},
            "data": {
                "root": spec.data.root,
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
    folder.update(status="RUNNING", reason="", pid=os.getpid(), host=host, **facts)


@contextlib.contextmanager
def _status(folder: RunFolder, publish: Callable[[], None]) -> Iterator[None]:
    """However the run ends, its folder says so, and the store if it is there."""
    try:
        yield
    except KeyboardInterrupt as stop:
        how = "SIGTERM" if isinstance(stop, Terminated) else "Ctrl-C"
        _end(folder, publish, "KILLED", f"interrupted by {how}")
        raise
    except Exception as error:
        _end(folder, publish, "FAILED", str(error) or type(error).__name__)
        raise
    publish()


def _end(
    folder: RunFolder, publish: Callable[[], None], status: str, reason: str
) -> None:
    with contextlib.suppress(OSError):  # a full disk must not hide why the run ended
        folder.update(status=status, reason=reason, ended=time.time())
        publish()


def _connect(runs: Path, clock: Clock) -> Tracker:
    with clock("imports"):
        from cvae.tracking import Tracker, TrackingError
    with clock("tracking"):
        try:
            return Tracker(runs)
        except TrackingError as error:
            raise TrackingError(
                f"{error}\nmake it reachable, or train without it (--offline, with "
                "make OFFLINE=1) and publish later with make sync"
            ) from error


def _publisher(
    tracker: Tracker | None, folder: RunFolder, clock: Clock
) -> Callable[[], None]:
    def publish() -> None:
        if tracker is not None:
            with clock("tracking"):
                tracker.try_publish(folder)

    return publish


def _split_options(spec: Spec) -> dict[str, Any]:
    data = spec.data
    return {
        "train_images": data.train_images,
        "validation_images": data.validation_images,
        "binarize": data.binarize,
    }


def _progress(
    epochs: Iterator[engine.Epoch], name: str, done: int, total: int
) -> Iterator[engine.Epoch]:
    """A bar on a terminal, one plain line an epoch elsewhere; both on stderr."""
    terminal = sys.stderr.isatty()
    with tqdm(
        total=total, initial=done, desc=name, unit="epoch", disable=not terminal
    ) as bar:
        for epoch in epochs:
            found = epoch.metrics
            if terminal:
                bar.set_postfix(neg_elbo=f"{found['neg_elbo']:.2f}", refresh=False)
                bar.update()
            else:
                print(
                    f"{name}  epoch {epoch.epoch}/{total}  "
                    f"train neg_elbo {found['neg_elbo']:.2f}  "
                    f"recon {found['recon']:.2f}  kl {found['kl']:.2f}  "
                    f"{epoch.seconds:.1f} s",
                    file=sys.stderr,
                    flush=True,
                )
            yield epoch

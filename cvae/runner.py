"""One run: pick the device, claim the folder, assemble, resume, train, publish.

run = data → claimed folder → model, optimiser → [train, record, checkpoint]* → finish
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cvae import engine, mnist, progress, recording, state
from cvae.folder import RunFolder, finished_run, folder_for, folders
from cvae.progress import Progress
from cvae.recording import Clock
from cvae.spec import Spec
from cvae.specfile import SpecError

if TYPE_CHECKING:
    from cvae.tracking import Tracker

log = logging.getLogger("cvae")


class Terminated(KeyboardInterrupt):
    """SIGTERM (exit code 143)."""


def run(
    spec: Spec,
    *,
    runs: Path,
    offline: bool = False,
    header: str = "",
    command: str = "",
    clock: Clock | None = None,
    tracker: Tracker | None = None,
    part_of: Mapping[str, Any] | None = None,
    show: Progress = progress.one_run,
) -> RunFolder:
    """Train, evaluate and publish one spec; go on where an unfinished run stopped.

    Args:
        tracker: a store already connected; none is looked for then.
        part_of: what a sweep adds to `run.json`; a finished run is not repeated then.
        show: passes the epochs on and shows them on its way.

    Raises:
        DataError, Diverged, TrackingError, SpecError, Busy: with one clear message.
    """
    clock = clock or Clock()
    device = pick_device(spec.training.device)
    with clock("data"):
        data = mnist.load_mnist(spec.data.root, **recording.split_options(spec))
    with claim(spec, runs, again=part_of is None) as folder:
        if tracker is None and not offline:
            tracker = connect(runs, clock)
        now = state.assemble(spec, data, device)
        recording.introduce(folder, spec, data, now, header=header, command=command)
        folder.update(**part_of or {})
        publish = _publisher(tracker, folder, clock)
        with _status(folder, publish):
            publish()
            if part_of is None:
                bury(runs, tracker)
            done = state.resume(folder, now)
            train = data.train.to(device)
            epochs = engine.train(
                now.model, now.optimizer, train, spec, now.streams, start=done
            )
            for epoch in show(epochs, folder.name, done, spec.training.epochs):
                clock.add("training", epoch.seconds)
                recording.record(folder, now, spec, data, epoch, clock)
                publish()
            recording.finish(folder, now, spec, data, clock, publish)
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


@contextlib.contextmanager
def claim(spec: Spec, runs: Path, *, again: bool = True) -> Iterator[RunFolder]:
    """The run's folder, held for this process; a new one beside a finished one.

    Raises:
        Busy: another process is at it. OSError: `runs` cannot be written. SpecError: it
        is finished, and `again` is false.
    """
    runs.mkdir(parents=True, exist_ok=True)
    folder = (None if again else finished_run(spec, runs)) or folder_for(spec, runs)
    folder.path.mkdir(exist_ok=True)
    with folder.lock():
        if folder.info.get("status") == "FINISHED":  # in the meantime
            raise SpecError(f"{folder.path}: was finished by another process just now")
        if not folder.info:
            folder.create(spec)
        yield folder


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


def connect(runs: Path, clock: Clock) -> Tracker:
    """The tracking store.

    Raises:
        TrackingError: it cannot be used; the message offers to go on without.
    """
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


def bury(runs: Path, tracker: Tracker | None) -> None:
    """Mark runs as KILLED whose process died without a word; they stay resumable."""
    for folder in folders(runs):
        if folder.info.get("status") == "RUNNING" and not folder.held():
            folder.update(status="KILLED", reason="its process died", ended=time.time())
            if tracker is not None:
                tracker.try_publish(folder)


def _publisher(
    tracker: Tracker | None, folder: RunFolder, clock: Clock
) -> Callable[[], None]:
    def publish() -> None:
        if tracker is not None:
            with clock("tracking"):
                tracker.try_publish(folder)

    return publish

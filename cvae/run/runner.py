"""One run: pick the device, claim the folder, assemble, resume, train, publish.

run = data → claimed folder → task → [train, record, checkpoint]* → finish
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from cvae.errors import (
    UNREADABLE,
    Busy,
    SpecError,
    TrackingError,
    UsageError,
)
from cvae.fast import cpu_kernel
from cvae.loading.loaded import check_data, load_data
from cvae.run import progress, state
from cvae.run.clock import Clock
from cvae.run.find import finished_run, folder_for, folders
from cvae.run.folder import Origin, RunFolder
from cvae.run.progress import Progress
from cvae.run.recorder import Recorder
from cvae.run.torch_settings import plain_torch
from cvae.run.train_cvae import CVAETask
from cvae.spec.fields import Spec
from cvae.tracking.address import redacted

if TYPE_CHECKING:
    from cvae.tracking.publish import Tracker

log = logging.getLogger("cvae")
Publish = Callable[..., None]
NO_ORIGIN = Origin()
LAST_WORDS = 3.0  # seconds that an interrupted run may take to tell the store


@plain_torch(flush_denormal=True)
def run(
    spec: Spec,
    *,
    runs: Path,
    offline: bool = False,
    origin: Origin = NO_ORIGIN,
    clock: Clock | None = None,
    tracker: Tracker | None = None,
    show: Progress = progress.epoch_progress,
) -> RunFolder:
    """Train, evaluate and publish one spec; go on where an unfinished run stopped.

    Args:
        tracker: a store already connected; none is looked for then.
        origin: for `run.json`; a finished run of a sweep is not repeated.
        show: passes the epochs on and shows them on its way.

    Raises:
        DataError, Diverged, TrackingError, UsageError, Busy: with one clear message.
    """
    clock = clock or Clock()
    device = pick_device(spec.training.device)
    if device.type == "cpu":
        # the first time it is compiled, which takes a second
        threading.Thread(target=cpu_kernel.library, daemon=True).start()
    with clock("data"):
        data = load_data(spec)
    with claim(spec, runs, again=not origin.sweep) as folder:
        check_data(folder, data)
        if tracker is None and not offline:
            tracker = connect(runs, clock)
        task = CVAETask(spec, data, device, folder)
        recorder = Recorder(folder, spec, data, task, clock)
        recorder.start(origin)
        publish = _publisher(tracker, folder, spec, clock)
        with _record_outcome(folder, publish):
            publish()
            if not origin.sweep:
                mark_dead(runs, tracker)
            _train(task, recorder, publish, show)
    return folder


def _train(
    task: CVAETask, recorder: Recorder, publish: Publish, show: Progress
) -> None:
    """From the last checkpoint to the final figures, every epoch recorded."""
    folder = recorder.folder
    done = state.resume(folder, task.state)
    for epoch in show(task.train(done), folder, done, task.last):
        recorder.clock.add("training", epoch.seconds)
        recorder.epoch(epoch)
        publish()
    recorder.finish(publish)


def pick_device(wanted: str) -> torch.device:
    """`auto` is the GPU where there is one.

    Raises:
        UsageError: CUDA asked for where there is none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "training.device: cuda asked for, but torch sees no CUDA device here; use "
            "auto or cpu"
        )
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


@contextlib.contextmanager
def claim(spec: Spec, runs: Path, *, again: bool = True) -> Iterator[RunFolder]:
    """The run's folder, held for this process; a new one beside a finished one.

    Raises:
        Busy: another process is at it.
        OSError: `runs` cannot be written.
        UsageError: it is finished, and `again` is false.
        SpecError: it was made with a field that is there no more.
    """
    spec.check_trainable()
    runs.mkdir(parents=True, exist_ok=True)
    folder = (None if again else finished_run(spec, runs)) or folder_for(spec, runs)
    folder.path.mkdir(exist_ok=True)
    abandoned = folder.abandoned
    with folder.lock():
        if folder.info.get("status") == "FINISHED" and not abandoned:  # just now
            raise UsageError(f"{folder.path}: was finished by another process just now")
        if not folder.info:
            folder.create(spec)
        elif folder.check_spec(spec):
            log.warning(
                "%s: was begun in the experiment %r and stays in it; move the folder "
                "away to begin anew in %r",
                *(folder.path, folder.spec().tracking.experiment),
                spec.tracking.experiment,
            )
        yield folder


@contextlib.contextmanager
def _record_outcome(folder: RunFolder, publish: Publish) -> Iterator[None]:
    """However the run ends, its folder says so, and the store if it is there."""
    try:
        yield
    except KeyboardInterrupt as stop:
        with contextlib.suppress(OSError):  # which must not hide why the run ended
            reason = f"interrupted by {str(stop) or 'Ctrl-C'}"
            folder.update(status="KILLED", reason=reason, ended=time.time())
            publish(LAST_WORDS)
        raise
    except Exception as error:
        with contextlib.suppress(OSError):
            reason = redacted(str(error) or type(error).__name__)
            folder.update(status="FAILED", reason=reason, ended=time.time())
            publish()
        raise
    publish()


def preload() -> None:
    """Import what `connect` needs, which takes seconds."""
    from cvae.tracking import connection, publish  # noqa: F401

    connection.preload()


def connect(runs: Path, clock: Clock) -> Tracker:
    """The tracking store.

    Raises:
        TrackingError: it cannot be used; the message offers to go on without.
    """
    with clock("imports"):
        preload()
        from cvae.tracking.publish import Tracker
    with clock("tracking"):
        try:
            return Tracker(runs)
        except TrackingError as error:
            raise TrackingError(
                f"{error}\nmake it reachable, or train without it (--offline, with "
                "make OFFLINE=1) and publish later with make sync"
            ) from error


def mark_dead(runs: Path, tracker: Tracker | None) -> None:
    """Runs whose process died become KILLED; the store hears of ends that it missed.

    A folder that cannot be read or written is named: it stops no other run.
    """
    reachable = tracker is not None
    for folder in folders(runs):
        try:
            if folder.info.get("status") == "RUNNING" and not folder.held():
                with contextlib.suppress(Busy), folder.lock():
                    reason = "its process died"
                    folder.update(status="KILLED", reason=reason, ended=time.time())
            if tracker and reachable and tracker.needs_publishing(folder):
                reachable = tracker.try_publish(folder)
        except UNREADABLE as error:
            log.warning("%s: left as it is: %s", folder.path, error)


def _publisher(
    tracker: Tracker | None, folder: RunFolder, spec: Spec, clock: Clock
) -> Publish:
    """What publishes the run; a spec.yaml lost or edited meanwhile ends no training."""

    def publish(seconds: float = math.inf) -> None:
        try:
            folder.write_missing_spec(spec)
            if tracker is not None:
                with clock("tracking"):
                    tracker.try_publish(folder)
        except SpecError as error:
            log.warning("not published: %s", error)

    return publish

"""One run: pick the device, claim the folder, assemble, resume, train, publish.

run = data → claimed folder → [train, record, checkpoint]* → finish
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from cvae.errors import UsageError
from cvae.fast import cpu_kernel
from cvae.loading.loaded import check_data, load_data
from cvae.run import progress, state
from cvae.run.find import finished_run, folder_for
from cvae.run.folder import Origin, RunFolder
from cvae.run.progress import Progress
from cvae.run.recorder import Clock, Recorder
from cvae.run.torch_settings import plain_torch
from cvae.spec.fields import Spec
from cvae.tracking import beside
from cvae.tracking.address import redacted
from cvae.tracking.beside import Publisher

log = logging.getLogger("cvae")
NO_ORIGIN = Origin()


@plain_torch(flush_denormal=True)
def run(
    spec: Spec,
    *,
    runs: Path,
    offline: bool = False,
    origin: Origin = NO_ORIGIN,
    clock: Clock | None = None,
    publisher: Publisher | None = None,
    show: Progress = progress.epoch_progress,
) -> RunFolder:
    """Train, evaluate and publish one spec; go on where an unfinished run stopped.

    Args:
        publisher: follows the run, and is waited for by the caller; without it one is
            started, unless `offline`, and waited for here.
        origin: for `run.json`; a finished run of a sweep is not repeated.
        show: passes the epochs on and shows them on its way.

    Raises:
        DataError, Diverged, TrackingError, UsageError, Busy: with one clear message.
    """
    clock = clock or Clock()
    with contextlib.ExitStack() as stack:
        if publisher is None and not offline:
            publisher = stack.enter_context(beside.publishing(runs, strict=False))
        device = pick_device(spec.training.device)
        if device.type == "cpu":
            # the first time it is compiled, which takes a second
            threading.Thread(target=cpu_kernel.library, daemon=True).start()
        with clock("data"):
            data = load_data(spec)
        folder = stack.enter_context(claim(spec, runs, again=not origin.sweep))
        check_data(folder, data)
        recorder = Recorder(folder, spec, data, device, clock)
        recorder.start(origin)
        with _record_outcome(folder, spec):
            if publisher:
                with clock("tracking"):
                    publisher.follow(folder.path)
            done = state.resume(folder, recorder.state)
            for epoch in show(recorder.train(done), folder, done, recorder.last):
                clock.add("training", epoch.seconds)
                recorder.epoch(epoch)
            recorder.finish()
    return folder


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
    with folder.lock():
        if folder.info.get("status") == "FINISHED":  # just now
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
def _record_outcome(folder: RunFolder, spec: Spec) -> Iterator[None]:
    """However the run ends, its folder says so; a spec.yaml lost meanwhile is back."""
    try:
        yield
    except (KeyboardInterrupt, Exception) as error:
        killed = isinstance(error, KeyboardInterrupt)
        status, reason = "FAILED", redacted(str(error) or type(error).__name__)
        if killed:
            status, reason = "KILLED", f"interrupted by {str(error) or 'Ctrl-C'}"
        with contextlib.suppress(OSError):  # which must not hide why the run ended
            folder.update(status=status, reason=reason, ended=time.time())
        raise
    finally:
        with contextlib.suppress(OSError):
            folder.write_missing_spec(spec)

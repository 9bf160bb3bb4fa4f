"""One run of a sweep in this process: its job, the run, the events it sends.

Every outcome is an event, none an exception.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from cvae.errors import Busy, Expected
from cvae.run import runner
from cvae.run.find import finished_run
from cvae.run.folder import Origin, RunFolder
from cvae.spec.fields import Spec
from cvae.tracking.address import redacted
from cvae.training import Epoch

log = logging.getLogger("cvae")
KNOWN = (Expected, OSError)  # their message is enough, no traceback


class Job(NamedTuple):
    """A variant to run, where, and with how many threads."""

    number: int
    label: str
    spec: Spec
    origin: Origin  # for the run's `run.json`
    runs: Path
    threads: int


class LogMessage(NamedTuple):
    """A line for the user."""

    number: int
    text: str


class Progressed(NamedTuple):
    """So many epochs of the run are done."""

    number: int
    epoch: int


class Ended(NamedTuple):
    """FINISHED, FAILED, KILLED or BUSY, and why."""

    number: int
    status: str
    reason: str
    seconds: float


Event = LogMessage | Progressed | Ended


def perform(job: Job, say: Callable[[Event], None]) -> Ended:
    """Run one variant; whatever is wrong with it is the answer, not an exception.

    Raises:
        KeyboardInterrupt: only that; the run is marked KILLED and can be gone on with.
    """
    began = time.perf_counter()

    def ended(status: str, reason: str = "") -> Ended:
        return Ended(job.number, status, reason, time.perf_counter() - began)

    def show(
        epochs: Iterator[Epoch], folder: RunFolder, done: int, total: int
    ) -> Iterator[Epoch]:
        say(Progressed(job.number, done))
        for epoch in epochs:
            yield epoch
            say(Progressed(job.number, epoch.epoch))

    torch.set_num_threads(job.threads)
    with _log_to(job.number, say):
        try:
            runner.run(
                job.spec,
                runs=job.runs,
                offline=True,  # the sweep's publisher follows it
                origin=job.origin,
                show=show,
            )
        except Busy as error:
            return ended("BUSY", str(error))
        except KNOWN as error:
            if finished_run(job.spec, job.runs):  # by another process, meanwhile
                return ended("FINISHED")
            return ended("FAILED", str(error))
        except Exception as error:
            say(LogMessage(job.number, redacted(traceback.format_exc())))
            return ended("FAILED", redacted(f"{type(error).__name__}: {error}"))
    return ended("FINISHED")


@contextlib.contextmanager
def _log_to(number: int, say: Callable[[Event], None]) -> Iterator[None]:
    """What the run logs is said, so that it does not tear the parent's display."""
    me = threading.get_ident()
    alone = threading.current_thread() is threading.main_thread()  # in its process

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == me or alone:
                say(LogMessage(number, record.getMessage()))

    handler, propagates = Handler(), log.propagate
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = propagates

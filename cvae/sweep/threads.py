"""Runs of a sweep side by side in one process: a thread and a GPU stream for each.

A step of these networks is a hundred kernels, each too small to fill a GPU. Those of
two processes take turns on it; those of two streams of one process run at once. Every
run is the one that its spec alone would make.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import queue
import threading
from collections.abc import Generator, Iterator, Sequence

import torch

from cvae.errors import Terminated
from cvae.run.torch_settings import plain_torch
from cvae.sweep.worker import Ended, Event, Job, perform


def run_jobs(jobs: Sequence[Job], workers: int) -> Generator[Event, None, None]:
    """Every job, `workers` at a time; yields what they say, as they say it.

    Closing the generator ends them after their epochs: runs under way are marked KILLED
    and can be gone on with.
    """
    if torch.cuda.is_available():  # torch loads its solver on first use, and only once
        torch.linalg.inv(torch.eye(2, device="cuda"))
    waiting = collections.deque(jobs)
    said: queue.SimpleQueue[Event] = queue.SimpleQueue()
    over = threading.Event()

    def say(event: Event) -> None:
        if over.is_set():
            raise Terminated
        said.put(event)

    def work() -> None:
        stream = torch.cuda.Stream() if torch.cuda.is_available() else None
        with contextlib.suppress(IndexError, Terminated), torch.cuda.stream(stream):
            while not over.is_set():
                said.put(perform(waiting.popleft(), say))

    threads = [threading.Thread(target=work) for _ in range(workers)]
    with _quiet(), plain_torch(flush_denormal=True):  # which every run finds set
        for thread in threads:
            thread.start()
        try:
            for _ in jobs:
                yield from _until_one_ends(said)
        finally:
            over.set()
            for thread in threads:
                thread.join()


def _until_one_ends(said: queue.SimpleQueue[Event]) -> Iterator[Event]:
    while True:
        event = said.get()
        yield event
        if isinstance(event, Ended):
            return


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What runs log reaches the user as what they said, and not a second time."""
    log = logging.getLogger("cvae")
    propagates, log.propagate = log.propagate, False
    try:
        yield
    finally:
        log.propagate = propagates

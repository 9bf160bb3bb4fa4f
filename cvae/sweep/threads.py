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
from collections.abc import Generator, Sequence

import torch

from cvae.errors import Terminated
from cvae.run.torch_settings import plain_torch
from cvae.sweep.worker import Ended, Event, Job, perform

log = logging.getLogger("cvae")


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
    ended = 0
    log.propagate = False  # what runs log reaches the user as what they said
    with plain_torch(flush_denormal=True):  # which every run finds set
        for thread in threads:
            thread.start()
        try:
            while ended < len(jobs):
                event = said.get()
                ended += isinstance(event, Ended)
                yield event
        finally:
            over.set()
            for thread in threads:
                thread.join()
            log.propagate = True

"""Runs of a sweep on this machine: worker processes that take one after another."""

from __future__ import annotations

import collections
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import NoReturn

from cvae.errors import Terminated
from cvae.sweep.worker import Ended, Event, Job, perform

PATIENCE = 10.0  # seconds that an interrupted run has to write where it stopped
spawn = multiprocessing.get_context("spawn")


class Pool:
    """`count` processes of `threads` threads; they load torch while the sweep prepares.

    Leaving the context ends them: runs under way are marked KILLED and can be gone on
    with.
    """

    def __init__(self, count: int, threads: int) -> None:
        # their OpenMP reads the number of threads once, when torch is loaded
        os.environ["OMP_NUM_THREADS"] = str(threads)
        self.alive, self.lifeline = spawn.Pipe(duplex=False)
        self.workers = [_Worker(self.alive) for _ in range(count)]

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.lifeline.close()  # which every worker takes as its end
        try:
            for worker in self.workers:
                if worker.job:  # it has time to write where its run stopped
                    worker.process.join(PATIENCE)
        finally:  # out of patience, or a second Ctrl-C
            for worker in self.workers:
                worker.process.kill()

    def run(self, jobs: Sequence[Job]) -> Iterator[Event]:
        """Every job by one of the processes; yields what they say, as they say it.

        A worker that dies is replaced, and only the run it was at has failed.
        """
        waiting = collections.deque(jobs)
        while waiting or any(worker.job for worker in self.workers):
            for worker in self.workers:
                if waiting and worker.job is None:
                    worker.take(waiting.popleft())
            heard = wait([worker.connection for worker in self.workers])
            for worker in [one for one in self.workers if one.connection in heard]:
                try:
                    event = worker.connection.recv()
                except (EOFError, OSError):  # it died
                    self.workers.remove(worker)
                    if waiting:
                        self.workers.append(_Worker(self.alive))
                    yield from worker.report_death()
                    continue
                if isinstance(event, Ended):
                    worker.job = None
                yield event


class _Worker:
    """A process, the pipe to it, and the job it is at."""

    def __init__(self, alive: Connection) -> None:
        self.connection, theirs = spawn.Pipe()
        self.job: Job | None = None
        given = (theirs, alive)
        self.process = spawn.Process(target=_worker_main, args=given, daemon=True)
        # Ctrl-C is for the parent alone: what is blocked stays blocked in a child
        resource_tracker.ensure_running()  # which unblocks it as it starts
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        theirs.close()

    def take(self, job: Job) -> None:
        self.job = job
        try:
            self.connection.send(job)
        except OSError:  # it died while idle; its end of the pipe says so to `recv`
            return

    def report_death(self) -> Iterator[Ended]:
        """The end of the run that a dead worker was at."""
        self.process.join()
        code = self.process.exitcode or 0
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        if self.job:
            reason = f"its worker process died ({how}); run the sweep again to go on"
            yield Ended(self.job.number, "KILLED", reason, 0.0)


def _worker_main(connection: Connection, alive: Connection) -> None:
    """A worker's life: a job, its answer, the next, until the parent is gone."""

    def say(event: Event) -> None:
        try:
            connection.send(event)
        except OSError as error:  # the parent is gone: that is no fault of the run
            raise Terminated from error

    try:
        signal.signal(signal.SIGTERM, _terminate)
        threading.Thread(target=_end_with_parent, args=(alive,), daemon=True).start()
        while True:
            say(perform(connection.recv(), say))
    except (EOFError, OSError, KeyboardInterrupt):
        return


def _end_with_parent(alive: Connection) -> None:
    """The pipe that only the parent holds tells its end, also when it was killed."""
    alive.poll(None)
    os.kill(os.getpid(), signal.SIGTERM)


def _terminate(number: int, frame: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
    raise Terminated

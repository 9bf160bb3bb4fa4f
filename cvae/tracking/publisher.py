"""The process beside a training: it follows run folders and publishes them.

    python -m cvae.tracking.publisher RUNS      (started by `beside.Publisher`)

Folders to follow come on standard input. Its end means that the command is done, or
died: what is there is published.
The exit code is 5 if the store lacks the status, params or metrics of a folder.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cvae.errors import UNREADABLE, Busy, TrackingError
from cvae.run.find import folders
from cvae.run.folder import RunFolder, SweepFolder, stamp_of

POLL = 0.25  # seconds between two looks at the folders
PAUSE = 60.0  # seconds between attempts to reach a store that went away
NICE = 10  # steps below the training, once it is connected
CHANGING = ("run.json", "records.jsonl", "figures", "sweep.json", "table.csv")
log = logging.getLogger("cvae")


class Publisher:
    """Publishes the folders that it is told of, whenever they changed."""

    def __init__(self, runs: Path, pipe: int = 0) -> None:
        self.runs, self.pipe = runs, pipe
        self.tracker: Any = None  # a Tracker, once there is something to publish
        self.monitor: Any = None  # MLflow's, where system metrics are asked for
        self.followed: list[RunFolder | SweepFolder] = []
        self.outer = os.environ.get("MLFLOW_RUN_ID", "")  # of `mlflow run`
        self.told = False  # whether the store heard of runs that died before
        self.over = False
        self._seen: dict[str, object] = {}  # by folder: how it was when published
        self._failed = -math.inf
        self._said: set[str] = set()

    def run(self) -> int:
        """Follow the folders to the end of the pipe; the exit code."""
        while not self.over:
            self._listen()
            if self.followed:
                self._publish_changed()
        if not self.followed:
            return 0
        for folder in self._members():
            with contextlib.suppress(*UNREADABLE):
                mark_dead(folder)
        self._failed = -math.inf
        if self.monitor:
            self.monitor.finish()
        self._publish_changed()
        told = self.tracker and all(map(self._is_told, self._members()))
        return 0 if told else 5

    def _listen(self) -> None:
        """Take up what the pipe brings within `POLL` seconds."""
        if not select.select([self.pipe], [], [], POLL)[0]:
            return
        data = os.read(self.pipe, 1 << 16)
        self.over = not data
        for name in filter(None, data.split(b"\0")):
            path = Path(os.fsdecode(name))
            kind = SweepFolder if (path / "sweep.json").exists() else RunFolder
            self.followed.append(kind(path))

    def _members(self) -> Iterator[RunFolder | SweepFolder]:
        """All that is followed: sweeps, and runs that were begun."""
        for folder in self.followed:
            yield folder
            if isinstance(folder, SweepFolder):
                yield from folder.runs()

    def _publish_changed(self) -> None:
        if time.monotonic() - self._failed < PAUSE:
            return
        try:
            if self.tracker is None:
                from cvae.tracking.publish import Tracker  # takes seconds

                self.tracker = Tracker(self.runs)
                lower_priority()  # from then on the processor is the training's
            for folder in self._members():
                now = [stamp_of(folder.path / name) for name in CHANGING]
                missing = self.over and not self._is_told(folder)
                if missing or self._seen.get(folder.name) != now:
                    self._publish(folder)
                    self._seen[folder.name] = now
            if not self.told:
                self.told = True
                if not self.over and self.followed[0].published:
                    self.monitor = self.tracker.start_monitor(self.followed[0])
                self._tell_of_the_dead()
        except TrackingError as error:
            self._failed = time.monotonic()
            self._say(f"{error}; all is kept in the run's folder")

    def _tell_of_the_dead(self) -> None:
        """Of runs that ended and the store, which has them, was not told."""
        for folder in folders(self.runs):
            try:
                mark_dead(folder)
                if self.tracker.needs_publishing(folder):
                    self._publish(folder)
            except TrackingError:
                raise
            except UNREADABLE as error:
                self._say(f"{folder.path}: left as it is: {error}")

    def _publish(self, folder: RunFolder | SweepFolder) -> None:
        """Publish a folder, or name why not; raises TrackingError: no store."""
        adopt = self.outer if folder is self.followed[0] else ""
        if fault := self.tracker.try_publish(folder, adopt=adopt):
            self._say(fault)

    def _is_told(self, folder: RunFolder | SweepFolder) -> bool:
        with contextlib.suppress(*UNREADABLE):
            return bool(self.tracker.is_told(folder))
        return False

    def _say(self, text: str) -> None:
        """Name a fault, once."""
        if text not in self._said:
            self._said.add(text)
            log.warning("%s", text)


def lower_priority() -> None:
    """Let the training go first: Linux may weigh sessions, and in them processes."""
    os.nice(NICE)
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(NICE))


def mark_dead(folder: RunFolder | SweepFolder) -> None:
    """Mark a run whose process died as KILLED.

    Raises:
        OSError: the folder cannot be written.
    """
    if isinstance(folder, SweepFolder):
        return
    if folder.info.get("status") == "RUNNING" and not folder.held():
        with contextlib.suppress(Busy), folder.lock():
            if folder.info.get("status") == "RUNNING":
                reason = "its process died"
                folder.update(status="KILLED", reason=reason, ended=time.time())


def main() -> int:
    gc.set_threshold(100_000)  # as in `cvae/__main__.py`
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # its end is that of the pipe
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.raiseExceptions = False  # a terminal that was closed
    log.setLevel(logging.INFO)
    code = Publisher(Path(sys.argv[1])).run()
    gc.freeze()  # as there
    return code


if __name__ == "__main__":
    sys.exit(main())

"""The publisher, as the command that trains sees it: started, told, waited for.

The trainer imports no MLflow and never waits for the store: a process beside it, see
`publisher.py`, follows the folders and publishes them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from cvae.errors import TrackingError
from cvae.tracking.address import reach

LAST_WORDS = 3.0  # seconds that an interrupted command waits for the publisher
ROOT = Path(__file__).resolve().parents[2]
log = logging.getLogger("cvae")


class Publisher:
    """A process that publishes folders to the store of `runs`.

    It ends when it has published what is there after `close`, or after the death of
    the process that started it.

    Raises:
        TrackingError: from the constructor: the store cannot be reached.
    """

    def __init__(self, runs: Path) -> None:
        try:
            reach(runs)
        except TrackingError as error:
            raise TrackingError(
                f"{error}\nmake it reachable, or train without it (--offline, with "
                "make OFFLINE=1) and publish later with make sync"
            ) from error
        places = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        self.busy = False
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cvae.tracking.publisher", str(runs.resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, places))},
            start_new_session=True,  # Ctrl-C in the terminal is for the trainer alone
        )

    def follow(self, folder: Path) -> None:
        """Publish the run in `folder` from now on, or the sweep with all its runs."""
        self.busy = True
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):  # it was killed: `close` says so
            os.write(self.process.stdin.fileno(), os.fsencode(folder.resolve()) + b"\0")

    def close(self, seconds: float | None = None) -> bool:
        """Wait until all is published; after `seconds` it goes on without the command.

        Returns:
            Whether the store has status, params and metrics of everything followed.
        """
        assert self.process.stdin is not None
        self.process.stdin.close()
        if not self.busy:
            self.process.kill()
        try:
            self.process.wait(1)
        except subprocess.TimeoutExpired:
            log.info("publishing to MLflow (Ctrl-C does not stop it)")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)
        return not self.busy or self.process.poll() == 0


@contextlib.contextmanager
def publishing(
    runs: Path, *, offline: bool = False, strict: bool = True
) -> Iterator[Publisher | None]:
    """A publisher that is waited for at the end; none if `offline`.

    Raises:
        TrackingError: the store cannot be reached; or, if `strict`, it does not have
            everything at the end, which otherwise is only said.
    """
    if offline:
        yield None
        return
    publisher = Publisher(runs)
    try:
        yield publisher
    except KeyboardInterrupt:
        publisher.close(LAST_WORDS)
        raise
    except BaseException:
        publisher.close()
        raise
    if not publisher.close():
        said = "not everything is in MLflow yet; publish it: make sync"
        if strict:
            raise TrackingError(said)
        log.warning("%s", said)

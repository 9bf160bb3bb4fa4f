"""The lock of a run: held by one process, with signs of life for other machines.

The kernel frees an flock however its process ends, but only on one machine: across
file systems that do not share locks, the owner's line in the file and the file's
modification time, renewed by a heartbeat, say whether it lives.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from cvae.errors import Busy, UsageError
from cvae.run.files import errors_naming

PATIENCE = 1.0  # seconds; others look at a lock for a moment, and owners sign it late
BEAT = 5.0  # seconds between a holder's signs of life
SILENCE = 30.0  # seconds after which a holder on another machine counts as dead


@contextlib.contextmanager
def hold(path: Path) -> Iterator[None]:
    """Hold the lock at `path` for this process.

    The owner's name stands in the lock until it lets go: a name in a free lock is
    that of a process that died.

    Raises:
        Busy: naming the process that holds it. UsageError: nothing can be locked here.
    """
    with path.open("a+") as file:
        _claim(file)
        with errors_naming(path):
            file.truncate(0)
            file.write(_owner())
            file.flush()
        try:
            with _heartbeat(file):
                yield
        finally:
            file.truncate(0)


def held(path: Path) -> bool:
    """Whether a living process holds the lock."""
    try:
        with path.open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return _last_sign(file) is not None
    except BlockingIOError:
        return True
    except OSError:
        return False


def abandoned(path: Path) -> bool:
    """Whether the last process that held it died without letting go."""
    try:
        signed = path.stat().st_size > 0
    except OSError:
        return False
    return signed and not held(path)


def _claim(file: IO[str]) -> None:
    """Take the lock, or say who has it."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError as error:
            file.seek(0)
            owner = file.read(200).strip()
            if time.monotonic() > until:
                folder = Path(file.name).parent
                owner = owner or "another process"
                raise Busy(f"{folder}: already being run by {owner}") from error
        except OSError as error:
            raise UsageError(
                f"{Path(file.name).parent}: this file system cannot lock files "
                f"({error.strerror}): mount it with locks (Lustre: -o flock; NFS: a "
                "lock server), or keep the runs on another one (--runs=FOLDER)"
            ) from error
        time.sleep(0.02)
    if (age := _last_sign(file)) is not None:
        file.seek(0)
        raise Busy(
            f"{Path(file.name).parent}: already being run by {file.read(200).strip()}, "
            f"heard of {age:.0f} s ago; if it is dead, try again in {SILENCE:.0f} s"
        )


def _owner() -> str:
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    return f"pid {os.getpid()} on {socket.gethostname()} since {started}\n"


@contextlib.contextmanager
def _heartbeat(file: IO[str]) -> Iterator[None]:
    """Touch the lock while it is held: locks do not reach across every file system."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(BEAT):
            with contextlib.suppress(OSError):
                os.utime(file.fileno())

    thread = threading.Thread(target=beat, daemon=True, name="heartbeat")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _last_sign(file: IO[str]) -> float | None:
    """Seconds since the last sign of life of a holder on another machine, if recent."""
    file.seek(0)
    owner = re.match(r"pid \d+ on (\S+) ", file.read(200))
    if owner is None or owner[1] == socket.gethostname():
        return None
    age = time.time() - os.fstat(file.fileno()).st_mtime
    return age if age < SILENCE else None

"""Atomic writes: a file is either the old one or the new one, at every moment. The
digest that tells whether it is the one that was written, and the lock of a run."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from cvae.errors import Busy, UsageError

if TYPE_CHECKING:  # folders are listed without numpy
    from cvae.grids import Picture

PATIENCE = 1.0  # seconds; others look at a lock for a moment, and owners sign it late


def digest(data: bytes) -> str:
    """64 hex digits, the SHA-256."""
    return hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def errors_naming(path: Path) -> Iterator[None]:
    """Make an error of the disk name `path`: that of a write names no file, that of a
    part file one that nobody asked for."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


def write_atomic(path: Path, data: bytes, *, keep: Path | None = None) -> None:
    """Replace `path` by `data` in one step that survives a crash at any point.

    What it replaces becomes `keep`, but only once `data` is safely on the disk.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    with errors_naming(path):
        try:
            with aside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if keep and path.exists():
                path.replace(keep)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)  # the rename itself, on the disk
        try:
            os.fsync(folder)
        except OSError as error:  # CIFS and FUSE may not know how; the file is safe
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(folder)


def save_png(picture: Picture, path: Path, *, scale: int = 2) -> None:
    """Write a picture of `grids`, each of its pixels `scale` wide."""
    from PIL import Image

    height, width = picture.shape
    large = (scale * width, scale * height)
    file = io.BytesIO()
    with Image.fromarray(picture) as image:
        image.resize(large, Image.Resampling.NEAREST).save(file, format="PNG")
    write_atomic(path, file.getvalue())


@contextlib.contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold the lock at `path` for this process, whose name stands in it.

    Raises:
        Busy: naming the process that holds it. UsageError: nothing can be locked here.
    """
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    with path.open("a+") as file:
        _claim(file)
        with errors_naming(path):
            file.truncate(0)
            file.write(f"pid {os.getpid()} on {socket.gethostname()} since {started}\n")
            file.flush()
        yield


def lock_held(path: Path) -> bool:
    """Whether a living process holds the lock."""
    try:
        with path.open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def _claim(file: IO[str]) -> None:
    """Take the lock, or say who has it."""
    until, folder = time.monotonic() + PATIENCE, Path(file.name).parent
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            file.seek(0)
            owner = file.read(200).strip() or "another process"
            if time.monotonic() > until:
                raise Busy(f"{folder}: already being run by {owner}") from error
        except OSError as error:
            raise UsageError(
                f"{folder}: this file system cannot lock files ({error.strerror}): "
                "mount it with locks (Lustre: -o flock; NFS: a lock server), or keep "
                "the runs on another one (--runs=FOLDER)"
            ) from error
        time.sleep(0.02)

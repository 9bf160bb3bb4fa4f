"""Atomic writes: a file is either the old one or the new one, at every moment; and
the digest that tells whether it is the one that was written."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # folders are listed without numpy
    from cvae.grids import Picture


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

    What it replaces becomes `keep`, but only once `data` is safely on the disk; a file
    stands at `path` all the time.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    with errors_naming(path):
        try:
            with aside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if keep and path.exists():
                _link_or_rename(path, keep)
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


def _link_or_rename(path: Path, name: Path) -> None:
    """Give the file at `path` a second name in the same folder, in one step."""
    spare = name.with_name(f".{name.name}.{os.getpid()}.part")
    try:
        os.link(path, spare)
    except OSError:  # a file system without hard links
        path.replace(name)
        return
    try:
        spare.replace(name)
    finally:  # POSIX leaves `spare` where both are names of one file already
        spare.unlink(missing_ok=True)


def save_png(picture: Picture, path: Path, *, scale: int = 2) -> None:
    """Write a picture of `grids`, each of its pixels `scale` wide."""
    from PIL import Image

    height, width = picture.shape
    large = (scale * width, scale * height)
    file = io.BytesIO()
    with Image.fromarray(picture) as image:
        image.resize(large, Image.Resampling.NEAREST).save(file, format="PNG")
    write_atomic(path, file.getvalue())

"""An IDX file of unsigned bytes, raw or gzip-compressed, as a tensor.

The format is the one of http://yann.lecun.com/exdb/mnist: big-endian, two zero bytes,
a type byte (8 = unsigned byte), the number of dimensions, one 32-bit size each, data.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from cvae.errors import DataError


def open_raw(path: Path) -> BinaryIO:
    """The bytes of a file, decompressed if it ends in .gz."""
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


@contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    # What the disk or the decompression throws, as one clear line.
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise DataError(
            f"{path}: cannot be read: {reason or error}{_hint(path)}"
        ) from error


def read_idx(path: Path, dimensions: int) -> tuple[Tensor, str]:
    """One IDX file of unsigned bytes as a tensor, and the SHA-256 of its raw bytes."""
    if not path.exists() and path.with_name(path.name + ".gz").exists():
        path = path.with_name(path.name + ".gz")
    with _clear_errors(path), open_raw(path) as file:
        header = file.read(4 + 4 * dimensions)
        sizes = _parse_header(path, header, dimensions)
        length = math.prod(sizes)
        data = bytearray()  # the header may promise more than there is memory
        while len(data) <= length and (chunk := file.read(1 << 22)):
            data += chunk
    if len(data) != length:
        actual = "more" if len(data) > length else str(len(header) + len(data))
        raise DataError(
            f"{path}: the header promises {' × '.join(map(str, sizes))} = {length} "
            f"bytes after {len(header)} of header, found {actual}; the file is "
            f"{'followed by trailing bytes' if len(data) > length else 'truncated'}"
        )
    digest = hashlib.sha256(header)
    digest.update(data)
    flat = torch.frombuffer(data, dtype=torch.uint8) if length else torch.empty(0)
    return flat.to(torch.uint8).view(sizes), digest.hexdigest()


def _parse_header(path: Path, header: bytes, dimensions: int) -> tuple[int, ...]:
    wanted = 0x800 + dimensions
    if len(header) < 4 + 4 * dimensions:
        raise DataError(
            f"{path}: truncated: {len(header)} bytes, an IDX header of {dimensions} "
            f"dimensions takes {4 + 4 * dimensions}{_hint(path)}"
        )
    magic, *sizes = struct.unpack(f">{1 + dimensions}I", header)
    if magic != wanted:
        raise DataError(
            f"{path}: magic number {magic}, expected {wanted} (unsigned bytes in "
            f"{dimensions} dimensions); is it an IDX file of "
            f"{'images' if dimensions == 3 else 'labels'}?{_hint(path)}"
        )
    return tuple(sizes)


def _hint(path: Path) -> str:
    # What a file that is no IDX file is by its first bytes, and what to do then.
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError:
        return ""
    if start[:2] == b"\x1f\x8b" and path.suffix != ".gz":
        return f"; it is gzip-compressed: rename it to {path.name}.gz"
    if start.lstrip().startswith(b"<"):
        return "; it is a web page, not data: download it again"
    if start[:4] == b"\0\0\x08\x03" and path.suffix == ".gz":
        return f"; it is not compressed: rename it to {path.stem}"
    return ""

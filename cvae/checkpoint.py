"""Atomic save and load of plain state: tensors and JSON, never a pickle.

Everything is written aside, flushed to the disk and renamed, so that a file is either
the old one or the new one. Checkpoints carry a checksum and keep their predecessor.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # whoever only lists folders need not wait for torch
    from torch import Tensor


class CheckpointError(Exception):
    """A file of tensors is truncated, altered or no safetensors file at all."""


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the disk, which name no file when they come from a write, name it."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_atomic(path: Path, data: bytes, *, keep: Path | None = None) -> None:
    """Replace `path` by `data` in one step that survives a crash at any point.

    What it replaces becomes `keep`, but only once `data` is safely on the disk.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    with naming(path):
        try:
            with aside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if keep and path.exists():  # a crash here leaves `keep`, which is sound
                path.replace(keep)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def save(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write named tensors and JSON-able `state` as one safetensors file.

    A checksum goes in with them; the file it replaces becomes `<name>.previous`.
    """
    import safetensors.torch

    tensors = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
    state_json = json.dumps(state, sort_keys=True)
    metadata = {"state": state_json, "sha256": _checksum(tensors, state_json)}
    data = safetensors.torch.save(tensors, metadata)
    write_atomic(path, data, keep=previous_of(path))


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the state that `save` wrote.

    Raises:
        CheckpointError: the file is not what `save` wrote, byte for byte.
    """
    import safetensors

    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        state_json, expected = metadata["state"], metadata["sha256"]
    except (safetensors.SafetensorError, KeyError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a checkpoint: {error}") from error
    found = _checksum(tensors, state_json)
    if found != expected:
        raise CheckpointError(
            f"{path}: damaged: SHA-256 of its content is {found}, written as {expected}"
        )
    return tensors, json.loads(state_json)


def set_aside(path: Path) -> Path:
    """Rename a damaged checkpoint, so that no save makes it the predecessor."""
    return path.replace(path.with_name(f"{path.name}.damaged"))


def previous_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.previous")


def _checksum(tensors: dict[str, Tensor], state: str) -> str:
    import torch

    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()

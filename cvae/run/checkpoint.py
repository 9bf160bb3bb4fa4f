"""Save and load of plain state: tensors and JSON, never a pickle.

Checkpoints are written atomically, carry a checksum and keep their predecessor.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from cvae.errors import CheckpointError
from cvae.run.files import write_atomic


def save(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write named tensors and JSON-able `state` as one safetensors file.

    A checksum goes in with them; the file it replaces becomes `<name>.previous`.
    """
    tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    state_json = json.dumps(state, sort_keys=True)
    metadata = {"state": state_json, "sha256": _checksum(tensors, state_json)}
    data = safetensors.torch.save(tensors, metadata)
    write_atomic(path, data, keep=previous_of(path))


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the state that `save` wrote.

    Raises:
        CheckpointError: the file is not what `save` wrote, byte for byte.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        state_json, expected = metadata["state"], metadata["sha256"]
    except (safetensors.SafetensorError, KeyError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a checkpoint: {error}") from error
    actual = _checksum(tensors, state_json)
    if actual != expected:
        raise CheckpointError(
            f"{path}: damaged: SHA-256 of its content is {actual}, "
            f"written as {expected}"
        )
    return tensors, json.loads(state_json)


def set_aside(path: Path) -> Path:
    """Rename a damaged checkpoint, so that no save makes it the predecessor."""
    return path.replace(path.with_name(f"{path.name}.damaged"))


def previous_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.previous")


def _checksum(tensors: dict[str, Tensor], state: str) -> str:
    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from cvae.errors import CheckpointError
from cvae.run.checkpoint import load, previous_of, save

TENSORS = {
    "model.weight": torch.arange(6.0).view(2, 3),
    "adam.step": torch.tensor(7.0),
    "stream.noise": torch.Generator().manual_seed(0).get_state()[:64],
    "exact": torch.tensor([0.1, torch.pi], dtype=torch.float64),
    "odd": torch.tensor([torch.nan, torch.inf, -0.0, 1e-45]),
    "none": torch.zeros(0, 4),
    "whole": torch.tensor([-(2**63), 2**63 - 1]),
}
STATE = {"epoch": 3, "device": "cpu", "nested": {"β": [1.5, None, "x\n"]}}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint.safetensors"
    save(path, TENSORS, STATE)
    return path


def test_what_is_saved_is_loaded_bit_for_bit(path: Path) -> None:
    tensors, state = load(path)
    assert state == STATE
    assert set(tensors) == set(TENSORS)
    for name, wanted in TENSORS.items():
        found = tensors[name]
        assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
        as_bytes = [part.contiguous().numpy().tobytes() for part in (found, wanted)]
        assert as_bytes[0] == as_bytes[1], name


def test_every_flipped_bit_is_noticed(path: Path) -> None:
    data = path.read_bytes()
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            load(path)


class Bomb:
    """What a hostile pickle does: unpickled, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def test_a_pickle_is_refused_and_not_executed(tmp_path: Path) -> None:
    path, victim = tmp_path / "checkpoint.pt", tmp_path / "executed"
    torch.save({"model": Bomb(victim)}, path)
    for name in (path, path.with_suffix(".safetensors")):
        name.write_bytes(path.read_bytes())
        with pytest.raises(CheckpointError, match="not a checkpoint"):
            load(name)
    assert not victim.exists()
    torch.load(path, weights_only=False)
    assert victim.exists()  # a pickle that is loaded as one does run


def test_a_sound_checkpoint_is_there_whenever_a_save_is_interrupted(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted before each of its renames."""
    rename = Path.replace
    for allowed in (0, 1, 2):
        left = [allowed]

        def interrupted(self: Path, target: Path, left: list[int] = left) -> Path:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return rename(self, target)

        save(path, {}, {"epoch": 3})
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", interrupted)
            with contextlib.suppress(KeyboardInterrupt):
                save(path, {}, {"epoch": 4})
        newest = path if path.exists() else previous_of(path)
        assert load(newest)[1] == {"epoch": 4 if allowed == 2 else 3}
        assert not list(path.parent.glob(".*.part"))

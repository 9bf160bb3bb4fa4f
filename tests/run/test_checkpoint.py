from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
from pathlib import Path
from typing import Any

import pytest
import torch

from cvae import __main__
from cvae.errors import CheckpointError, UsageError
from cvae.run import checkpoint, runner
from cvae.run.checkpoint import load, previous_of, save
from cvae.run.files import write_atomic
from cvae.run.folder import RunFolder
from tests.conftest import spec

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


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Every fsync and rename, in order, with the name of what it was done to."""
    seen: list[tuple[str, str]] = []
    fsync, replace = os.fsync, Path.replace

    def synced(number: int) -> None:
        seen.append(("fsync", Path(f"/proc/self/fd/{number}").readlink().name))
        fsync(number)

    def replaced(self: Path, target: Any) -> Path:
        seen.append(("rename", Path(target).name))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    return seen


def test_a_file_is_synced_before_its_rename_its_folder_after_and_a_record_at_once(
    tmp_path: Path, calls: list[tuple[str, str]]
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    write_atomic(place / "file", b"x")
    first, second, third = calls
    assert first[0] == "fsync"
    assert "file" in first[1]
    assert [second, third] == [("rename", "file"), ("fsync", "place")]
    folder = RunFolder(tmp_path / "test-12345678")
    folder.create(spec())
    calls.clear()
    folder.append({"epoch": 1, "step": 1, "time": 1, "metrics": {}, "seconds": {}})
    assert calls == [("fsync", "records.jsonl")]


def test_a_run_begun_on_another_device_does_not_go_on(
    tmp_path: Path, tiny_root: Path
) -> None:
    fields = {"data__root": str(tiny_root), "data__validation_images": 0}
    wanted = spec(**fields, training__epochs=1, training__device="cpu")
    folder = runner.run(wanted, runs=tmp_path / "runs", offline=True)
    folder.update(status="KILLED")
    tensors, facts = checkpoint.load(folder.checkpoint)
    checkpoint.save(folder.checkpoint, tensors, facts | {"device": "cuda"})
    before = folder.checkpoint.read_bytes()
    with pytest.raises(UsageError, match=r"cuda.*cpu"):
        runner.run(wanted, runs=tmp_path / "runs", offline=True)
    assert folder.checkpoint.read_bytes() == before


@pytest.mark.parametrize("refused", ["flock", "fsync"])
def test_without_locks_a_run_stops_in_a_line_and_without_folder_syncs_it_continues(
    tmp_path: Path,
    tiny_root: Path,
    refused: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As Lustre and NFS without a lock server, CIFS and FUSE answer."""
    known = os.fsync

    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    def fsync(number: int) -> None:
        if stat.S_ISDIR(os.fstat(number).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        known(number)

    if refused == "flock":
        monkeypatch.setattr(fcntl, "flock", flock)
    else:
        monkeypatch.setattr(os, "fsync", fsync)
    changes = f"data.root={tiny_root} data.validation_images=0 training.epochs=1"
    words = ["run", "quickstart", "--offline", "--runs", str(tmp_path / "runs")]
    code = __main__.main([*words, "--set", f"{changes} model.hidden=[4]"])
    if refused == "flock":
        assert code == 2
        assert re.search(r"runs/quickstart-.*\n?.*cannot lock files", caplog.text)
    else:
        assert code == 0
        assert list(tmp_path.glob("runs/quickstart-*/model.safetensors"))

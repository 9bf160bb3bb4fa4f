"""What is written is on the disk before the next step counts on it."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from pathlib import Path
from typing import Any

import pytest

from cvae import __main__
from cvae.errors import UsageError
from cvae.run import checkpoint, runner
from cvae.run.files import write_atomic
from cvae.run.folder import RunFolder
from tests.conftest import spec


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


def test_a_file_is_synced_before_it_is_renamed_and_its_folder_after(
    tmp_path: Path, calls: list[tuple[str, str]]
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    write_atomic(place / "file", b"x")
    first, second, third = calls
    assert first[0] == "fsync"
    assert "file" in first[1]
    assert [second, third] == [("rename", "file"), ("fsync", "place")]


def test_a_record_is_synced_when_append_returns(
    tmp_path: Path, calls: list[tuple[str, str]]
) -> None:
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

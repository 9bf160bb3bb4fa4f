"""What is written is on the disk before the next step counts on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

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


def after(epochs: int) -> Callable[..., Iterator[Any]]:
    """A progress display that interrupts the run after so many epochs."""

    def show(records: Iterator[Any], *_: Any, **__: Any) -> Iterator[Any]:
        for count, record in enumerate(records):
            if count == epochs:
                raise KeyboardInterrupt
            yield record

    return show


def test_a_run_begun_on_another_device_does_not_go_on(
    tmp_path: Path, tiny_root: Path
) -> None:
    wanted = spec(
        data__root=str(tiny_root),
        data__validation_images=0,
        training__epochs=4,
        training__device="cpu",
    )
    with pytest.raises(KeyboardInterrupt):
        runner.run(wanted, runs=tmp_path / "runs", offline=True, show=after(2))
    (path,) = (tmp_path / "runs").glob("*/checkpoint.safetensors")
    folder = RunFolder(path.parent)
    tensors, facts = checkpoint.load(path)
    assert (facts["device"], facts["epoch"]) == ("cpu", 2)
    checkpoint.save(path, tensors, facts | {"device": "cuda"})
    before = path.read_bytes()
    with pytest.raises(UsageError, match=r"cuda.*cpu"):
        runner.run(wanted, runs=tmp_path / "runs", offline=True)
    assert path.read_bytes() == before
    assert len(folder.records()) == 2


def test_an_error_names_the_file_that_was_asked_for(tmp_path: Path) -> None:
    wanted = tmp_path / "missing" / "a.png"
    with pytest.raises(FileNotFoundError) as error:
        write_atomic(wanted, b"")
    assert error.value.filename == str(wanted)

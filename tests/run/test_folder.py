from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cvae.errors import Damaged
from cvae.run.find import folder_for
from cvae.run.folder import RunFolder, SweepFolder
from tests.conftest import spec

LINE = {"epoch": 1, "step": 3, "time": 0, "metrics": {"train/loss": 0.1}, "seconds": {}}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "test-12345678")
    folder.create(spec())
    return folder


def raw(folder: RunFolder) -> bytes:
    return (folder.path / "records.jsonl").read_bytes()


@pytest.mark.parametrize("torn", [b"{", b'{"epoch": 2, "st', b'{"epoch": 2}', b"\0\0"])
def test_a_torn_last_line_is_ignored_and_cut(folder: RunFolder, torn: bytes) -> None:
    folder.append(LINE)
    whole = raw(folder)
    (folder.path / "records.jsonl").write_bytes(whole + torn)
    assert folder.records() == [LINE]
    folder.append(LINE | {"epoch": 2})
    assert folder.records() == [LINE, LINE | {"epoch": 2}]
    assert raw(folder).startswith(whole)
    assert torn + b"{" not in raw(folder)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b"\xff\xfe", b'{"status": 5}', b'{"started": "x"}'),
        b'{"data": []}',
    ],
)
def test_an_unreadable_run_json_counts_as_none(
    folder: RunFolder, content: bytes
) -> None:
    (folder.path / "run.json").write_bytes(content)
    assert folder.info == {}
    assert folder.status == "NEW"
    with pytest.raises(Damaged, match=r"run\.json: damaged"):
        folder.check_files()


@pytest.mark.parametrize(
    "line",
    [
        *(b"{]", b"[]", b"\xff\xfe", b'{"epoch": 1}'),
        b'{"epoch": 1, "step": 1, "time": 1, "metrics": {"a": "1"}, "seconds": {}}',
    ],
)
def test_an_altered_record_is_named(folder: RunFolder, line: bytes) -> None:
    folder.append(LINE)
    (folder.path / "records.jsonl").write_bytes(line + b"\n" + raw(folder))
    with pytest.raises(Damaged, match=r"records\.jsonl: altered"):
        folder.records()


def made(runs: Path, status: str, **dotted: Any) -> str:
    """The folder that a spec is given; it gets `status`."""
    folder = folder_for(spec(**dotted), runs)
    if not folder.info:
        folder.create(spec(**dotted))
    folder.update(status=status)
    return folder.name


def test_an_unfinished_run_is_gone_on_with_and_a_finished_one_begun_anew(
    tmp_path: Path,
) -> None:
    stem = f"test-{spec().id}"
    for status in ("NEW", "RUNNING", "FAILED", "KILLED", "FINISHED"):
        assert made(tmp_path, status) == stem
    for status in ("NEW", "KILLED", "FINISHED"):
        assert made(tmp_path, status) == f"{stem}-2"
    for number in range(3, 13):
        assert made(tmp_path, "FINISHED") == f"{stem}-{number}"


def test_of_a_sweep_those_runs_count_that_have_begun(folder: RunFolder) -> None:
    """A made folder has no start that a store could be told yet."""
    sweep = SweepFolder(folder.path.parent / "sweeps" / "many")
    sweep.path.mkdir(parents=True)
    sweep.update(runs=[{"folder": folder.name}, {"folder": "not-made"}])
    assert sweep.runs() == []
    folder.update(status="RUNNING", started=1.0)
    assert [run.name for run in sweep.runs()] == [folder.name]

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cvae.errors import Busy, Damaged, SpecError
from cvae.run.find import folder_for
from cvae.run.folder import RunFolder
from cvae.run.lock import SILENCE
from tests import children
from tests.conftest import spec

LINE = {"epoch": 1, "step": 3, "time": 0, "metrics": {"train/loss": 0.1}, "seconds": {}}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "test-12345678")
    folder.create(spec())
    return folder


def raw(folder: RunFolder) -> bytes:
    return (folder.path / "records.jsonl").read_bytes()


# -- records ---------------------------------------------------------------------------


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


def test_figures_that_are_no_numbers_are_not_written(folder: RunFolder) -> None:
    folder.append(LINE)
    with pytest.raises(ValueError, match="JSON"):
        folder.append({"loss": float("nan")})
    assert folder.records() == [LINE]


# -- run.json and spec -----------------------------------------------------------------


def test_the_spec_comes_back_as_it_was(tmp_path: Path) -> None:
    made = spec(model__hidden=[], data__train_images=9, tracking__experiment="no: β #1")
    folder = RunFolder(tmp_path / "run")
    folder.create(made)
    assert folder.spec() == made
    assert folder.info["id"] == made.id
    assert folder.status == "NEW"


def test_an_edited_spec_is_a_spec_error(folder: RunFolder) -> None:
    path = folder.path / "spec.yaml"
    path.write_text(path.read_text().replace("latent_dim: 2", "latent_dim: -2"))
    with pytest.raises(SpecError, match=r"spec\.yaml:\d+: model\.latent_dim"):
        folder.spec()


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b"3", b"\xff\xfe", b'{"status": 5}', b'{"started": "x"}'),
        *(b'{"changes": [5]}', b'{"data": []}', b'{"data": {"shape": ["8", 8]}}'),
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


# -- lock and status -------------------------------------------------------------------


def test_a_run_is_held_by_one_only_and_the_other_is_told_by_whom(
    folder: RunFolder,
) -> None:
    owner = rf"pid {os.getpid()} on {socket.gethostname()} since \d{{4}}-"
    twin = RunFolder(folder.path)
    assert not twin.held()
    with folder.lock():
        assert twin.held()
        with pytest.raises(Busy, match=owner), twin.lock():
            pass
        assert twin.held()  # asking did not free it
    assert not twin.held()
    with twin.lock():
        assert folder.held()


def test_the_lock_of_another_process_counts_until_it_is_killed(
    folder: RunFolder,
) -> None:
    code = (
        "import sys; from pathlib import Path; from cvae.run.folder import RunFolder\n"
        f"with RunFolder(Path({str(folder.path)!r})).lock():\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    process = children.start([sys.executable, "-c", code], stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    folder.update(status="RUNNING")
    assert folder.status == "RUNNING"
    with pytest.raises(Busy, match=f"pid {process.pid} "), folder.lock():
        pass
    children.end(process)
    assert folder.status == "KILLED"


def test_a_holder_on_another_machine_counts_while_it_gives_signs_of_life(
    folder: RunFolder,
) -> None:
    lock = folder.path / "lock"
    lock.write_text("pid 7 on elsewhere since 2026-01-01 00:00:00\n")
    folder.update(status="RUNNING")
    assert folder.status == "RUNNING"
    with (
        pytest.raises(Busy, match=r"pid 7 on elsewhere .* heard of \d+ s"),
        folder.lock(),
    ):
        pass
    silent = time.time() - SILENCE - 1
    os.utime(lock, (silent, silent))
    assert folder.status == "KILLED"
    assert folder.abandoned
    with folder.lock():
        assert folder.held()
    assert not folder.abandoned


def test_a_holder_gives_signs_of_life(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cvae.run.lock.BEAT", 0.01)
    with folder.lock():
        os.utime(folder.path / "lock", (1, 1))
        deadline = time.monotonic() + 20
        while (folder.path / "lock").stat().st_mtime < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert not [t for t in threading.enumerate() if t.name == "heartbeat"]


def test_a_look_at_the_lock_keeps_nobody_from_taking_it(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cvae.run.lock.PATIENCE", 60)  # a late timer is no fault
    for _ in range(2):
        with folder.lock():
            pass
        looking = (folder.path / "lock").open("r")
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.2, looking.close).start()
        with folder.lock():
            assert folder.held()


def test_what_the_dead_left_half_written_is_swept_away(folder: RunFolder) -> None:
    for path in (folder.path, folder.figures):
        (path / ".checkpoint.safetensors.123.part").write_bytes(b"half")
    with folder.lock():
        assert not list(folder.path.rglob("*.part"))


def test_a_finished_run_whose_process_died_before_it_let_go_is_gone_on_with(
    tmp_path: Path,
) -> None:
    stem = made(tmp_path, "FINISHED")
    folder = RunFolder(tmp_path / stem)
    with folder.lock():
        signed = (folder.path / "lock").read_text()
    assert folder_for(spec(), tmp_path).name == f"{stem}-2"
    (folder.path / "lock").write_text(signed)  # as SIGKILL leaves it
    assert folder_for(spec(), tmp_path).name == stem


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


# -- which folder ----------------------------------------------------------------------


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


def test_folders_of_other_specs_are_not_counted(tmp_path: Path) -> None:
    stem = f"test-{spec().id}"
    for other in ("", "x", "-x", "-2x", ".bak"):
        (tmp_path / f"{stem}{other}").mkdir()
    assert folder_for(spec(), tmp_path).name == stem
    made(tmp_path, "FINISHED", training__seed=1)
    assert folder_for(spec(), tmp_path).name == stem
    assert folder_for(spec(name="other"), tmp_path).name == f"other-{spec().id}"


def test_records_are_decoded_once_however_often_they_are_asked_for(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.append(LINE)
    expected = folder.records()
    other = RunFolder(folder.path)  # as another process sees it
    folder.append(LINE | {"epoch": 2})
    with monkeypatch.context() as patch:
        patch.setattr(json, "loads", lambda text: pytest.fail("decoded again"))
        assert folder.records() == folder.records() == [*expected, LINE | {"epoch": 2}]
    other.append(LINE | {"epoch": 3})
    assert folder.records() == other.records()
    assert [record["epoch"] for record in folder.records()] == [1, 2, 3]

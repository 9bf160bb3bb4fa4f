from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from cvae.errors import Damaged, RunNotFound
from cvae.run.find import display_name, find_run, find_sweep, folder_for
from cvae.run.folder import RunFolder, SweepFolder
from tests.conftest import spec
from tests.made import made_run

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


BOTH = ["objective.importance_samples=5", "evaluation.importance_samples=50"]


@pytest.mark.parametrize(
    ("info", "words"),
    [
        (
            {"changes": ["model.latent_dim=8", "training.seed=1", "tracking.x=1"]},
            " latent_dim=8 seed=1",
        ),
        ({"changes": BOTH}, f" {' '.join(BOTH)}"),  # one last name: with the section
        (
            {"swept": {"objective.beta": 0.5, "model.hidden": [8, 4]}},
            " hidden=[8,4] beta=0.5",
        ),
    ],
)
def test_a_run_is_named_by_what_it_changes(
    tmp_path: Path, info: dict[str, Any], words: str
) -> None:
    made = made_run(tmp_path, 100.0, name="quickstart", info=info)
    assert display_name(made) == f"quickstart{words}"
    assert find_run(f"quickstart{words}", runs=tmp_path).path == made.path


def test_of_several_the_newest_is_taken_and_the_others_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = made_run(tmp_path, 100.0, name="q", started=1.0, info={"changes": []})
    second = made_run(tmp_path, 100.0, name="q", started=9.0, info={"changes": []})
    assert [display_name(first), display_name(second)] == ["q", "q #2"]
    assert find_run("q #2", runs=tmp_path).path == second.path
    assert find_run(first.name, runs=tmp_path).path == first.path
    assert not caplog.messages
    assert find_run("q", runs=tmp_path).path == second.path
    (said,) = caplog.messages
    assert f"the newest, {second.name}; there are also {first.name}" in said


def test_a_folder_or_id_goes_before_a_name_and_a_name_before_its_other_spelling(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    old = made_run(tmp_path, 100.0, name="a_b", started=1.0)
    dashed = made_run(tmp_path, 100.0, name="a-b", started=2.0)
    of_id = made_run(tmp_path, 100.0, name=str(old.info["id"]), started=9.0)
    assert find_run("a_b", runs=tmp_path).path == old.path
    assert find_run("a-b", runs=tmp_path).path == dashed.path
    chosen = find_run(str(old.info["id"]), runs=tmp_path)
    assert chosen.info["id"] == of_id.info["id"] == old.info["id"]
    other = made_run(tmp_path, 100.0, name="seed-notebook", training__seed=4)
    assert find_run("seed_notebook", runs=tmp_path).path == other.path


def test_a_sweep_is_found_with_either_spelling(tmp_path: Path) -> None:
    for name in ("latent-beta", "both_ways", "both-ways"):
        (tmp_path / "sweeps" / name).mkdir(parents=True)
        (tmp_path / "sweeps" / name / "sweep.json").write_text("{}")
    assert find_sweep("latent_beta", tmp_path) == "latent-beta"
    for name in ("both_ways", "both-ways", "other"):
        assert find_sweep(name, tmp_path) == name


def test_a_mistyped_name_gets_the_nearest_one(tmp_path: Path) -> None:
    made_run(tmp_path, 100.0, name="quickstart")
    with pytest.raises(RunNotFound, match="did you mean 'quickstart'"):
        find_run("quickstrat", runs=tmp_path)

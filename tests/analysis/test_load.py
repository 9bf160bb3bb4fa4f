"""Runs as a table, from folders and from a real store."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from analysis.reading.load import load_runs
from cvae.errors import RunNotFound
from cvae.run.folder import SweepFolder
from tests import children
from tests.made import made_run, rewrite


def test_what_cannot_be_read_is_named_and_the_rest_is_there(tmp_path: Path) -> None:
    whole = made_run(tmp_path, 100.0)
    without = made_run(tmp_path, 100.0, training__seed=1)
    (without.path / "records.jsonl").unlink()
    torn = made_run(tmp_path, 100.0, training__seed=2)
    rewrite(torn, "test/kl", "[")
    edited = made_run(tmp_path, 100.0, training__seed=3)
    (edited.path / "spec.yaml").write_text("name: [")
    found = load_runs(runs=tmp_path)
    assert [run.name for run in found.rows] == [whole.name]
    assert set(found.unreadable) == {without.name, torn.name, edited.name}
    assert "records.jsonl: missing" in found.unreadable[without.name]


@pytest.fixture
def named(published: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The store, named as users name one."""
    uri = f"sqlite:///{published / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


def test_the_store_and_the_folders_tell_the_same(
    published: Path, named: str, tmp_path: Path
) -> None:
    """Read without any folder, as on another machine."""
    here = load_runs(runs=published)
    there = load_runs(runs=tmp_path)
    assert [run.folder for run in there.rows] == [None] * 5
    for one, other in zip(here.rows, there.rows, strict=True):
        for key in ("name", "id", "status", "fields", "metrics", "digest", "commit"):
            assert getattr(one, key) == getattr(other, key), key
        assert one.run_id == other.run_id
    assert there.rows[-1].fields["name"] == "123"  # text, whatever it looks like
    one, other = here.rows[0], there.rows[0]
    history = there.history(other, "val/neg_elbo")
    assert [epoch for epoch, _ in history] == [1, 2, 3]
    assert history == here.history(one, "val/neg_elbo")
    for file in ("figures/digits.png", "spec.yaml"):
        assert there.file(other, file) == here.file(one, file) != None  # noqa: E711
    assert there.file(other, "no such thing") is None


def test_a_store_that_is_not_named_is_not_read(published: Path, tmp_path: Path) -> None:
    children.copy(published.glob("mlflow.db*"), tmp_path)
    with pytest.raises(RunNotFound, match="make experiment"):
        load_runs(runs=tmp_path)
    assert load_runs(runs=published).store is None


def test_folders_are_the_truth_and_the_store_adds_what_they_lack(
    published: Path, named: str, tmp_path: Path
) -> None:
    children.copy((p for p in published.iterdir() if p.is_dir()), tmp_path)
    new = made_run(tmp_path, 80.0, name="new", tracking__experiment="tests")
    rows = {run.name: run for run in load_runs(runs=tmp_path).rows}
    assert len(rows) == 6
    first = next(run for run in rows.values() if run.name != new.name)
    assert first.folder is not None
    rewrite(first.folder, "test/kl", "77.0")
    found = {run.name: run for run in load_runs(runs=tmp_path).rows}
    assert found[first.name].metrics["test/kl"] == 77.0
    (first.folder.path / "records.jsonl").write_text(
        "[]\n"
    )  # damaged: the store has it
    again = {run.name: run for run in load_runs(runs=tmp_path).rows}
    assert len(again) == 6
    assert again[first.name].folder is None
    assert again[first.name].metrics == first.metrics


def test_a_sweep_is_its_runs_and_not_their_parent(
    published: Path, named: str, tmp_path: Path
) -> None:
    for runs in (published, tmp_path):
        found = load_runs(sweep="beta", runs=runs)
        bounds = [run.metrics["test/neg_elbo"] for run in found.rows]
        assert bounds == [105.0, 106.0, 120.0, 121.0]
    children.copy(published.iterdir(), tmp_path)
    sweep = SweepFolder(tmp_path / "sweeps" / "beta")
    before = made_run(tmp_path, 95.0, name="beta", objective__beta=8.0)
    entry = {"folder": before.name, "id": before.info["id"]}
    sweep.update(runs=[*sweep.info["runs"], entry | {"swept": {"objective.beta": 8.0}}])
    assert len(load_runs(sweep="beta", runs=tmp_path).rows) == 5


def test_reading_writes_nothing(published: Path, tmp_path: Path) -> None:
    """Neither without a store nor with one: no database is made, nothing is moved."""

    def seen(*places: Path) -> dict[Path, tuple[int, int]]:
        files = [file for place in places for file in place.rglob("*")]
        return {f: (f.stat().st_size, f.stat().st_mtime_ns) for f in files}

    runs, place = tmp_path / "runs", tmp_path / "store"
    children.copy(published.iterdir(), place)  # whose artifacts lie elsewhere
    with closing(sqlite3.connect(place / "mlflow.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    made_run(runs, 80.0, tracking__experiment="tests")
    before = seen(runs, place)
    words = ["--experiment", "tests", "--runs", str(runs), "--out", str(tmp_path / "o")]
    for more, rows in ([], 1), (["--from", f"sqlite:///{place / 'mlflow.db'}"], 6):
        done = children.python("-m", "cvae", "report", *words, *more, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert f": {rows} run" in done.stdout
        assert seen(runs, place) == before
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "store", "o"}

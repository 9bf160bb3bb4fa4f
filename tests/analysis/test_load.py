"""Runs as a table, from folders and from a real store."""

from __future__ import annotations

import math
import sqlite3
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient

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


def test_published_runs_stand_in_where_there_are_none_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = load_runs(sweep="control")
    assert len(runs.rows) == 36
    assert runs.store is None
    assert "using what is published" in caplog.text
    with pytest.raises(RunNotFound, match=r"(?s)'none'.*results/: .*control"):
        load_runs(sweep="none")
    made_run(Path("runs"), 101.0)
    assert [run.metrics["test/neg_elbo"] for run in load_runs().rows] == [101.0]


def test_a_row_has_only_the_fields_that_differ(tmp_path: Path) -> None:
    made_run(tmp_path, 101.0, training__seed=0)
    made_run(tmp_path, 102.0, status="FAILED", training__seed=1, model__hidden=[16])
    table = load_runs(runs=tmp_path).table()
    fields = [key for key in table.columns if "/" not in key]
    assert fields == ["run", "model.hidden", "training.seed", "seconds", "status"]
    assert table["test/neg_elbo"][0] == 101.0
    assert pd.isna(table["test/neg_elbo"][1])
    assert table["model.hidden"][1] == [16]
    assert table["status"].tolist() == ["FINISHED", "FAILED"]


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


def test_mlflows_filter_is_understood(published: Path, named: str) -> None:
    found = load_runs(filter="metrics.`test/neg_elbo` < 105.5", runs=published)
    assert [run.metrics["test/neg_elbo"] for run in found.rows] == [105.0, 90.0]
    narrowed = load_runs(
        sweep="beta", filter="params.`training.seed` = '1'", runs=published
    )
    assert {run.seed for run in narrowed.rows} == {1}
    with pytest.raises(ValueError, match="filter"):
        load_runs(filter="metrics.", runs=published)


def test_infinity_comes_back_from_the_store(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    children.copy(published.glob("mlflow.db*"), tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    client, run = MlflowClient(uri), load_runs(runs=tmp_path / "none").rows[-1]
    assert run.run_id is not None
    client.log_metric(run.run_id, "test/kl", math.inf, step=9)
    client.log_metric(run.run_id, "test/recon", math.nan, step=9)
    again = load_runs(ids=[run.run_id], runs=tmp_path / "none").rows[0]
    assert again.metrics["test/kl"] == math.inf
    assert math.isnan(again.metrics["test/recon"])


def test_a_run_is_found_by_whatever_names_it(published: Path) -> None:
    run = load_runs(runs=published).rows[-1]
    assert run.folder is not None
    assert run.run_id is not None
    for name in (run.name, run.id, run.run_id, "123", str(run.folder.path)):
        (found,) = load_runs(ids=[name], runs=published).rows
        assert found.uid == run.uid


def test_mistakes_name_what_there_is(published: Path, tmp_path: Path) -> None:
    with pytest.raises(RunNotFound, match="did you mean tests"):
        load_runs(experiment="test", runs=published)
    with pytest.raises(RunNotFound, match=r"did you mean beta-\w+"):
        load_runs(ids=["beta-00000000"], runs=published)
    for wrong in ("gamma", "x' or '1'='1"):
        with pytest.raises(RunNotFound, match=r"no .*sweeps? .*: beta"):
            load_runs(sweep=wrong, runs=published)
    with pytest.raises(ValueError, match="FROM=sqlite:///"):
        load_runs(filter="metrics.x > 1", runs=tmp_path)


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
        done = children.python("-m", "analysis.report", *words, *more, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert f": {rows} run" in done.stdout
        assert seen(runs, place) == before
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "store", "o"}

"""Runs as a table, from folders and from a real store."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from mlflow import MlflowClient

from analysis.reading.load import load_runs
from analysis.reading.runs import Runs
from cvae.errors import RunNotFound
from cvae.run.folder import SweepFolder
from cvae.tracking import store
from tests import children
from tests.made import made_run, rewrite


@pytest.fixture
def elsewhere(published: Path, tmp_path: Path) -> Path:
    """The store without any folder, as on another machine."""
    copy_store(published, tmp_path)
    return tmp_path


def copy_store(runs: Path, place: Path) -> None:
    """The database with what SQLite has not yet moved into it."""
    children.copy(runs.glob("mlflow.db*"), place)


def test_a_row_has_only_the_fields_that_differ(tmp_path: Path) -> None:
    made_run(tmp_path, 101.0, training__seed=0)
    made_run(tmp_path, 102.0, training__seed=1, model__hidden=[16])
    (first, second) = load_runs(runs=tmp_path).table()
    fields = {key for key in first if "/" not in key}
    assert fields == {"run", "model.hidden", "training.seed", "seconds", "status"}
    assert (first["test/neg_elbo"], second["test/neg_elbo"]) == (101.0, 102.0)
    assert (second["model.hidden"], second["seconds"]) == ([16], 12.0)


def facts(runs: Runs) -> list[tuple[object, ...]]:
    return [
        (run.name, run.id, run.status, run.fields, run.metrics, run.digest, run.commit)
        for run in runs.rows
    ]


def test_the_store_and_the_folders_tell_the_same(published: Path) -> None:
    folders = load_runs(runs=published, source="folders")
    stored = load_runs(runs=published, source="store")
    assert len(folders.rows) == 5
    assert facts(stored) == facts(folders)
    assert stored.rows[-1].fields["name"] == "123"  # text, whatever it looks like


def test_a_sweep_is_its_runs_and_not_their_parent(
    published: Path, elsewhere: Path
) -> None:
    for runs in (published, elsewhere):
        found = load_runs(sweep="beta", runs=runs)
        assert [run.metrics["test/neg_elbo"] for run in found.rows] == [
            105.0,
            106.0,
            120.0,
            121.0,
        ]
        assert {run.sweep for run in found.rows} == {"beta"}


def test_a_run_that_a_sweep_found_finished_is_one_of_its_runs(
    published: Path, tmp_path: Path
) -> None:
    children.copy(published.iterdir(), tmp_path)
    sweep = SweepFolder(tmp_path / "sweeps" / "beta")
    before = made_run(tmp_path, 95.0, name="beta", objective__beta=8.0)
    entry = {"folder": before.name, "id": before.info["id"]}
    entry["swept"] = {"objective.beta": 8.0}
    sweep.update(runs=[*sweep.info["runs"], entry])
    assert len(load_runs(sweep="beta", runs=tmp_path).rows) == 5


def test_a_run_that_was_not_published_is_read_from_its_folder(
    published: Path, tmp_path: Path
) -> None:
    children.copy(published.iterdir(), tmp_path)
    made_run(tmp_path, 80.0, name="new", tracking__experiment="tests")
    found = load_runs(experiment="tests", runs=tmp_path)
    assert len(found.rows) == 6
    assert len(load_runs(experiment="tests", runs=tmp_path, source="store").rows) == 5


def test_pages_are_put_together_without_hole_or_double(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "BATCH", 2)
    names = [run.name for run in load_runs(experiment="tests", runs=published).rows]
    assert len(names) == len(set(names)) == 5


def test_histories_and_files_come_from_wherever_they_are(
    published: Path, elsewhere: Path
) -> None:
    here = load_runs(sweep="beta", runs=published)
    there = load_runs(sweep="beta", runs=elsewhere)
    assert there.rows[0].folder is None
    expected = here.history(here.rows[0], "val/neg_elbo")
    assert [epoch for epoch, _ in expected] == [1, 2, 3]
    assert there.history(there.rows[0], "val/neg_elbo") == expected
    for name in ("figures/digits.png", "spec.yaml"):
        assert there.file(there.rows[0], name) == here.file(here.rows[0], name)
        assert here.file(here.rows[0], name)
    assert there.file(there.rows[0], "no such thing") is None


def test_mlflows_filter_is_understood(published: Path) -> None:
    found = load_runs(filter="metrics.`test/neg_elbo` < 105.5", runs=published)
    assert [run.metrics["test/neg_elbo"] for run in found.rows] == [105.0, 90.0]
    narrowed = load_runs(
        sweep="beta", filter="params.`training.seed` = '1'", runs=published
    )
    assert {run.seed for run in narrowed.rows} == {1}


@pytest.mark.parametrize("wanted", ["name", "id", "run_id", "folder", "spec"])
def test_a_run_is_found_by_whatever_names_it(published: Path, wanted: str) -> None:
    run = load_runs(runs=published).rows[-1]
    assert run.folder is not None
    assert run.run_id is not None
    names = {"name": run.name, "id": run.id, "run_id": run.run_id, "spec": "123"}
    names["folder"] = str(run.folder.path)
    (found,) = load_runs(ids=[names[wanted]], runs=published).rows
    assert found.uid == run.uid


def test_infinity_comes_back_from_the_store(published: Path, tmp_path: Path) -> None:
    copy_store(published, tmp_path)
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    run = load_runs(runs=tmp_path).rows[-1]
    assert run.run_id is not None
    client.log_metric(run.run_id, "test/kl", math.inf, step=9)
    client.log_metric(run.run_id, "test/recon", math.nan, step=9)
    again = load_runs(ids=[run.run_id], runs=tmp_path).rows[0]
    assert again.metrics["test/kl"] == math.inf
    assert math.isnan(again.metrics["test/recon"])


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


def test_a_published_run_with_a_damaged_folder_is_read_from_the_store(
    published: Path, tmp_path: Path
) -> None:
    children.copy(published.iterdir(), tmp_path)
    run = load_runs(runs=tmp_path).rows[0]
    whole = load_runs(runs=published).history(run, "val/neg_elbo")
    (tmp_path / run.name / "records.jsonl").write_text("[]\n")
    again = load_runs(runs=tmp_path)
    assert again.rows[0].folder is None
    assert again.history(again.rows[0], "val/neg_elbo") == whole != []


def test_mistakes_name_what_there_is(published: Path, tmp_path: Path) -> None:
    with pytest.raises(RunNotFound, match="did you mean tests"):
        load_runs(experiment="test", runs=published)
    with pytest.raises(RunNotFound, match=r"did you mean beta-\w+"):
        load_runs(ids=["beta-00000000"], runs=published)
    with pytest.raises(RunNotFound, match=r"sweeps in .*: beta"):
        load_runs(sweep="gamma", runs=published)
    with pytest.raises(RunNotFound, match="no sweep"):
        load_runs(sweep="x' or '1'='1", runs=published)
    with pytest.raises(ValueError, match="filter"):
        load_runs(filter="metrics.", runs=published)
    with pytest.raises(RunNotFound, match="make experiment"):
        load_runs(runs=tmp_path)
    with pytest.raises(ValueError, match="there is none"):
        load_runs(filter="metrics.x > 1", runs=tmp_path)
    assert not list(tmp_path.iterdir())  # reading makes no store


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


def test_the_table_is_json(tmp_path: Path) -> None:
    made_run(tmp_path, 101.0)
    made_run(tmp_path, 102.0, status="FAILED", training__seed=1)
    rows = json.loads(json.dumps(load_runs(runs=tmp_path).table()))
    assert [row["status"] for row in rows] == ["FINISHED", "FAILED"]
    assert rows[1]["test/neg_elbo"] is None

"""What of a run's folder lies in the tracking store, byte for byte."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.tracking._tracking_service import utils

from cvae.tracking.publish import Tracker
from tests.children import Done
from tests.test_commands import the_run


def test_the_store_holds_every_file_that_a_reader_needs(
    finished: tuple[Path, Done], tmp_path: Path
) -> None:
    folder = the_run(finished[0])
    client = MlflowClient(f"sqlite:///{finished[0] / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "cvae"]
    (run,) = client.search_runs([experiment.experiment_id])
    names = ["spec.yaml", "records.jsonl", "run.json", "model.safetensors"]
    names += ["figures/digits.png", "figures/reconstructions.png"]
    names += ["git.diff"] if (folder.path / "git.diff").exists() else []
    stored = {
        file.path
        for place in (None, "figures")
        for file in client.list_artifacts(run.info.run_id, place)
        if not file.is_dir
    }
    assert stored == set(names)
    for name in names:
        copy = client.download_artifacts(run.info.run_id, name, str(tmp_path))
        if name != "run.json":  # which goes on to say that it was published
            assert Path(copy).read_bytes() == (folder.path / name).read_bytes()


def everything_in(place: Path) -> dict[str, bytes]:
    files = [path for path in place.rglob("*") if path.is_file()]
    return {str(path.relative_to(place)): path.read_bytes() for path in files}


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("name", ["runs", "50% of #1"])
def test_artifacts_stay_beside_a_database_that_was_copied_or_moved(
    finished: tuple[Path, Done], tmp_path: Path, moved: bool, name: str
) -> None:
    first, here = tmp_path / "first" / "runs", tmp_path / "second" / name
    first.mkdir(parents=True)
    shutil.copy(finished[0] / "mlflow.db", first)  # whose files are not copied
    tracker = Tracker(first)
    experiment = tracker.experiment("moving")
    run = tracker.client.create_run(experiment).info.run_id
    note = tmp_path / "note.txt"
    note.write_text("before")
    tracker.attach(run, note, "notes")
    tracker.client._tracking_client.store.engine.dispose()
    utils._artifact_repos_cache.clear()  # as in a new process
    shutil.copytree(first, here)
    before = everything_in(first / "artifacts")
    if moved:
        shutil.rmtree(first.parent)

    tracker = Tracker(here)
    assert tracker.artifact(run, "notes/note.txt") == b"before"
    note.write_text("after")
    tracker.attach(run, note, "notes")
    later = tracker.client.create_run(tracker.experiment("moving")).info.run_id
    tracker.attach(later, note, "notes")
    assert set(everything_in(here / "artifacts").values()) == {b"after"}
    assert len(everything_in(here / "artifacts")) == 2
    assert first.exists() != moved
    assert moved or everything_in(first / "artifacts") == before
    stayed = the_run(finished[0])  # only its original has the files
    assert tracker.artifact(stayed.published["run_id"], "spec.yaml")

"""What of a run's folder lies in the tracking store, byte for byte."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from mlflow.tracking._tracking_service import utils

from cvae.tracking.publish import Tracker
from tests import children
from tests.children import Done
from tests.made import made_run
from tests.test_commands import the_run


def test_the_store_holds_every_file_that_a_reader_needs_byte_for_byte(
    finished: tuple[Path, Done], tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    shutil.copy(finished[0] / "mlflow.db", runs)
    folder = made_run(runs, 90.0, epochs=2, tracking__experiment="files")
    for name in ("git.diff", "model.safetensors", "checkpoint.safetensors", "lock"):
        (folder.path / name).write_text(f"what is in {name}")
    shutil.copy(folder.figures / "digits.png", folder.figures / "digits-0002.png")
    tracker = Tracker(runs)
    tracker.publish(folder)
    run = str(folder.published["run_id"])
    names = ["spec.yaml", "records.jsonl", "run.json", "git.diff", "model.safetensors"]
    names += ["figures/digits.png", "figures/reconstructions.png"]
    stored = {
        file.path
        for place in (None, "figures")
        for file in tracker.client.list_artifacts(run, place)
        if not file.is_dir
    }
    assert stored == set(names)
    for name in names:
        assert tracker.artifact(run, name) == (folder.path / name).read_bytes()
    images = [file.path for file in tracker.client.list_artifacts(run, "images")]
    assert {Path(path).suffix for path in images} == {".png", ".webp"}
    keys = {Path(path).name.partition("+timestamp+")[0] for path in images}
    assert keys == {
        f"{key}+step+0" for key in ("final_digits", "final_reconstructions")
    } | {"digits+step+2"}


def everything_in(place: Path) -> dict[str, bytes]:
    files = [path for path in place.rglob("*") if path.is_file()]
    return {str(path.relative_to(place)): path.read_bytes() for path in files}


@pytest.mark.parametrize("moved", [False, True])
def test_artifacts_stay_beside_a_database_that_was_copied_or_moved(
    finished: tuple[Path, Done], tmp_path: Path, moved: bool
) -> None:
    first, here = tmp_path / "first" / "runs", tmp_path / "second" / "50% of #1?"
    children.copy(list(finished[0].iterdir()), first)
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
    notes = {path.read_bytes() for path in (here / "artifacts").rglob("note.txt")}
    assert notes == {b"after"}
    assert first.exists() != moved
    assert moved or everything_in(first / "artifacts") == before
    published = the_run(here).published
    assert tracker.artifact(published["run_id"], "spec.yaml")
    (model,) = tracker.client.search_logged_models([published["experiment_id"]])
    assert model.artifact_location.startswith(here.as_uri())

"""A run's model and files in the store: whole, once, and what the model answers."""

from __future__ import annotations

import base64
import io
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.tracking._tracking_service import utils
from PIL import Image

from cvae.loading.loaded import generate_conditional_samples, load_run
from cvae.run.evaluation import record
from cvae.run.folder import RunFolder
from cvae.spec.identity import flatten
from cvae.tracking import ui
from cvae.tracking.publish import Tracker
from cvae.tracking.served import MAX_IMAGES, Answer, Digits
from tests import children
from tests.children import ROOT, Done
from tests.made import made_run
from tests.test_commands import the_run


@pytest.fixture
def runs(tmp_path: Path, finished: tuple[Path, Done]) -> Path:
    """A folder with a store that has no run of its own yet."""
    children.copy([finished[0] / "mlflow.db"], tmp_path / "runs")
    return tmp_path / "runs"


def with_weights(runs: Path, **fields: Any) -> RunFolder:
    folder = made_run(runs, 90.0, tracking__experiment="models", **fields)
    folder.weights.write_bytes(b"weights")
    return folder


def models(client: MlflowClient, name: str = "models") -> list[LoggedModel]:
    experiment = client.get_experiment_by_name(name)
    return list(client.search_logged_models([experiment.experiment_id]))


def test_a_run_of_the_command_has_its_model_with_every_test_figure(
    finished: tuple[Path, Done],
) -> None:
    folder = the_run(finished[0])
    client = MlflowClient(f"sqlite:///{finished[0] / 'mlflow.db'}")
    (model,) = models(client, "cvae")
    run = client.get_run(folder.published["run_id"])
    assert model.status == LoggedModelStatus.READY
    assert model.source_run_id == run.info.run_id
    assert [(o.model_id, o.step) for o in run.outputs.model_outputs] == [
        (model.model_id, 2)
    ]
    assert model.params.keys() == flatten(folder.spec()).keys()
    known = {k: v for k, v in folder.metrics.items() if k.startswith("test/")}
    assert {point.key: point.value for point in model.metrics} == known
    inputs = {given.dataset.name: given.dataset for given in run.inputs.dataset_inputs}
    for point in model.metrics:
        assert point.run_id == run.info.run_id
        assert point.dataset_digest == inputs[point.dataset_name].digest
        assert point.dataset_name.endswith("-test")


def test_a_model_is_code_and_tensors_without_a_pickle(
    finished: tuple[Path, Done],
) -> None:
    (place,) = (finished[0] / "artifacts" / "models").glob("*/artifacts")
    files = {str(p.relative_to(place)): p for p in place.rglob("*") if p.is_file()}
    package = {name: p for name, p in files.items() if name.startswith("code/")}
    for name, path in package.items():
        assert path.read_bytes() == (ROOT / name.removeprefix("code/")).read_bytes()
    assert "code/cvae/model.py" in package
    folder = the_run(finished[0])
    run = f"artifacts/{folder.name}"
    assert files.keys() - package.keys() == {
        *("MLmodel", "served.py", "requirements.txt", "conda.yaml", "python_env.yaml"),
        *("input_example.json", "serving_input_example.json"),
        *(f"{run}/spec.yaml", f"{run}/run.json", f"{run}/model.safetensors"),
    }
    weights = files[f"{run}/model.safetensors"].read_bytes()
    assert weights == folder.weights.read_bytes()


def test_a_model_half_logged_is_completed_once(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, tracker = with_weights(runs), Tracker(runs)

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tracker.client, "finalize_logged_model", killed)
        with pytest.raises(KeyboardInterrupt):
            tracker.publish(folder)
    (half,) = models(tracker.client)
    assert half.status == LoggedModelStatus.PENDING
    tracker.publish(folder)
    (folder.path / "tracking.json").unlink()
    folder.append(record(3, 30, {"test/nll_is50": 88.5}) | {"seconds": {}})
    tracker.publish(folder)  # evaluated later: linked, too
    run = tracker.client.get_run(folder.published["run_id"])
    assert len(run.outputs.model_outputs) == 1
    (model,) = models(tracker.client)
    assert (model.model_id, model.status) == (half.model_id, LoggedModelStatus.READY)
    linked = {point.key: point.value for point in model.metrics}
    assert (linked["test/nll_is50"], linked["test/neg_elbo"]) == (88.5, 90.0)


def test_no_model_is_logged_where_it_is_off_or_the_run_is_not_finished(
    runs: Path,
) -> None:
    tracker = Tracker(runs)
    off = with_weights(runs, tracking__log_model=False)
    tracker.publish(off)
    tracker.publish(with_weights(runs, name="stopped", status="KILLED"))
    assert models(tracker.client) == []
    tracker.publish(off, model=True)  # as `make serve` asks
    assert [model.name for model in models(tracker.client)] == ["test"]


def test_the_alias_follows_the_run_that_is_served(runs: Path) -> None:
    tracker = Tracker(runs)
    both = [with_weights(runs, training__seed=s, name="beta.0.5") for s in (0, 1)]
    for folder in both:
        tracker.publish(folder)
    for folder, version in zip([*both, both[0]], (1, 2, 1), strict=True):
        assert ui.register(tracker, folder) == f"models:/beta.0.5@{ui.ALIAS}"
        alias = tracker.client.get_model_version_by_alias("beta.0.5", ui.ALIAS)
        assert alias.version == version
        assert alias.run_id == folder.published["run_id"]


@pytest.fixture(scope="module")
def model(finished: tuple[Path, Done]) -> Digits:
    folder, made = the_run(finished[0]), Digits()
    made.load_context(SimpleNamespace(artifacts={"run": str(folder.path)}))
    return made


def ask(model: Digits, *requests: Any) -> list[Answer]:
    """As MLflow asks: with what JSON holds, which it makes `Request`s of."""
    return model.predict(list(requests))


def test_the_pictures_are_the_samples_of_the_run(
    model: Digits, finished: tuple[Path, Done]
) -> None:
    asked = {"digit": 5, "num_samples": 4, "seed": 7}
    pictures, numbers = ask(model, asked, asked | {"pixels": True})
    run = load_run(runs=finished[0])
    expected = generate_conditional_samples(5, 4, run, 7)
    assert numbers.pixels == expected.tolist()
    assert (len(pictures.png), pictures.pixels, numbers.png) == (4, [], [])
    for text, image in zip(pictures.png, expected, strict=True):
        with Image.open(io.BytesIO(base64.b64decode(text))) as picture:
            found = np.asarray(picture, np.float32)
        assert np.abs(found - 255 * image.view(28, 28).numpy()).max() <= 0.5


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"digit": 12}, "digit must be an integer of 0 to 9, found 12"),
        ({"digit": "5"}, "valid integer"),
        ({"digit": 5, "num_samples": MAX_IMAGES + 1}, "less than or equal to 1000"),
        ({"digit": 5, "temperature": float("nan")}, "temperature must be 0 to 1000"),
    ],
)
def test_what_cannot_be_answered_is_a_wrong_parameter_which_http_calls_400(
    model: Digits, request_: dict[str, Any], words: str
) -> None:
    with pytest.raises(MlflowException, match=words) as refused:
        ask(model, request_)
    assert refused.value.get_http_status_code() == 400


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

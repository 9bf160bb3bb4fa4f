"""A run's model in the store: whole, once, with the figures of the test images."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelStatus
from mlflow.models import Model
from mlflow.tracking._tracking_service import utils

from cvae.cli import commands
from cvae.errors import UsageError
from cvae.run import published
from cvae.run.evaluation import record
from cvae.run.find import find_published
from cvae.run.folder import RunFolder
from cvae.spec.identity import flatten
from cvae.tracking import logged_model, serving
from cvae.tracking.publish import Tracker
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


def test_a_model_is_logged_once_whatever_is_forgotten(runs: Path) -> None:
    folder, tracker = with_weights(runs), Tracker(runs)
    tracker.publish(folder)
    (first,) = models(tracker.client)
    tracker.publish(folder)
    (folder.path / "tracking.json").unlink()
    tracker.publish(folder)
    (model,) = models(tracker.client)
    assert model.model_id == first.model_id == folder.published["model"]["id"]
    assert [p.key for p in model.metrics] == [p.key for p in first.metrics]
    run = tracker.client.get_run(folder.published["run_id"])
    assert len(run.outputs.model_outputs) == 1
    assert len(run.inputs.dataset_inputs) == 3
    for key in run.data.metrics:
        points = tracker.client.get_metric_history(run.info.run_id, key)
        assert len({point.step for point in points}) == len(points)


def test_a_model_half_logged_is_completed(
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
    (model,) = models(tracker.client)
    assert (model.model_id, model.status) == (half.model_id, LoggedModelStatus.READY)
    assert {point.key for point in model.metrics} >= {"test/neg_elbo", "test/kl"}


def test_a_figure_that_is_evaluated_later_is_linked_too(runs: Path) -> None:
    folder, tracker = with_weights(runs), Tracker(runs)
    tracker.publish(folder)
    folder.append(record(3, 30, {"test/nll_is50": 88.5}) | {"seconds": {}})
    tracker.publish(folder)
    (model,) = models(tracker.client)
    linked = {point.key: point.value for point in model.metrics}
    assert linked["test/nll_is50"] == 88.5
    assert linked["test/neg_elbo"] == 90.0


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


def test_a_published_run_is_laid_out_in_an_experiment_of_its_own(runs: Path) -> None:
    results = published.at(published.RESULTS)
    assert results
    known = find_published("seed-notebook", results)
    before = sorted(known.path.iterdir())
    tracker = Tracker(runs)
    for _ in range(2):
        with serving.publishable(known) as whole:
            tracker.publish(whole, model=True)
            assert serving.register(tracker, whole) == ("seed-notebook", "1")
    (model,) = models(tracker.client, serving.EXPERIMENT)
    linked = {point.key: point.value for point in model.metrics}
    assert linked.items() <= known.metrics.items()
    run = tracker.client.get_run(model.source_run_id)
    assert run.data.metrics == known.metrics
    assert (run.data.params["data.root"], len(run.inputs.dataset_inputs)) == (
        known.spec().data.root,
        3,
    )
    assert sorted(known.path.iterdir()) == before


def test_a_plain_run_is_not_served(tmp_path: Path) -> None:
    plain = str(published.RESULTS / "plain-vae-ff7af978")
    with pytest.raises(UsageError, match="is unconditional"):
        commands.serve(runs=tmp_path, run=plain, port=0)
    assert not list(tmp_path.iterdir())


def test_a_name_with_dots_is_a_models_name_too(runs: Path) -> None:
    tracker = Tracker(runs)
    tracker.publish(folder := with_weights(runs, name="beta.0.5"))
    assert [model.name for model in models(tracker.client)] == ["beta_0_5"]
    assert serving.register(tracker, folder) == ("beta.0.5", "1")


def test_the_alias_follows_the_run_that_is_served(runs: Path) -> None:
    tracker = Tracker(runs)
    first, second = (with_weights(runs, training__seed=seed) for seed in (0, 1))
    for folder in (first, second):
        tracker.publish(folder)
    versions = [serving.register(tracker, f) for f in (first, second, first)]
    assert versions == [("test", "1"), ("test", "2"), ("test", "1")]
    alias = tracker.client.get_model_version_by_alias("test", serving.ALIAS)
    assert (alias.version, alias.run_id) == (1, first.published["run_id"])


def test_models_stay_beside_a_store_that_was_moved(runs: Path, tmp_path: Path) -> None:
    tracker = Tracker(runs)
    tracker.publish(folder := with_weights(runs))
    serving.register(tracker, folder)
    tracker.client._tracking_client.store.engine.dispose()
    utils._artifact_repos_cache.clear()  # as in a new process
    shutil.move(runs, tmp_path / "elsewhere")
    moved = Tracker(tmp_path / "elsewhere").client
    (model,) = models(moved)
    found = {file.path for file in moved.list_logged_model_artifacts(model.model_id)}
    assert found >= {"MLmodel", "served.py", "artifacts", "code"}
    place = moved.get_model_version_download_uri("test", "1")
    assert place == model.artifact_location
    assert (tmp_path / "elsewhere").as_uri() in place


def test_the_cost_of_naming_requirements_is_no_scan_of_the_packages(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's check of them, which reads the file list of every package."""
    from mlflow.utils import requirements_utils

    def scan() -> None:
        raise AssertionError("the packages are scanned")

    monkeypatch.setattr(requirements_utils, "_init_packages_to_modules_map", scan)
    folder = with_weights(runs)
    saved = logged_model.save(folder, tmp_path, Model())
    needed = (saved / "requirements.txt").read_text().split()
    assert {line.partition("==")[0] for line in needed} == set(logged_model.NEEDS)

"""A run's model in the store: whole, once, with the figures of the test images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelStatus

from cvae.run.evaluation import record
from cvae.run.folder import RunFolder
from cvae.spec.identity import flatten
from cvae.tracking import ui
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

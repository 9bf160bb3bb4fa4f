"""Runs published to a real MLflow store."""

from __future__ import annotations

import json
import platform
import re
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from cvae.run import runner
from cvae.run.find import display_name, find_run
from cvae.run.folder import RunFolder, SweepFolder
from cvae.spec.identity import flatten
from cvae.tracking import charts
from cvae.tracking.note import description
from cvae.tracking.publish import Tracker
from tests import children
from tests.children import ROOT
from tests.conftest import spec
from tests.made import made_run
from tests.test_commands import cvae, the_run


def stored(runs: Path) -> tuple[MlflowClient, list[Run]]:
    client = MlflowClient(f"sqlite:///{runs / 'mlflow.db'}")
    everything = [found.experiment_id for found in client.search_experiments()]
    return client, list(client.search_runs(everything))


@pytest.fixture
def runs(tmp_path: Path, finished: tuple[Path, object]) -> Path:
    """A folder whose store exists and is empty of runs of its own."""
    shutil.copy(finished[0] / "mlflow.db", tmp_path / "mlflow.db")
    return tmp_path


def runs_of_tests(runs: Path) -> tuple[MlflowClient, list[Run]]:
    client, everything = stored(runs)
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    return client, [
        run for run in everything if run.info.experiment_id == experiment.experiment_id
    ]


def test_a_run_is_logged_whole(finished: tuple[Path, object]) -> None:
    folder = the_run(finished[0])
    client, (run,) = stored(finished[0])
    assert run.info.status == "FINISHED"
    name = "quickstart train_images=600 validation_images=100 epochs=2"
    assert run.info.run_name == name == display_name(folder)
    assert find_run(name, runs=finished[0]).path == folder.path
    assert run.data.tags["cvae.folder"] == folder.name
    params = run.data.params
    for key, value in flatten(folder.spec()).items():
        assert params[key] == (value if isinstance(value, str) else json.dumps(value))
    assert params["parameters"] == "1076500"
    assert params.keys() == {*flatten(folder.spec()), "parameters"}
    assert run.data.tags["fact.device"] == "cpu"
    assert run.data.tags["fact.version.python"] == platform.python_version()
    for part in ("train", "val"):
        for key in ("recon", "kl", "neg_elbo", "loss", "active_units"):
            history = client.get_metric_history(run.info.run_id, f"{part}/{key}")
            assert [point.step for point in history] == [1, 2]
    assert len(client.get_metric_history(run.info.run_id, "train/learning_rate")) == 2
    assert {"test/neg_elbo", "test/recon", "time/training"} <= set(run.data.metrics)
    git = folder.info["git"]
    assert git["commit"]
    assert {key: run.data.tags[f"mlflow.source.git.{key}"] for key in git} == git
    tags = client.get_experiment(run.info.experiment_id).tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    digests = {given.dataset.digest for given in run.inputs.dataset_inputs}
    assert digests == {folder.info["data"]["digest"]}
    assert run.data.tags["mlflow.note.content"] == description(folder)
    assert "test/neg_elbo" in run.data.tags["mlflow.note.content"]


def test_published_in_parts_and_again_it_has_no_holes_and_no_doubles(
    runs: Path, tiny_root: Path
) -> None:
    wanted = spec(
        data__root=str(tiny_root),
        data__validation_images=50,
        model__hidden=[16],
        training__epochs=3,
        tracking__images_every=1,
        tracking__experiment="tests",
    )
    folder = runner.run(wanted, runs=runs, offline=True)
    whole = (folder.path / "records.jsonl").read_text().splitlines(keepends=True)
    tracker = Tracker(runs)
    folder.update(status="KILLED")
    for count in range(1, len(whole)):
        (folder.path / "records.jsonl").write_text("".join(whole[:count]))
        tracker.publish(folder)
    (folder.path / "records.jsonl").write_text("".join(whole))
    folder.update(status="FINISHED")
    for _ in range(2):
        tracker.publish(folder)
    (folder.path / "tracking.json").unlink()  # as from another machine's copy
    Tracker(runs).publish(folder)
    client, (run,) = runs_of_tests(runs)
    assert run.info.status == "FINISHED"
    images = len(client.list_artifacts(run.info.run_id, "images"))
    assert images == 2 * 2 * (3 + 1)  # two grids, PNG and WebP, three epochs and final
    for key in run.data.metrics:
        history = client.get_metric_history(run.info.run_id, key)
        assert [(point.step, point.value) for point in history] == [
            (record["epoch"], record["metrics"][key])
            for record in folder.records()
            if key in record["metrics"]
        ]


@pytest.mark.parametrize(
    ("refused", "named"),
    [
        ("create_logged_model", "its model and .*log_model=false"),
        ("log_artifact", "its files "),
        ("log_artifacts", "its pictures and .*images_every"),
        ("set_experiment_tag", "its page of charts "),
    ],
)
def test_a_refused_part_is_left_out_named_once_and_tried_again(
    refused: str,
    named: str,
    runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As by a server without logged models, or whose artifacts are out of reach."""
    first, second = (
        made_run(runs, 90.0, training__seed=seed, tracking__experiment="tests")
        for seed in (0, 1)
    )
    shutil.copy(first.figures / "digits.png", first.figures / "digits-0002.png")
    first.weights.write_bytes(b"weights")
    second.weights.write_bytes(b"weights")
    tracker = Tracker(runs)

    def refuse(*arguments: object, **named: object) -> None:
        raise MlflowException("error code 404\nof s3cret-Pass")

    with monkeypatch.context() as patch, caplog.at_level("WARNING", "cvae"):
        patch.setenv("MLFLOW_TRACKING_PASSWORD", "s3cret-Pass")
        patch.setattr(tracker.client, refused, refuse)
        for folder in (first, second, first):
            tracker.publish(folder)
            assert tracker.is_told(folder)
    assert re.search(f"refuses {named}", caplog.text)
    assert len(caplog.records) == 1
    assert "s3cret" not in caplog.text
    client, both = runs_of_tests(runs)
    assert [run.info.status for run in both] == ["FINISHED", "FINISHED"]
    for run in both:
        assert run.data.metrics["test/neg_elbo"] == 90.0
        assert run.data.params["training.seed"] in ("0", "1")
    caplog.clear()
    tracker = Tracker(runs)
    tracker.publish(first)
    assert caplog.text == ""
    run_id = first.published["run_id"]
    run = client.get_run(run_id)
    assert run.outputs.model_outputs
    assert len(run.inputs.dataset_inputs) == 3
    assert {"spec.yaml", "images"} <= {f.path for f in client.list_artifacts(run_id)}
    assert charts.TAG in client.get_experiment(run.info.experiment_id).tags


def test_the_run_of_mlflow_run_is_adopted_by_a_run_and_by_a_sweep(runs: Path) -> None:
    tracker = Tracker(runs)
    experiment = tracker.experiment("tests")
    outer, second, third = (
        tracker.client.create_run(experiment).info.run_id for _ in range(3)
    )
    folder = made_run(runs, 90.0, status="KILLED", tracking__experiment="tests")
    tracker.publish(folder, adopt=outer)
    folder.update(status="FINISHED")
    tracker.publish(folder, adopt=second)
    assert folder.published["run_id"] == outer  # resumed, it keeps its own
    resumed = tracker.client.get_run(outer)
    assert resumed.info.status == "FINISHED"
    assert resumed.info.run_name == display_name(folder)
    sweep = SweepFolder(runs / "sweeps" / "two")
    sweep.path.mkdir(parents=True)
    sweep.update(
        **{"name": "two", "uid": "two", "header": "", "command": "make", "runs": []},
        **{"experiment": "tests", "keys": [], "status": "RUNNING", "started": 0.0},
    )
    assert tracker.publish_sweep(sweep, adopt=third) == third


HEADER = """Question: is it so?
Expected: test/neg_elbo ≤ 131 nats per image,
ten clean digits
Time: 30 s"""


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "test-12345678")
    folder.create(spec())
    return folder


@pytest.mark.parametrize("field", ["header", "reason"])
def test_text_of_the_user_stays_text(folder: RunFolder, field: str) -> None:
    folder.update(**{field: "<script>x()</script> [a](javascript:b) ![c](d) `e` *f* &"})
    note = description(folder)
    assert "&lt;script&gt;x()&lt;/script&gt; \\[a\\](javascript:b)" in note
    assert "!\\[c\\](d) \\`e\\` \\*f\\* &amp;" in note
    assert "<" not in note


@pytest.mark.parametrize(
    ("changes", "expects"),
    [(["model.latent_dim=8"], False), ([], True), (["tracking.experiment=x"], True)],
)
def test_a_changed_run_lists_its_changes_and_expects_nothing(
    folder: RunFolder, changes: list[str], expects: bool
) -> None:
    folder.update(header=HEADER, changes=changes)
    note = description(folder)
    assert ("≤ 131" in note) == ("ten clean digits" in note) == expects
    assert ("Changed from the file: `model.latent_dim=8`" in note) == (not expects)


@pytest.mark.services
def test_a_run_is_published_whole_by_the_oldest_mlflow(
    tmp_path: Path, tiny_root: Path
) -> None:
    text = (ROOT / "pyproject.toml").read_text()
    promised = re.search(r'"mlflow>=([\d.]+)', text)
    assert promised
    names = ("mlflow", "mlflow-skinny", "mlflow-tracing")
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target"]
    install += [str(tmp_path / "old"), *(f"{n}=={promised[1]}.*" for n in names)]
    assert children.run(install).returncode == 0
    runs, changes = tmp_path / "runs", "data.validation_images=50 training.epochs=2"
    done = cvae(
        *("run", "experiments/quickstart.yaml", "--runs", str(runs)),
        *("--set", f"data.root={tiny_root} {changes}"),
        PYTHONPATH=f"{tmp_path / 'old'}:{ROOT}",
    )
    assert done.returncode == 0, done.stderr
    assert "refuses" not in done.stderr
    assert the_run(runs).published["status"] == "FINISHED"
    with closing(sqlite3.connect(runs / "mlflow.db")) as connection:
        tag = "SELECT value FROM tags WHERE key = 'cvae.id'"
        assert connection.execute(tag).fetchone()

"""Runs side by side in one process: on a CPU without streams, but as many threads."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from cvae.run import runner
from cvae.run.folder import Origin, RunFolder
from cvae.spec.fields import Spec
from cvae.sweep import threads
from cvae.sweep.worker import Ended, Job, LogMessage, Progressed
from tests.conftest import data_set, spec, write
from tests.test_commands import cvae


def job(number: int, made: Spec, runs: Path) -> Job:
    return Job(number, str(number), made, Origin(), runs, offline=False, threads=1)


@pytest.fixture
def specs(tmp_path: Path) -> list[Spec]:
    root = str(write(tmp_path / "data", data_set()))
    options = {"data__root": root, "data__validation_images": 0, "model__hidden": [8]}
    settings = [("relu", "standard"), ("gelu", "flow"), ("tanh", "mixture")]
    return [
        spec(
            **options,
            training__epochs=3,
            training__batch_size=32,
            model__activation=activation,
            model__prior=prior,
        )
        for activation, prior in settings
    ]


def test_each_run_is_the_one_its_spec_alone_makes(
    specs: list[Spec], tmp_path: Path
) -> None:
    together, alone = tmp_path / "together", tmp_path / "alone"
    jobs = [job(number, made, together) for number, made in enumerate(specs)]
    events = list(threads.run_jobs(jobs, 2))
    ends = [event for event in events if isinstance(event, Ended)]
    assert sorted((end.number, end.status) for end in ends) == [
        (number, "FINISHED") for number in range(3)
    ]
    said = {event.number for event in events if isinstance(event, Progressed)}
    assert said == {0, 1, 2}
    for made in specs:
        folder = runner.run(made, runs=alone, offline=True)
        there = RunFolder(together / folder.name)
        assert there.read_weights() == folder.read_weights()


def test_a_wrong_run_stops_no_other(specs: list[Spec], tmp_path: Path) -> None:
    nowhere = specs[1].data.model_copy(update={"root": str(tmp_path / "nowhere")})
    broken = specs[1].model_copy(update={"data": nowhere})
    jobs = [job(0, specs[0], tmp_path / "runs"), job(1, broken, tmp_path / "runs")]
    ends = {
        event.number: event
        for event in threads.run_jobs(jobs, 2)
        if isinstance(event, Ended)
    }
    assert ends[0].status == "FINISHED"
    assert ends[1].status == "FAILED"
    assert "nowhere" in ends[1].reason


def test_what_a_run_logs_is_said_once_and_under_its_number(
    specs: list[Spec], tmp_path: Path
) -> None:
    """Going on with a run is logged; here two do, and each says it of itself."""
    for made in specs[:2]:
        events = threads.run_jobs([job(0, made, tmp_path)], 1)
        for event in events:
            if event == Progressed(0, 1):
                events.close()
    jobs = [job(number, made, tmp_path) for number, made in enumerate(specs[:2])]
    said = [
        event for event in threads.run_jobs(jobs, 2) if isinstance(event, LogMessage)
    ]
    going_on = [event.number for event in said if "going on with" in event.text]
    assert sorted(going_on) == [0, 1]


def test_closed_early_it_marks_what_was_under_way(
    specs: list[Spec], tmp_path: Path
) -> None:
    training = specs[0].training.model_copy(update={"epochs": 100_000})
    long = specs[0].model_copy(update={"training": training})
    events = threads.run_jobs([job(0, long, tmp_path)], 1)
    for event in events:
        if isinstance(event, Progressed) and event.epoch:
            break
    events.close()
    (folder,) = (RunFolder(path) for path in tmp_path.glob("test-*"))
    assert folder.status == "KILLED"
    assert folder.records()


def test_a_whole_sweep_is_in_the_store_when_it_ends(tmp_path: Path) -> None:
    root, path = write(tmp_path / "data", data_set()), tmp_path / "abreast.yaml"
    path.write_text(
        f"name: abreast\ndata: {{root: {root}, validation_images: 0}}\n"
        "model: {hidden: [8]}\ntraining: {epochs: 1}\n"
        "tracking: {experiment: abreast}\nsweep: {seeds: 2}\n"
    )
    store = f"sqlite:///{tmp_path / 'store.db'}"
    options = ["--runs", str(tmp_path / "runs"), "--engine", "threads", "--jobs", "2"]
    done = cvae("sweep", str(path), *options, MLFLOW_TRACKING_URI=store)
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("abreast")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    by_name = {run.info.run_name: run for run in runs}
    assert len(by_name) == 3, done.stderr
    parent = next(run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    for run in runs:
        if run is not parent:
            assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
            assert run.info.status == "FINISHED"

"""Runs side by side in one process: on a CPU without streams, but as many threads."""

from __future__ import annotations

from pathlib import Path

import pytest

from cvae.run import runner
from cvae.run.folder import Origin, RunFolder
from cvae.spec.fields import Spec
from cvae.sweep import threads
from cvae.sweep.worker import Ended, Job, Progressed
from tests.conftest import data_set, spec, write


def job(number: int, made: Spec, runs: Path) -> Job:
    return Job(number, str(number), made, Origin(), runs, threads=1)


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

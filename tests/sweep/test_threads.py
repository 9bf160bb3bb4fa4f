"""Runs side by side in one process: on a CPU without streams, but as many threads."""

from __future__ import annotations

from pathlib import Path

from cvae.run import runner
from cvae.run.folder import Origin, RunFolder
from cvae.sweep import threads
from cvae.sweep.worker import Ended, Job
from tests.conftest import data_set, spec, write


def test_each_run_is_the_one_its_spec_alone_makes(tmp_path: Path) -> None:
    root = str(write(tmp_path / "data", data_set()))
    options = {"data__root": root, "data__validation_images": 0, "model__hidden": [8]}
    options |= {"training__epochs": 3, "training__batch_size": 32}
    specs = [
        spec(**options, model__activation=activation, model__prior=prior)
        for activation, prior in (("relu", "standard"), ("gelu", "flow"))
    ]
    together, alone = tmp_path / "together", tmp_path / "alone"
    jobs = [
        Job(number, str(number), made, Origin(), together, threads=1)
        for number, made in enumerate(specs)
    ]
    ends = [each for each in threads.run_jobs(jobs, 2) if isinstance(each, Ended)]
    assert [end.status for end in ends] == ["FINISHED"] * 2
    for made in specs:
        folder = runner.run(made, runs=alone, offline=True)
        there = RunFolder(together / folder.name)
        assert there.read_weights() == folder.read_weights()

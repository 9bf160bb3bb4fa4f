"""Sweeps on real Ray: whole, with a worker killed, with a node killed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cvae.run.find import folders
from cvae.spec.variants import read_plan
from tests.children import Child, until
from tests.conftest import data_set, write
from tests.sweep import test_sweep
from tests.sweep.test_sweep import (
    assert_each_variant_has_one_finished_run,
    spec_file,
)
from tests.test_commands import cvae

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("tiny") / "data", data_set())


def begin(path: Path, runs: Path, **extra: str) -> Child:
    return test_sweep.begin(path, runs, "--engine", "ray", **extra)


def both_under_way(runs: Path) -> bool:
    """Whether two runs are being worked at and have checkpoints to go on from."""
    done = [len(folder.records()) for folder in folders(runs)]
    return len(holders(runs)) == 2 and min(done) >= 3


def holders(runs: Path) -> list[int]:
    """The processes that hold a run, by the note in its lock."""
    found = []
    for folder in folders(runs):
        match = re.match(r"pid (\d+) on", (folder.path / "lock").read_text())
        if match and folder.held():
            found.append(int(match[1]))
    return found


def test_a_sweep_on_ray_makes_the_same_runs(tmp_path: Path, root: Path) -> None:
    path = spec_file(tmp_path, root, betas="[1, 4]")
    arguments = ["sweep", str(path), "--offline", "--jobs", "2", "--runs"]
    local, ray = tmp_path / "local", tmp_path / "ray"
    assert cvae(*arguments, str(local)).returncode == 0
    done = cvae(*arguments, str(ray), "--engine", "ray")
    assert done.returncode == 0, done.stderr
    assert "[4/4]" in done.stdout
    assert_each_variant_has_one_finished_run(read_plan(path), ray)
    for folder in folders(local):
        same = ray / folder.name / "model.safetensors"
        assert same.read_bytes() == folder.weights.read_bytes()


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head and a second node with one CPU each, on this machine."""
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    made = cluster_utils.Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False},
    )
    try:
        yield made
    finally:
        made.shutdown()


def test_a_node_that_dies_loses_nothing(
    cluster: Any, tmp_path: Path, root: Path
) -> None:
    runs = tmp_path / "runs"
    path = spec_file(tmp_path, root, epochs=150, betas="[1]")
    second = cluster.add_node(num_cpus=1)
    process = begin(path, runs, RAY_ADDRESS=cluster.address)
    until(lambda: both_under_way(runs))
    cluster.remove_node(second, allow_graceful=False)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "going on with" in errors
    assert "[2/2]" in output
    assert_each_variant_has_one_finished_run(read_plan(path), runs)


def test_a_cluster_that_is_not_there_is_said(tmp_path: Path, root: Path) -> None:
    path = spec_file(tmp_path, root, betas="[1]")
    process = begin(path, tmp_path / "runs", RAY_ADDRESS="127.0.0.1:1")
    _, errors = process.communicate()
    assert process.returncode == 2
    assert "RAY_ADDRESS=127.0.0.1:1: no cluster: " in errors
    assert "Traceback" not in errors

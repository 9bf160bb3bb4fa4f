"""Sweeps on real Ray: with a node killed, and without a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cvae.run.find import folders
from cvae.spec.variants import read_plan
from tests.children import Child, until
from tests.sweep import test_sweep
from tests.sweep.test_sweep import (
    assert_each_variant_has_one_finished_run,
    spec_file,
)

pytestmark = pytest.mark.services


def begin(path: Path, runs: Path, **extra: str) -> Child:
    return test_sweep.begin(path, runs, "--engine", "ray", **extra)


def both_under_way(runs: Path) -> bool:
    """Whether two runs are being worked at and have checkpoints to go on from."""
    held = [folder for folder in folders(runs) if folder.held()]
    return len(held) == 2 and min(len(folder.records()) for folder in held) >= 3


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


def test_a_node_that_dies_loses_nothing_and_the_runs_are_those_without_ray(
    cluster: Any, tmp_path: Path, tiny_root: Path
) -> None:
    runs = tmp_path / "runs"
    path = spec_file(tmp_path, tiny_root, epochs=150, betas="[1]")
    second = cluster.add_node(num_cpus=1)
    process = begin(path, runs, RAY_ADDRESS=cluster.address)
    until(lambda: both_under_way(runs))
    cluster.remove_node(second, allow_graceful=False)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "going on with" in errors
    assert "[2/2]" in output
    assert_each_variant_has_one_finished_run(read_plan(path), runs)
    assert test_sweep.sweep(path, tmp_path / "local", "--offline").returncode == 0
    for folder in folders(tmp_path / "local"):
        same = runs / folder.name / "model.safetensors"
        assert same.read_bytes() == folder.weights.read_bytes()


def test_a_cluster_that_is_not_there_is_said(tmp_path: Path, tiny_root: Path) -> None:
    path = spec_file(tmp_path, tiny_root, betas="[1]")
    process = begin(path, tmp_path / "runs", RAY_ADDRESS="127.0.0.1:1")
    _, errors = process.communicate()
    assert process.returncode == 2
    assert "RAY_ADDRESS=127.0.0.1:1: no cluster: " in errors
    assert "Traceback" not in errors

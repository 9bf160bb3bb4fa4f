"""Sweeps on real PostgreSQL, and on real Ray: with a node killed, without a cluster."""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from cvae.run.find import folders
from cvae.spec.variants import read_plan
from tests import children
from tests.children import until
from tests.run.test_nothing_lost import Server
from tests.sweep.test_sweep import (
    assert_each_variant_has_one_finished_run,
    begin,
    spec_file,
    sweep,
)

pytestmark = pytest.mark.services
ON_RAY = ("--engine", "ray")


def binaries() -> Path:
    """Where initdb and postgres are; Debian keeps them off the PATH."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: p.parent.name)


@pytest.fixture
def postgres() -> Iterator[str]:
    """The URI of an empty database of a server."""
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # a short path: it holds a socket
    user: dict[str, Any] = {}
    if os.getuid() == 0:  # which PostgreSQL refuses to run as
        user = {"user": "postgres"}
        os.chown(folder, pwd.getpwnam("postgres").pw_uid, -1)
    data, port = folder / "data", str(children.free_port())
    initdb = [str(binaries() / "initdb"), "-D", str(data), "-U", "cvae", "-A", "trust"]
    done = children.run(initdb, cwd=folder, **user)
    assert done.returncode == 0, done.stderr
    command = [str(binaries() / "postgres"), "-D", str(data), "-p", port, "-F"]
    options = ["-h", "127.0.0.1", "-k", str(folder)]
    with (folder / "log").open("w") as log:
        server = children.start(
            [*command, *options], **user, cwd=folder, output=log, errors=log
        )
    try:
        ready = [str(binaries() / "pg_isready"), "-h", "127.0.0.1", "-p", port, "-q"]
        children.until(lambda: children.run(ready).returncode == 0)
        yield f"postgresql+psycopg://cvae@127.0.0.1:{port}/postgres"
    finally:
        children.end(server, grace=30)
        shutil.rmtree(folder)


def test_a_sweep_is_tracked_on_a_server_with_postgresql(
    postgres: str, tmp_path: Path, tiny_root: Path
) -> None:
    made = Server(tmp_path / "server", postgres)
    server = made.address
    path = spec_file(tmp_path, tiny_root, epochs=3, betas="[1, 4]")
    done = sweep(path, tmp_path / "runs", MLFLOW_TRACKING_URI=server)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "runs" / "mlflow.db").exists()
    client = MlflowClient(server)
    experiment = client.get_experiment_by_name("many")
    assert experiment is not None
    stored = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in stored if run.data.tags.get("cvae.kind") == "sweep"]
    children = [run for run in stored if "mlflow.parentRunId" in run.data.tags]
    assert len(children) == 4
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {
        parent.info.run_id
    }
    names = {folder.info["uid"]: folder for folder in folders(tmp_path / "runs")}
    for run in children:
        folder = names[run.data.tags["cvae.uid"]]
        history = client.get_metric_history(run.info.run_id, "train/neg_elbo")
        assert [(point.step, point.value) for point in history] == [
            (record["epoch"], record["metrics"]["train/neg_elbo"])
            for record in folder.records()[:3]
        ]
    models = client.search_logged_models([experiment.experiment_id])
    assert {one.source_run_id for one in models if one.status == "READY"} == {
        run.info.run_id for run in children
    }
    made.stop()


pytestmark = pytest.mark.services
ON_RAY = ("--engine", "ray")


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
    process = begin(path, runs, *ON_RAY, RAY_ADDRESS=cluster.address)
    until(lambda: both_under_way(runs))
    cluster.remove_node(second, allow_graceful=False)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "going on with" in errors
    assert "[2/2]" in output
    assert_each_variant_has_one_finished_run(read_plan(path), runs)
    assert sweep(path, tmp_path / "local", "--offline").returncode == 0
    for folder in folders(tmp_path / "local"):
        same = runs / folder.name / "model.safetensors"
        assert same.read_bytes() == folder.weights.read_bytes()


def test_a_cluster_that_is_not_there_is_said(tmp_path: Path, tiny_root: Path) -> None:
    path = spec_file(tmp_path, tiny_root, betas="[1]")
    process = begin(path, tmp_path / "runs", *ON_RAY, RAY_ADDRESS="127.0.0.1:1")
    _, errors = process.communicate()
    assert process.returncode == 2
    assert "RAY_ADDRESS=127.0.0.1:1: no cluster: " in errors
    assert "Traceback" not in errors

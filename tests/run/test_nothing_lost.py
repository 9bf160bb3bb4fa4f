"""Whatever a night brings: the tests that docs/nothing_lost.md names.

Kills, full disks, servers that stop: all in processes of their own.
"""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import signal
import socket
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from cvae import __main__
from cvae.errors import TrackingError
from cvae.run.checkpoint import load, previous_of
from cvae.run.folder import RunFolder
from cvae.tracking.publish import Tracker
from tests import children
from tests.children import Child, Done, answers, environment, until
from tests.test_commands import (
    cvae,
    start,
    the_run,
    untimed,
    wait_for_epoch,
    wait_for_run,
)

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and prlimit")
SPEC = """\
name: night
data: {{root: {root}, validation_images: 50}}
model: {{hidden: [16]}}
training: {{epochs: 100, batch_size: 64, device: cpu}}
tracking: {{experiment: tests, images_every: 1000}}
"""


@pytest.fixture
def night(tmp_path: Path, tiny_root: Path) -> list[str]:
    """The arguments that run 100 epochs in `tmp_path / "runs"`."""
    path = tmp_path / "night.yaml"
    path.write_text(SPEC.format(root=tiny_root))
    return ["run", str(path), "--runs", str(tmp_path / "runs")]


def epochs_of(process: Child, runs: Path, epoch: int) -> RunFolder:
    """The run that a process is at, once it has come so far."""
    folder = wait_for_run(runs, process)
    wait_for_epoch(folder.path, epoch, process)
    return folder


# -- killed ---------------------------------------------------------------------------


def test_killed_anywhere_it_ends_as_if_left_in_peace() -> None:
    """SIGKILLs at random times and at fsync, rename, link and unlink. CI has fifty of
    them, and sixteen starts at once on a missing database: make soak N=50.
    """
    done = children.python("-m", "benchmarks.soak", "--kills", "2", limit=600)
    assert done.returncode == 0, done.stdout + done.stderr
    tally = json.loads(done.stdout.splitlines()[-1])
    assert tally["at a random time"] >= 2
    assert tally["differences"] == 0


# -- interrupted -----------------------------------------------------------------------


def test_a_second_interrupt_leaves_at_once_and_safely(
    night: list[str], tmp_path: Path
) -> None:
    process = start(*night, "--offline", "--set", "training.epochs=5000")
    folder = epochs_of(process, tmp_path / "runs", 3)
    for _ in range(20):
        process.send_signal(signal.SIGINT)
        time.sleep(0.005)
    process.communicate()
    assert process.returncode in (130, -signal.SIGINT)
    assert folder.status == "KILLED"
    known = (folder.checkpoint, previous_of(folder.checkpoint))
    newest = next(path for path in known if path.exists())
    assert load(newest)[1]["epoch"] >= 2


def test_a_closed_terminal_is_an_interrupt(night: list[str], tmp_path: Path) -> None:
    process = start(*night, "--offline", "--set", "training.epochs=5000")
    folder = epochs_of(process, tmp_path / "runs", 1)
    process.send_signal(signal.SIGHUP)
    process.communicate()
    assert process.returncode == 128 + signal.SIGHUP
    assert folder.info["reason"] == "interrupted by SIGHUP"


# -- the tracking store ----------------------------------------------------------------


class Server:
    """A real MLflow server on a port of its own, over a database."""

    def __init__(self, place: Path, store: str, port: int | None = None) -> None:
        place.mkdir()
        port = port or children.free_port()
        self.address = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        command += ["--port", str(port), "--backend-store-uri", store]
        command += ["--artifacts-destination", str(place / "artifacts")]
        off = environment(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false")
        with (place / "log").open("w") as log:
            self.process = children.start(
                command, env=off, output=log, errors=log, limit=1800
            )
        answers(self.process, self.address, place / "log")

    def stop(self) -> None:
        children.end(self.process)


def stored_whole(uri: str, folder: RunFolder) -> Run:
    """The store's only run: it has the folder's status, and each metric once a step."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == folder.info["status"]
    recorded: dict[str, list[tuple[int, float]]] = {}
    for record in folder.records():
        for key, value in record["metrics"].items():
            recorded.setdefault(key, []).append((record["epoch"], value))
    assert run.data.metrics.keys() == recorded.keys()
    for key, expected in recorded.items():
        history = client.get_metric_history(run.info.run_id, key)
        assert [(point.step, point.value) for point in history] == expected
    return run


def publisher_of(command: Child) -> int:
    """The process that publishes beside a command: it leads a session of its own."""
    pids = Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text().split()
    (found,) = [pid for pid in map(int, pids) if os.getsid(pid) == pid]
    return found


@pytest.fixture
def database(tmp_path: Path, finished: tuple[Path, Done]) -> Path:
    """A database that is there already, in the folder of runs."""
    children.copy([finished[0] / "mlflow.db"], tmp_path / "runs")
    return tmp_path / "runs" / "mlflow.db"


@LINUX
def test_a_killed_publisher_is_said_and_sync_has_no_holes(
    night: list[str], tmp_path: Path, database: Path
) -> None:
    process = start(*night)
    folder = epochs_of(process, tmp_path / "runs", 1)
    until(lambda: folder.published.get("records"))
    os.kill(publisher_of(process), signal.SIGKILL)
    out, said = process.communicate()
    assert process.returncode == 5, said
    assert "finished" in out
    assert "make sync" in said
    assert "Traceback" not in said
    assert cvae("sync", "--runs", str(tmp_path / "runs")).returncode == 0
    assert stored_whole(f"sqlite:///{database}", folder).info.status == "FINISHED"


def test_a_killed_trainer_is_killed_in_mlflow_and_resumes_in_the_same_run(
    night: list[str], tmp_path: Path, database: Path
) -> None:
    """The publisher sees the end of its pipe, publishes what is there, and ends."""
    long = [*night, "--set", "training.epochs=5000"]
    process = start(*long)
    folder = epochs_of(process, tmp_path / "runs", 1)
    until(lambda: folder.published.get("records"))
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()  # until the publisher, too, has closed standard error
    killed = stored_whole(f"sqlite:///{database}", folder)
    assert killed.info.status == "KILLED"
    process = start(*long)
    wait_for_epoch(folder.path, len(folder.records()) + 1, process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130, said
    run = stored_whole(f"sqlite:///{database}", folder)
    assert (run.info.run_id, run.info.status) == (killed.info.run_id, "KILLED")
    assert "Ctrl-C" in run.data.tags["cvae.reason"]


def test_a_server_that_hangs_and_stops_is_told_everything_later(
    night: list[str], tmp_path: Path, finished: tuple[Path, Done]
) -> None:
    with socket.create_server(("127.0.0.1", children.free_port())) as silent:
        port = silent.getsockname()[1]  # takes connections, never answers
        to = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}"}
        to |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
        to |= {"MLFLOW_HTTP_REQUEST_TIMEOUT": "3"}
        process = start(*night, **to)
        folder = epochs_of(process, tmp_path / "runs", 2)
        _, said = process.communicate()
    assert process.returncode == 5, said
    assert "make sync" in said
    assert "Traceback" not in said
    assert folder.status == "FINISHED"
    file = shutil.copy(finished[0] / "mlflow.db", tmp_path / "server.db")
    server = Server(tmp_path / "server", f"sqlite:///{file}", port)
    synced = cvae("sync", "--runs", str(tmp_path / "runs"), **to)
    assert synced.returncode == 0, synced.stderr
    stored_whole(server.address, folder)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("update alembic_version set version_num='fffffffffff'", "a newer MLflow than"),
        (None, "not a database"),
    ],
)
def test_a_database_of_another_version_or_none_is_said_and_left_alone(
    damage: str | None, words: str, tmp_path: Path, database: Path
) -> None:
    if damage is None:
        database.write_bytes(b"what is this? " * 1000)
    else:
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute(damage)
    before = database.read_bytes()
    with pytest.raises(TrackingError, match=words):
        Tracker(tmp_path / "runs")
    assert database.read_bytes() == before


# -- the disk --------------------------------------------------------------------------


@LINUX
def test_a_full_disk_is_said_and_costs_nothing(
    night: list[str], tmp_path: Path
) -> None:
    """First a limit on the size of files, then a truncated checkpoint, then the end."""
    command = [*night, "--offline", "--set", "training.epochs=60"]
    whole = cvae(*command, "--runs", str(tmp_path / "whole"))
    assert whole.returncode == 0, whole.stderr
    process = start(*command)
    folder = epochs_of(process, tmp_path / "runs", 5)
    until(previous_of(folder.checkpoint).exists)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100_000, 100_000))
    _, said = process.communicate()
    assert process.returncode == 1
    assert f"{folder.checkpoint}: File too large\nmake room" in said
    assert load(folder.checkpoint)[1]["epoch"] == len(folder.records()) - 1 < 59
    assert folder.status == "FAILED"
    assert not list(folder.path.glob(".*.part"))

    before = folder.checkpoint.read_bytes()
    folder.checkpoint.unlink()  # it may be one file with the one before it
    folder.checkpoint.write_bytes(before[: len(before) // 2])
    resumed = cvae(*command)
    assert resumed.returncode == 0, resumed.stderr
    assert "going on from the one before it" in resumed.stderr
    assert "after epoch" in resumed.stderr
    expected = the_run(tmp_path / "whole")
    assert folder.weights.read_bytes() == expected.weights.read_bytes()
    assert untimed(folder) == untimed(expected)


# -- divergence ------------------------------------------------------------------------


def test_divergence_keeps_the_last_good_checkpoint_and_records_no_nonsense(
    night: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In the second step of the fourth epoch: 250 images in batches of 64 are four."""

    def planted(step: int, **options: object) -> float:
        return math.nan if step == 13 else 1.0

    command = [*night, "--offline", "--set", "training.epochs=6"]
    with monkeypatch.context() as patch:
        patch.setattr("cvae.optimizer.beta_at", planted)
        assert __main__.main(command) == 4
    assert "not finite at step 14" in caplog.text
    folder = the_run(tmp_path / "runs")
    assert folder.status == "FAILED"
    assert "not finite at step 14" in folder.info["reason"]
    assert [record["epoch"] for record in folder.records()] == [1, 2, 3]
    tensors, facts = load(folder.checkpoint)
    assert facts["epoch"] == 3
    assert all(t.isfinite().all() for t in tensors.values() if t.is_floating_point())
    # without the fault, the same command goes on to the end
    assert __main__.main(command) == 0
    assert folder.status == "FINISHED"
    assert [record["epoch"] for record in folder.records()] == [*range(1, 7), 6]

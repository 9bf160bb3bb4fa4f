"""Whatever a night brings: the tests that docs/nothing_lost.md names.

Kills, full disks, servers that stop: all in processes of their own.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import resource
import shutil
import signal
import sqlite3
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run

from cvae.errors import Diverged, TrackingError
from cvae.run import runner
from cvae.run.checkpoint import load, previous_of
from cvae.run.folder import RunFolder
from cvae.tracking.publish import Tracker
from tests import children
from tests.children import Child, Done, answered, environment, until
from tests.conftest import spec
from tests.test_commands import (
    cvae,
    start,
    the_run,
    untimed,
    wait_for_epoch,
    wait_for_run,
)

SPEC = """\
name: night
data: {{root: {root}, validation_images: 50}}
model: {{hidden: [16]}}
training: {{epochs: {epochs}, batch_size: 64, device: cpu}}
tracking: {{experiment: tests, images_every: 1000}}
"""


@pytest.fixture
def night(tmp_path: Path, tiny_root: Path) -> Callable[[int], list[str]]:
    """The arguments that run so many epochs in `tmp_path / "runs"`."""

    def arguments(epochs: int) -> list[str]:
        path = tmp_path / f"night-{epochs}.yaml"
        path.write_text(SPEC.format(root=tiny_root, epochs=epochs))
        return ["run", str(path), "--runs", str(tmp_path / "runs")]

    return arguments


def epochs_of(process: Child, runs: Path, epoch: int) -> RunFolder:
    """The run that a process is at, once it has come so far."""
    folder = wait_for_run(runs, process)
    wait_for_epoch(folder.path, epoch, process)
    return folder


# -- killed, many at once --------------------------------------------------------------


def test_killed_anywhere_and_many_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    """SIGKILLs at random times and at fsync, rename, link and unlink; then three specs
    and one of them twice, started together on a missing database. CI has fifty kills
    and sixteen specs more: make soak N=50.
    """
    words = ("--kills", "5", "--together", "3")
    done = children.python("-m", "benchmarks.soak", *words, limit=600)
    assert done.returncode == 0, done.stdout + done.stderr
    tally = json.loads(done.stdout.splitlines()[-1])
    with capfd.disabled():
        print(f"\nsoak: {tally}")
    assert tally["at a random time"] >= 5
    assert tally["together"] == 3
    assert tally["differences"] == 0


# -- interrupted -----------------------------------------------------------------------


def test_a_second_interrupt_leaves_at_once_and_safely(
    night: Callable[[int], list[str]], tmp_path: Path
) -> None:
    process = start(*night(5000), "--offline")
    folder = epochs_of(process, tmp_path / "runs", 3)
    for _ in range(20):
        process.send_signal(signal.SIGINT)
        time.sleep(0.005)
    _, said = process.communicate()
    assert process.returncode in (130, -signal.SIGINT)
    assert "epoch 2/" in said  # the third is recorded, and may not be shown yet
    assert folder.status == "KILLED"
    assert load(folder.checkpoint)[1]["epoch"] >= 2


def test_a_closed_terminal_is_an_interrupt_but_not_under_nohup(
    night: Callable[[int], list[str]], tmp_path: Path
) -> None:
    process = start(*night(5000), "--offline")
    folder = epochs_of(process, tmp_path / "runs", 1)
    process.send_signal(signal.SIGHUP)
    process.communicate()
    assert process.returncode == 128 + signal.SIGHUP
    assert folder.info["reason"] == "interrupted by SIGHUP"
    ignoring = children.python(
        "-c",
        "import os, signal; from cvae.cli import exits\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN); exits.raise_on_signals()\n"
        "os.kill(os.getpid(), signal.SIGHUP); print('alive')",
    )
    assert ignoring.stdout == "alive\n"


# -- the tracking store ----------------------------------------------------------------


class Server:
    """A real MLflow server on a port of its own, over a copy of a database."""

    def __init__(self, place: Path, template: Path) -> None:
        place.mkdir()
        self.place = place
        shutil.copy(template, place / "server.db")
        self.port = children.free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.process: Child | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.place / 'server.db'}"]
        command += ["--artifacts-destination", str(self.place / "artifacts")]
        off = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        off |= {"MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.place / "log").open("w") as log:
            self.process = children.start(
                command,
                cwd=self.place,
                env=environment(**off),
                output=log,
                errors=log,
            )
        answered(self.process, self.place / "log", self.ask)

    def ask(self) -> None:
        with urllib.request.urlopen(f"{self.address}/health", timeout=5):
            pass

    def signal(self, number: signal.Signals) -> None:
        """To the server and its workers."""
        assert self.process is not None
        os.killpg(self.process.pid, number)

    def stop(self) -> None:
        if self.process is not None:
            children.end(self.process)
        self.process = None


@pytest.fixture
def server(tmp_path: Path, finished: tuple[Path, Done]) -> Iterator[Server]:
    server = Server(tmp_path / "server", finished[0] / "mlflow.db")
    server.start()
    yield server
    server.stop()


def histories(client: MlflowClient, run: Run) -> dict[str, list[tuple[int, float]]]:
    return {
        key: [
            (point.step, point.value)
            for point in client.get_metric_history(run.info.run_id, key)
        ]
        for key in run.data.metrics
    }


def recorded(folder: RunFolder) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for record in folder.records():
        for key, value in record["metrics"].items():
            found.setdefault(key, []).append((record["epoch"], value))
    return found


def the_stored(uri: str) -> tuple[MlflowClient, Run]:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    return client, run


def publisher_of(command: Child) -> int:
    """The process that publishes beside a command: it leads a session of its own."""
    found: list[int] = []

    def begun() -> bool:
        file = Path(f"/proc/{command.pid}/task/{command.pid}/children")
        for pid in map(int, file.read_text().split()):
            with contextlib.suppress(ProcessLookupError):
                found.extend([pid] if os.getsid(pid) == pid else [])
        return bool(found)

    until(begun)
    return found[0]


@pytest.fixture
def database(tmp_path: Path, finished: tuple[Path, Done]) -> Path:
    """A database that is there already, in the folder of runs."""
    children.copy([finished[0] / "mlflow.db"], tmp_path / "runs")
    return tmp_path / "runs" / "mlflow.db"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_publisher_is_said_and_sync_has_no_holes(
    night: Callable[[int], list[str]], tmp_path: Path, database: Path
) -> None:
    process = start(*night(300))
    folder = epochs_of(process, tmp_path / "runs", 1)
    until(lambda: folder.published.get("records"))
    os.kill(publisher_of(process), signal.SIGKILL)
    out, said = process.communicate()
    assert process.returncode == 5, said
    assert "finished" in out
    assert "make sync" in said
    assert "Traceback" not in said
    assert cvae("sync", "--runs", str(tmp_path / "runs")).returncode == 0
    client, run = the_stored(f"sqlite:///{database}")
    assert run.info.status == "FINISHED"
    assert histories(client, run) == recorded(folder)


def test_a_killed_trainer_is_killed_in_mlflow_and_resumes_in_the_same_run(
    night: Callable[[int], list[str]], tmp_path: Path, database: Path
) -> None:
    """The publisher sees the end of its pipe, publishes what is there, and ends."""
    process = start(*night(500))
    folder = epochs_of(process, tmp_path / "runs", 1)
    until(lambda: folder.published.get("records"))
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()  # until the publisher, too, has closed standard error
    client, killed = the_stored(f"sqlite:///{database}")
    assert killed.info.status == folder.info["status"] == "KILLED"
    assert histories(client, killed) == recorded(folder)
    process = start(*night(500))
    wait_for_epoch(folder.path, len(folder.records()) + 1, process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130, said
    client, run = the_stored(f"sqlite:///{database}")
    assert (run.info.run_id, run.info.status) == (killed.info.run_id, "KILLED")
    assert "Ctrl-C" in run.data.tags["cvae.reason"]
    assert histories(client, run) == recorded(folder)


def test_a_server_that_hangs_and_stops_is_told_everything_later(
    night: Callable[[int], list[str]],
    tmp_path: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Hung, then resumed and stopped; back, then synced, twice, and once from a copy of
    the folder as another machine would have it.
    """
    command, to = night(300), {"MLFLOW_TRACKING_URI": server.address}
    to |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "3"}
    server.signal(signal.SIGSTOP)  # hangs: connections are taken, answers never come
    process = start(*command, **to)
    folder = epochs_of(process, tmp_path / "runs", 2)
    _, said = process.communicate()
    assert process.returncode == 5, said
    assert "make sync" in said
    assert "Traceback" not in said
    assert folder.status == "FINISHED"
    server.signal(signal.SIGCONT)
    server.stop()

    away = cvae(*command, **to)
    assert away.returncode == 5
    assert "refused" in away.stderr
    assert "--offline" in away.stderr
    assert "epoch" not in away.stderr
    assert cvae("sync", "--runs", str(tmp_path / "runs"), **to).returncode == 5
    server.start()
    synced = cvae("sync", "--runs", str(tmp_path / "runs"), **to)
    assert synced.returncode == 0, synced.stderr
    client, run = the_stored(server.address)
    assert run.info.status == "FINISHED"
    assert histories(client, run) == recorded(folder)

    copy = tmp_path / "elsewhere" / folder.name
    shutil.copytree(folder.path, copy)
    (copy / "tracking.json").unlink()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    for path in (folder.path, copy):
        Tracker(path.parent).publish(RunFolder(path))
        client, again = the_stored(server.address)
        assert again.info.run_id == run.info.run_id
        assert histories(client, again) == recorded(folder)


def test_training_ends_while_the_database_is_locked_and_publishes_afterwards(
    night: Callable[[int], list[str]], tmp_path: Path, database: Path
) -> None:
    to = {"MLFLOW_TRACKING_URI": f"sqlite:///{database}?timeout=2"}  # MLflow's is 20 s
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        process = start(*night(300), **to)
        said = read_until(process, "database is locked")
        folder = the_run(tmp_path / "runs")
        until(lambda: folder.status != "RUNNING" or len(folder.records()) > 50)
        other.execute("ROLLBACK")
        _, rest = process.communicate()
    assert process.returncode == 0, said + rest
    assert (said + rest).count("database is locked") == 1
    client, run = the_stored(to["MLFLOW_TRACKING_URI"])
    assert run.info.status == "FINISHED"
    assert histories(client, run) == recorded(folder)


def read_until(process: Child, words: str) -> str:
    """Read what a process says until a line holds the words."""
    assert process.stderr is not None
    said = ""
    while words not in said:
        line = process.stderr.readline()
        assert line, (said, process.communicate())
        said += line
    return said


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("update alembic_version set version_num='0584bdc529eb'", "mlflow db upgrade"),
        ("update alembic_version set version_num='fffffffffff'", "a newer MLflow than"),
        (None, "not a database"),
    ],
)
def test_a_database_of_another_version_or_none_is_said_and_left_alone(
    damage: str | None, words: str, tmp_path: Path, finished: tuple[Path, Done]
) -> None:
    database = tmp_path / "mlflow.db"
    if damage is None:
        database.write_bytes(b"what is this? " * 1000)
    else:
        shutil.copy(finished[0] / "mlflow.db", database)
        with closing(sqlite3.connect(database)) as connection:
            connection.executescript(damage)
            connection.commit()
    before = database.read_bytes()
    with pytest.raises(TrackingError, match=words) as caught:
        Tracker(tmp_path)
    assert len(str(caught.value).splitlines()) <= 2  # the second is a command
    assert database.read_bytes() == before


# -- the disk --------------------------------------------------------------------------


def test_a_full_disk_is_said_and_costs_nothing(
    night: Callable[[int], list[str]], tmp_path: Path
) -> None:
    """First a limit on the size of files, then a truncated checkpoint, then the end."""
    command = [*night(30), "--offline"]
    whole = cvae(*command[:2], "--runs", str(tmp_path / "whole"), "--offline")
    assert whole.returncode == 0, whole.stderr
    process = start(*command)
    folder = epochs_of(process, tmp_path / "runs", 5)
    until(previous_of(folder.checkpoint).exists)
    process.kill()
    process.communicate()
    before = folder.checkpoint.read_bytes()

    full = children.python(
        *("-m", "cvae", *command),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (30000, 30000)),
    )
    assert full.returncode == 1
    assert f"{folder.checkpoint}: File too large\nmake room" in full.stderr
    assert "Traceback" not in full.stderr
    assert folder.checkpoint.read_bytes() == before
    assert folder.status == "FAILED"
    assert not list(folder.path.glob(".*.part"))

    # killed in a save, it may have left one file with the names of both checkpoints
    folder.checkpoint.unlink()
    folder.checkpoint.write_bytes(before[: len(before) // 2])
    resumed = cvae(*command)
    assert resumed.returncode == 0, resumed.stderr
    assert "going on from the one before it" in resumed.stderr
    assert "going on with" in resumed.stderr
    expected = the_run(tmp_path / "whole")
    assert folder.weights.read_bytes() == expected.weights.read_bytes()
    assert untimed(folder) == untimed(expected)


# -- divergence ------------------------------------------------------------------------


def test_divergence_keeps_the_last_good_checkpoint_and_logs_no_nonsense(
    tmp_path: Path, tiny_root: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights become NaN in step 14, the second of the fourth epoch: 250 images in
    batches of 64 are four steps.
    """
    runs = tmp_path / "runs"
    update, calls = torch._fused_adam_, itertools.count(1)

    def poisoned(weights: list[torch.Tensor], *others: Any, **options: Any) -> None:
        update(weights, *others, **options)
        if next(calls) == 14:
            weights[0].fill_(math.nan)

    monkeypatch.setattr(torch, "_fused_adam_", poisoned)
    monkeypatch.setattr(
        "cvae.fast.cpu_kernel.library", lambda: None
    )  # torch's own steps
    wild = spec(
        data__root=str(tiny_root),
        data__validation_images=50,
        tracking__experiment="tests",
        training__epochs=6,
        training__batch_size=64,
        training__device="cpu",
    )
    with pytest.raises(Diverged, match="not finite at step 15"):
        runner.run(wild, runs=runs)
    folder = the_run(runs)
    assert folder.status == "FAILED"
    assert "not finite at step 15" in folder.info["reason"]
    assert [record["epoch"] for record in folder.records()] == [1, 2, 3]
    assert_sound_checkpoint(folder.checkpoint, epoch=3)
    client, run = the_stored(f"sqlite:///{runs / 'mlflow.db'}")
    assert run.info.status == "FAILED"
    assert "step 15" in run.data.tags["cvae.reason"]
    assert histories(client, run) == recorded(folder)

    monkeypatch.undo()  # without the fault, the same command goes on to the end
    assert runner.run(wild, runs=runs, offline=True).status == "FINISHED"
    assert [record["epoch"] for record in folder.records()] == [*range(1, 7), 6]


def assert_sound_checkpoint(path: Path, *, epoch: int) -> None:
    """It is that of the epoch, and every number in it is finite."""
    tensors, facts = load(path)
    assert facts["epoch"] == epoch
    assert all(t.isfinite().all() for t in tensors.values() if t.is_floating_point())
    assert any(name.startswith("model.") for name in tensors)

"""What a night can bring, done for real: the tests that docs/nothing_lost.md names.

Kills, full disks, servers that stop: all in processes of their own.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import resource
import shutil
import signal
import sqlite3
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run

from cvae.cli import exits
from cvae.errors import Diverged, TrackingError
from cvae.run import runner
from cvae.run.checkpoint import load, previous_of
from cvae.run.folder import RunFolder
from cvae.spec.fields import Training
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


class Stub(BaseHTTPRequestHandler):
    """Answers 500 to everything, or accepts and never answers."""

    hang = False

    def do_GET(self) -> None:
        if self.hang:
            time.sleep(100)
        self.send_error(500)

    do_POST = do_GET

    def log_message(self, *arguments: Any) -> None:
        pass


@contextmanager
def stub(*, hang: bool) -> Iterator[str]:
    handler = type("Handler", (Stub,), {"hang": hang})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("hang", "words"), [(False, "500"), (True, "no answer in 6 s")]
)
def test_a_server_that_fails_or_hangs_is_said_before_training(
    hang: bool, words: str, night: Callable[[int], list[str]]
) -> None:
    with stub(hang=hang) as address:
        done = cvae(*night(3), MLFLOW_TRACKING_URI=address)
    assert done.returncode == 5
    assert address in done.stderr
    assert words in done.stderr
    assert "--offline" in done.stderr
    assert "epoch" not in done.stderr
    assert "Traceback" not in done.stderr


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


def test_a_server_that_stops_is_told_everything_later(
    night: Callable[[int], list[str]],
    tmp_path: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Hung, then gone on with and interrupted; gone, then finished; back, then synced,
    twice, and once from a copy of the folder as another machine would have it.
    """
    command, to = night(300), {"MLFLOW_TRACKING_URI": server.address}
    process = start(*command, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0", **to)
    folder = epochs_of(process, tmp_path / "runs", 2)
    server.signal(signal.SIGSTOP)  # hangs: connections are taken, answers never come
    read_until(process, "training goes on")
    wait_for_epoch(folder.path, len(folder.records()) + 2, process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == 143, said
    assert "Traceback" not in said
    assert folder.status == "KILLED"
    server.signal(signal.SIGCONT)

    process = start(*command, **to)
    began = len(folder.records())
    wait_for_epoch(folder.path, began + 2, process)
    server.stop()
    out, said = process.communicate()
    assert process.returncode == 0, said
    assert "training goes on" in said
    assert "not in MLflow yet" in out
    assert folder.status == "FINISHED"
    assert len(folder.records()) == 301

    away = cvae("sync", "--runs", str(tmp_path / "runs"), **to)
    assert away.returncode == 5
    assert "Traceback" not in away.stderr
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


def read_until(process: Child, words: str) -> str:
    """What a process says until a line holds the words."""
    assert process.stderr is not None
    said = ""
    while words not in said:
        line = process.stderr.readline()
        assert line, (said, process.communicate())
        said += line
    return said


def test_training_ends_while_the_database_is_locked_and_publishes_afterwards(
    night: Callable[[int], list[str]], tmp_path: Path, finished: tuple[Path, Done]
) -> None:
    database = tmp_path / "mlflow.db"
    shutil.copy(finished[0] / "mlflow.db", database)
    to = {"MLFLOW_TRACKING_URI": f"sqlite:///{database}?timeout=2"}  # MLflow's is 20 s
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        process = start(*night(3), **to)
        said = read_until(process, "epoch 3/3")
        other.execute("ROLLBACK")
        _, rest = process.communicate()
    assert process.returncode == 0, rest
    assert "database is locked" in said
    assert said.count("training goes on") == 1  # asked once, not after every epoch
    client, run = the_stored(to["MLFLOW_TRACKING_URI"])
    assert run.info.status == "FINISHED"
    assert histories(client, run) == recorded(the_run(tmp_path / "runs"))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("update alembic_version set version_num='0584bdc529eb'", "mlflow db upgrade"),
        ("update alembic_version set version_num='fffffffffff'", "a newer MLflow than"),
        # a table that this MLflow looks for is no more: it would migrate, and cannot
        (
            "update alembic_version set version_num='fffffffffff';"
            "drop table logged_model_tags",
            "revision identified by 'fffffffffff'; made by a newer MLflow than",
        ),
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
    assert exits.exit_code(caught.value) == 5
    assert len(str(caught.value).splitlines()) <= 2  # the second is a command
    assert database.read_bytes() == before


def test_a_run_that_the_store_has_lost_is_published_anew(
    tmp_path: Path, tiny_root: Path, finished: tuple[Path, Done]
) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    wanted = spec(data__root=str(tiny_root), data__validation_images=0)
    wanted = wanted.model_copy(update={"training": Training(epochs=2)})
    shutil.copy(finished[0] / "mlflow.db", runs / "mlflow.db")
    folder = runner.run(wanted, runs=runs)
    shutil.copy(finished[0] / "mlflow.db", runs / "other.db")
    cursor = folder.path / "tracking.json"
    other = f"sqlite:///{runs / 'other.db'}"
    seen = json.loads(cursor.read_text()) | {"uri": other}
    cursor.write_text(json.dumps(seen))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", other)
        Tracker(runs).publish(folder)
    client = MlflowClient(other)
    everything = [found.experiment_id for found in client.search_experiments()]
    stored = {
        run.data.tags.get("cvae.folder"): run for run in client.search_runs(everything)
    }
    assert histories(client, stored[folder.name]) == recorded(folder)


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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_disk_without_room_or_read_only_is_said(
    night: Callable[[int], list[str]], tmp_path: Path
) -> None:
    place = tmp_path / "runs"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(place)]
    if children.run(mount).returncode:
        pytest.skip("no mount here")
    try:
        full = cvae(*night(3), "--offline")
        assert full.returncode == 1
        assert "No space left on device\nmake room" in full.stderr
        assert "Traceback" not in full.stderr
        remount = ["mount", "-o", "remount,ro", str(place)]
        assert children.run(remount).returncode == 0
        read_only = cvae(*night(3), "--offline")
        assert read_only.returncode == 1
        assert "Read-only file system\nmake room" in read_only.stderr
        assert "Traceback" not in read_only.stderr
        more_room = [*remount[:2], "remount,rw,size=9m", str(place)]
        assert children.run(more_room).returncode == 0
        assert cvae(*night(3), "--offline").returncode == 0
        assert the_run(place).status == "FINISHED"
    finally:
        assert children.run(["umount", str(place)]).returncode == 0


# -- divergence, memory ----------------------------------------------------------------


def test_divergence_keeps_the_last_good_checkpoint_and_logs_no_nonsense(
    tmp_path: Path,
    tiny_root: Path,
    finished: tuple[Path, Done],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The weights become NaN in step 14, the second of the fourth epoch: 250 images in
    batches of 64 are four steps.
    """
    runs = tmp_path / "runs"
    runs.mkdir()
    shutil.copy(finished[0] / "mlflow.db", runs / "mlflow.db")
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


MEMORY = """
import os, sys
from pathlib import Path
from cvae.run import runner
from tests.conftest import spec, data_set, write

place = Path(sys.argv[1])
root = write(place / "data", data_set(100, 20))

def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")

def run(seed, epochs):
    made = spec(data__root=str(root), data__validation_images=20, model__hidden=[16],
        training__epochs=epochs, training__seed=seed, tracking__images_every=50)
    runner.run(made, runs=place / "runs")

for seed in range(5):
    run(seed, 1)
begin = resident()
for seed in range(5, 15):
    run(seed, 1)
runs = resident()
run(50, 15)
short = resident()
run(51, 55)
print((runs - begin) // 1024, (resident() - short) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_stays_flat_over_runs_and_epochs(
    tmp_path: Path, finished: tuple[Path, Done], capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").mkdir()
    shutil.copy(finished[0] / "mlflow.db", tmp_path / "runs" / "mlflow.db")
    done = children.python("-c", MEMORY, str(tmp_path), limit=600)
    assert done.returncode == 0, done.stderr
    over_runs, over_epochs = map(int, done.stdout.splitlines()[-1].split())
    with capfd.disabled():
        print(f"\nmemory: {over_runs} KiB over 10 runs, {over_epochs} over 40 epochs")
    assert over_runs < 6_500
    assert over_epochs < 3_000

"""The command that trains and the publisher beside it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from cvae.errors import TrackingError
from cvae.tracking import beside
from cvae.tracking.address import reach
from cvae.tracking.publish import Tracker
from cvae.tracking.publisher import Publisher
from tests import children
from tests.children import Done
from tests.made import made_run
from tests.tracking.test_publish import runs_of_tests

HEAVY = "mlflow matplotlib pandas sklearn sqlalchemy alembic ray torch._dynamo"


def test_no_command_that_trains_or_draws_imports_what_is_heavy(
    tiny_root: Path, tmp_path: Path, finished: tuple[Path, Done]
) -> None:
    """With the store at work: MLflow is imported by the publisher alone."""
    runs = tmp_path / "runs"
    children.copy(list(finished[0].iterdir()), runs)
    changes = f"data.root={tiny_root} data.validation_images=50 training.epochs=1"
    changes += " model.hidden=[16] evaluation.importance_samples=0"
    commands = [
        ["run", "quickstart", "--set", changes],
        ["sweep", "quickstart", "--set", f"seeds=2 {changes}", "--jobs=1", "--offline"],
        ["samples", "--out", str(tmp_path / "x.png")],
        # offline, like its run: else it publishes what it found, with MLflow
        ["evaluate", "--run", "quickstart seed=1", "--importance-samples", "2"],
    ]
    code = (
        "import sys; from cvae.__main__ import main\n"
        f"for words in {commands!r}:\n"
        f"    assert main([*words, '--runs', {str(runs)!r}]) == 0, words\n"
        f"print('heavy:', *({set(HEAVY.split())!r} & sys.modules.keys()))\n"
    )
    done = children.python("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "heavy:"


def test_a_store_that_cannot_be_there_is_refused_without_mlflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reach(tmp_path)  # a database that is still to be made
    assert not list(tmp_path.iterdir())
    (tmp_path / "mlflow.db").write_bytes(b"what is this? " * 1000)
    with pytest.raises(TrackingError, match="not a database"):
        reach(tmp_path)
    for uri in ("http://127.0.0.1:9", "postgresql://me:s3cret-Pass@127.0.0.1:9/x"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(TrackingError, match=r"refused\n.*--offline") as caught:
            beside.Publisher(tmp_path)
        assert "s3cret" not in str(caught.value)


def test_the_publisher_tells_of_ends_that_the_store_has_missed(
    tmp_path: Path, finished: tuple[Path, Done]
) -> None:
    """A run that finished after a failed attempt, and one whose process died; one that
    was made offline is left to `sync`. Times are milliseconds, as MLflow counts them.
    """
    shutil.copy(finished[0] / "mlflow.db", tmp_path)
    fields: dict[str, Any] = {"tracking__experiment": "tests", "started": 1e9}
    missed = made_run(tmp_path, 90.0, **fields)
    dead = made_run(tmp_path, 91.0, name="dead", status="RUNNING", **fields)
    made_run(tmp_path, 92.0, name="offline", **fields)
    current = made_run(tmp_path, 93.0, name="current", **fields)
    missed.update(status="RUNNING")
    publisher, (read, write) = Publisher(tmp_path), os.pipe()
    publisher.pipe = read
    publisher.tracker = Tracker(tmp_path)
    with missed.lock(), dead.lock():
        publisher.tracker.publish(missed)
        publisher.tracker.publish(dead)
    missed.update(status="FINISHED")
    os.write(write, os.fsencode(current.path) + b"\0")
    os.close(write)
    assert publisher.run() == 0
    _, stored = runs_of_tests(tmp_path)
    states = {run.data.tags["cvae.folder"]: run.info.status for run in stored}
    assert states == {
        missed.name: "FINISHED",
        dead.name: "KILLED",
        current.name: "FINISHED",
    }
    (run,) = [run for run in stored if run.data.tags["cvae.folder"] == current.name]
    assert (run.info.start_time, run.info.end_time) == (10**12, 10**12 + 12_000)


def test_mlflows_system_metrics_are_logged_by_the_publisher_where_asked_for(
    tmp_path: Path, finished: tuple[Path, Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(finished[0] / "mlflow.db", tmp_path)
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    run = made_run(tmp_path, 90.0, status="RUNNING", tracking__experiment="tests")
    publisher, (read, write) = Publisher(tmp_path), os.pipe()
    publisher.pipe, publisher.tracker = read, Tracker(tmp_path)

    def stored() -> dict[str, float]:
        (one,) = runs_of_tests(tmp_path)[1]
        return dict(one.data.metrics)

    with run.lock():
        os.write(write, os.fsencode(run.path) + b"\0")
        publisher._listen()
        publisher._publish_changed()
        children.until(lambda: "system/cpu_utilization_percentage" in stored())
        publisher.monitor.finish()

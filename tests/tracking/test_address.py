"""Where the store is, and what of its address may be shown."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from cvae.errors import TrackingError
from cvae.run import runner, state
from cvae.run.folder import Origin
from cvae.sweep.worker import Event, Job, perform
from cvae.tracking.address import (
    database,
    mlflow_command,
    redacted,
    sqlite_uri,
    tracking_uri,
    upgrade_command,
)
from cvae.tracking.charts import RUNS_ONLY
from cvae.tracking.publish import Tracker
from cvae.tracking.store import Store
from tests import children
from tests.children import Done, environment
from tests.conftest import spec
from tests.made import made_run
from tests.run.test_nothing_lost import Server
from tests.test_commands import cvae, the_run

PASSWORD = "s3cret-Pass%40word"


@pytest.mark.parametrize(
    "uri",
    [
        f"http://user:{PASSWORD}@127.0.0.1:1",
        f"https://user:{PASSWORD}@host.test/path",
        f"postgresql://user:{PASSWORD}@127.0.0.1:1/name",
        f"postgresql+psycopg://user:{PASSWORD}@127.0.0.1/name?a=b",
        f"mysql+pymysql://host/name?user=me&password={PASSWORD}",
        f"https://{PASSWORD}@host.test",
        f"http://user:a@b/{PASSWORD}@host.test",
    ],
)
def test_a_password_is_redacted_in_any_url(uri: str) -> None:
    shown = redacted(f"cannot reach {uri} today")
    assert PASSWORD not in shown
    assert "***" in shown
    assert shown.startswith("cannot reach ")
    assert shown.endswith(" today")


def test_an_address_without_a_password_is_shown_as_it_is() -> None:
    for uri in (
        "http://127.0.0.1:5000",
        "sqlite:////home/me@work/runs/mlflow.db",
        "postgresql+psycopg://cvae@127.0.0.1:5432/postgres",
    ):
        assert redacted(uri) == uri


def test_a_password_of_the_environment_is_redacted_wherever_it_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{PASSWORD}@host")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "token-of-mine")
    shown = redacted("refused: s3cret-Pass@word, token-of-mine")
    assert shown == "refused: ***, ***"


@pytest.mark.parametrize(
    "uri",
    [f"http://me:{PASSWORD}@127.0.0.1:1", f"postgresql://me:{PASSWORD}@127.0.0.1:1/x"],
)
def test_no_command_prints_the_password_of_a_store_that_is_away(
    uri: str, tmp_path: Path
) -> None:
    (tmp_path / "spec.yaml").write_text("# Question: none\nname: x\n")
    for command in (["run", str(tmp_path / "spec.yaml")], ["ui"]):
        done = cvae(*command, "--runs", str(tmp_path / "r"), MLFLOW_TRACKING_URI=uri)
        assert done.returncode == 5, done.stderr
        assert "s3cret" not in done.stdout + done.stderr
        assert "***" in done.stderr
    for file in (tmp_path / "r").rglob("*"):
        assert not file.is_file() or b"s3cret" not in file.read_bytes()


@pytest.mark.parametrize("name", ["a?b", "a#b", "a%3Fb", "a%b", "a b", "é", "a&b=c"])
def test_a_store_works_under_any_path(name: str, tmp_path: Path) -> None:
    runs = tmp_path / name / "runs"
    runs.mkdir(parents=True)
    store = Store(runs)
    assert database(store.address) == runs / "mlflow.db"
    id = store.experiment("tests")
    run = store.client.create_run(id).info
    store.client.log_text(run.run_id, "here", "a.txt")
    (file,) = runs.rglob("a.txt")
    assert file.read_text() == "here"
    assert store.artifact(run.run_id, "a.txt") == b"here"
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert "tests" in {e.name for e in MlflowClient(store.address).search_experiments()}


@pytest.mark.parametrize(
    "uri", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///:memory:?a=b"]
)
def test_a_database_in_memory_is_refused(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(TrackingError, match=r"in memory.*name a file"):
        tracking_uri(tmp_path)


def shell(command: str, **extra: str) -> Done:
    """A command as a user types it, in a shell that knows nothing of this test."""
    return children.run(["/bin/sh", "-c", command], env=environment(**extra))


@pytest.mark.parametrize("where", ["file", "environment"])
def test_the_advice_for_a_deleted_experiment_works_as_printed(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = {}
    if where == "environment":
        extra = {"MLFLOW_TRACKING_URI": sqlite_uri(tmp_path / "other.db")}
        monkeypatch.setenv(*extra.copy().popitem())
    store = Store(tmp_path)
    id = store.experiment("tests")
    store.client.delete_experiment(id)
    with pytest.raises(TrackingError, match="restore") as caught:
        store.experiment("tests")
    done = shell(str(caught.value).splitlines()[-1], **extra)
    assert done.returncode == 0, done.stderr
    assert store.experiment("tests") == id


@pytest.mark.parametrize(
    ("where", "name"), [("file", "50% of #1?"), ("environment", "a place")]
)
def test_the_advice_for_an_old_database_works_as_printed(
    where: str,
    name: str,
    tmp_path: Path,
    finished: tuple[Path, Done],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Refused for its version number, which is then put back."""
    (tmp_path / name).mkdir()
    file = tmp_path / name / "mlflow.db"
    shutil.copy(finished[0] / "mlflow.db", file)
    extra = {}
    if where == "environment":
        extra = {"MLFLOW_TRACKING_URI": sqlite_uri(file)}
        monkeypatch.setenv(*extra.copy().popitem())
    with closing(sqlite3.connect(file)) as connection, connection:
        (version,) = connection.execute("select * from alembic_version").fetchone()
        connection.execute("update alembic_version set version_num='0584bdc529eb'")
    with pytest.raises(TrackingError, match="mlflow db upgrade") as caught:
        Store(tmp_path / name)
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("update alembic_version set version_num=?", [version])
    done = shell(str(caught.value).splitlines()[-1], **extra)
    assert done.returncode == 0, done.stderr


def test_no_advice_shows_the_password_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uri = f"postgresql://me:{PASSWORD}@127.0.0.1/x"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    offered = [upgrade_command(uri), mlflow_command(uri, "experiments", "restore")]
    assert all("s3cret" not in command for command in offered)
    printed = shell(f"echo {offered[0]}", MLFLOW_TRACKING_URI=uri).stdout
    assert printed.split()[-1] == uri  # as the user's shell fills it in


def test_a_worker_shows_no_password_in_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a fault that nobody foresaw, here in reading the data."""
    uri = f"http://me:{PASSWORD}@127.0.0.1:1"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)

    def fault(*arguments: object) -> None:
        raise RuntimeError(f"cannot reach {uri}") from KeyError(uri)

    monkeypatch.setattr(state, "assemble", fault)
    monkeypatch.setattr(runner, "load_data", lambda spec: None)
    monkeypatch.setattr(runner, "check_data", lambda folder, data: None)
    job = Job(0, "one", spec(), Origin(), tmp_path, threads=1)
    said: list[Event] = []
    said.append(perform(job, said.append))
    assert "Traceback" in str(said)
    assert "cannot reach http://me:***@127.0.0.1:1" in str(said)
    assert "s3cret" not in str(said)


def test_a_run_that_fails_records_no_password(
    tmp_path: Path, tiny_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*arguments: object) -> None:
        raise RuntimeError(f"cannot reach http://me:{PASSWORD}@127.0.0.1:1")

    monkeypatch.setattr(state, "resume", fault)
    with pytest.raises(RuntimeError):
        runner.run(
            spec(data__root=str(tiny_root), data__validation_images=0),
            runs=tmp_path,
            offline=True,
        )
    assert the_run(tmp_path).info["reason"] == "cannot reach http://me:***@127.0.0.1:1"


def test_a_server_reached_with_a_password_leaves_it_in_no_file(
    tmp_path: Path, finished: tuple[Path, Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Published to a real server, which then goes away, and synced in vain."""
    server = Server(tmp_path / "server", finished[0] / "mlflow.db")
    server.start()
    address = server.address.replace("http://", f"http://me:{PASSWORD}@")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    runs = tmp_path / "runs"
    folder = made_run(runs, 90.0)
    tracker = Tracker(runs)
    tracker.publish(folder)
    assert folder.published["status"] == "FINISHED"
    assert list(tracker.search(list(tracker.experiments().values()), RUNS_ONLY))
    server.stop()
    done = cvae("sync", "--runs", str(runs), MLFLOW_TRACKING_URI=address)
    assert done.returncode == 5
    assert "***" in done.stderr
    written = b"".join(path.read_bytes() for path in runs.rglob("*") if path.is_file())
    assert "s3cret" not in done.stdout + done.stderr + written.decode(errors="replace")

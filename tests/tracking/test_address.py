"""Where the store is, and what of its address may be shown."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from cvae.errors import TrackingError
from cvae.run import runner, state
from cvae.tracking.address import mlflow_command, redacted
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
        f"postgresql+psycopg://user:{PASSWORD}@127.0.0.1/name?a=b",
        f"mysql+pymysql://host/name?user=me&password={PASSWORD}",
        f"https://{PASSWORD}@host.test",
        f"http://user:a@b/{PASSWORD}@host.test",
    ],
)
def test_a_password_is_redacted_in_any_url_and_nothing_else(uri: str) -> None:
    shown = redacted(f"sqlite:////home/me@work/mlflow.db: {uri} today")
    assert PASSWORD not in shown
    assert "***" in shown
    assert shown.startswith("sqlite:////home/me@work/mlflow.db: ")
    assert shown.endswith(" today")


def test_a_password_of_the_environment_is_redacted_wherever_it_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{PASSWORD}@host")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "token-of-mine")
    shown = redacted("refused: s3cret-Pass@word, token-of-mine")
    assert shown == "refused: ***, ***"


def shell(command: str, **extra: str) -> Done:
    """A command as a user types it, in a shell that knows nothing of this test."""
    return children.run(["/bin/sh", "-c", command], env=environment(**extra))


def test_the_advice_for_an_old_database_works_as_printed(
    tmp_path: Path, finished: tuple[Path, Done]
) -> None:
    """Refused for its version number, which is then put back."""
    place = tmp_path / "50% of #1?"
    place.mkdir()
    file = place / "mlflow.db"
    shutil.copy(finished[0] / "mlflow.db", file)
    with closing(sqlite3.connect(file)) as connection, connection:
        (version,) = connection.execute("select * from alembic_version").fetchone()
        connection.execute("update alembic_version set version_num='0584bdc529eb'")
    with pytest.raises(TrackingError, match="mlflow db upgrade") as caught:
        Store(place)
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("update alembic_version set version_num=?", [version])
    done = shell(str(caught.value).splitlines()[-1])
    assert done.returncode == 0, done.stderr


def test_no_advice_shows_the_password_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uri = f"postgresql://me:{PASSWORD}@127.0.0.1/x"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    offered = mlflow_command(uri, "db", "upgrade", uri)
    assert "s3cret" not in offered
    printed = shell(f"echo {offered}", MLFLOW_TRACKING_URI=uri).stdout
    assert printed.split()[-1] == uri  # as the user's shell fills it in


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
    file = shutil.copy(finished[0] / "mlflow.db", tmp_path / "server.db")
    server = Server(tmp_path / "server", f"sqlite:///{file}")
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

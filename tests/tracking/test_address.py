"""Where the store is, and what of its address may be shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from cvae.errors import TrackingError
from cvae.tracking.address import (
    database,
    redacted,
    sqlite_uri,
    tracking_uri,
    upgrade_command,
)
from cvae.tracking.store import Store
from tests import children
from tests.children import Done, environment
from tests.test_commands import cvae

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


def test_the_advice_for_an_old_database_works_as_printed(tmp_path: Path) -> None:
    place = tmp_path / "a place"
    place.mkdir()
    done = shell(upgrade_command(Store(place).address))
    assert done.returncode == 0, done.stderr

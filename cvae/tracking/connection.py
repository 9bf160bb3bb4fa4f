"""Reaching a store: MLflow's settings, a new database, time limits, clear errors."""

from __future__ import annotations

import atexit
import fcntl
import logging
import os
import re
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from cvae.errors import TrackingError
from cvae.tracking.address import mlflow_command, redacted, sqlite_uri

# An absent server is noticed in seconds, and nobody is phoned home.
for _key, _value in {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}.items():
    os.environ.setdefault(_key, _value)

import mlflow  # noqa: E402
from mlflow import MlflowClient as MlflowClient  # noqa: E402
from mlflow.exceptions import MlflowException as MlflowException  # noqa: E402

SCHEMA = re.compile(r"found version (\w+)|revision identified by '(\w+)'")
for _name in ("urllib3", "mlflow.store.db.utils", "mlflow.system_metrics"):
    # what counts, we say ourselves, in one line
    logging.getLogger(_name).setLevel(logging.CRITICAL)


def make_database(path: Path) -> None:
    """A new database, aside and then renamed: MLflow cannot go on with half of one."""
    if path.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    aside = path.with_name(f".{path.name}.part")
    for file in path.parent.glob(f"{aside.name}*"):
        file.unlink()
    with closing(sqlite3.connect(aside)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    store = SqlAlchemyStore(sqlite_uri(aside), (path.parent / "artifacts").as_uri())
    store.engine.dispose()
    with closing(sqlite3.connect(aside)) as connection:  # the log into the file
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    aside.replace(path)


@atexit.register
def close_databases() -> None:
    """Close what MLflow keeps open, so that SQLite folds its log into the file."""
    for name in ("tracking", "model_registry"):
        module = sys.modules.get(f"mlflow.store.{name}.sqlalchemy_store")
        for engine in module.SqlAlchemyStore._engine_map.values() if module else ():
            engine.dispose()


def relocate_artifacts(path: Path) -> None:
    """Make the locations in a database follow it, after its folder was copied or moved.

    MLflow stores absolute ones, so a copy would write into the original's artifacts.
    Needs the store's lock.
    """
    here = (path.parent / "artifacts").as_uri()
    with closing(sqlite3.connect(path, timeout=60)) as connection, connection:
        query = "SELECT 1 FROM sqlite_master WHERE name = 'experiments'"
        if not connection.execute(query).fetchone():
            return
        query = "SELECT artifact_location FROM experiments WHERE experiment_id = 0"
        (first,) = connection.execute(query).fetchone() or ("",)
        before = (first or "").removesuffix("/0")  # as `make_database` wrote it
        if before == here or not before.endswith("/artifacts"):
            return
        for table, column in (
            ("experiments", "artifact_location"),
            ("runs", "artifact_uri"),
            ("logged_models", "artifact_location"),
            ("model_versions", "storage_location"),
        ):
            connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                f"WHERE substr({column} || '/', 1, ?) = ?",
                (here, len(before) + 1, len(before) + 1, f"{before}/"),
            )


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the file at `path`, which is made, once no other process holds it."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def clear_errors(uri: str) -> Iterator[None]:
    """Whatever MLflow, its database or the network throws, as one clear line."""
    import alembic.util
    import requests
    import sqlalchemy.exc

    try:
        yield
    except (
        MlflowException,
        requests.RequestException,
        sqlalchemy.exc.SQLAlchemyError,
        alembic.util.CommandError,  # a schema of another MLflow, or changed just now
        OSError,  # the artifacts' disk, and what took too long
        ValueError,  # an answer that is no JSON
        ImportError,  # the database's driver
        sqlite3.Error,
    ) as error:
        text = " ".join(str(error).split())
        schema = SCHEMA.search(text)
        advice = _schema_advice(uri, schema[1] or schema[2]) if schema else ""
        text = redacted(f"tracking store {uri}: {text}")[:400]
        raise TrackingError(f"{text}{advice}") from error


def _schema_advice(uri: str, revision: str) -> str:
    """How to use a database of another schema; this MLflow knows the older ones."""
    migrations = Path(mlflow.__file__).parent / "store" / "db_migrations" / "versions"
    if any(migrations.glob(f"{revision}_*.py")):
        older = "; made by an older MLflow: copy the file, then\n  "
        return older + mlflow_command(uri, "db", "upgrade", uri)
    return (
        f"; made by a newer MLflow than this one, {mlflow.__version__}: install that "
        "one, or name another store with MLFLOW_TRACKING_URI"
    )

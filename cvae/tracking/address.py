"""Where the tracking store is, and what of it may be shown. Imports no MLflow."""

from __future__ import annotations

import os
import re
import shlex
import socket
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from cvae.errors import TrackingError

VARIABLE = "MLFLOW_TRACKING_URI"
SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
HIDDEN = "***"
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
PATIENCE = 1.0  # seconds for a host to answer


def tracking_uri(runs: Path) -> str:
    """MLFLOW_TRACKING_URI, or the sqlite file inside `runs`; it may hold a password."""
    uri = os.environ.get(VARIABLE) or sqlite_uri(runs.resolve() / "mlflow.db")
    return uri.replace(":///~/", f":///{Path.home()}/", 1) if is_sqlite(uri) else uri


def sqlite_uri(path: Path) -> str:
    """The URI of a sqlite file. In a URI `?`, `#` and `%` have a meaning: escaped.

    MLflow takes the text after `sqlite:///` for a path and would make its folders, so
    a path that needs escapes names the driver, which MLflow leaves to SQLAlchemy.
    """
    if re.search("[?#%]", str(path)):
        return f"sqlite+pysqlite:///{quote(str(path))}"
    return f"sqlite:///{path}"


def is_sqlite(uri: str) -> bool:
    return uri.startswith(("sqlite:", "sqlite+"))


def database(uri: str) -> Path:
    """The file of a sqlite store.

    Raises:
        TrackingError: it is in memory, and would end with the process.
    """
    path = unquote(uri.partition(":///")[2].partition("?")[0])
    if path in ("", ":memory:"):
        raise TrackingError(f"{VARIABLE}={uri} names no file: sqlite:///runs/mlflow.db")
    return Path(path).resolve()


def reach(runs: Path) -> None:
    """Find out in a second, without MLflow, whether the store can be there at all.

    Raises:
        TrackingError: no server answers, or the database's file cannot be written.
    """
    uri = tracking_uri(runs)
    try:
        if is_sqlite(uri):
            _try_file(database(uri))
        elif place := _host(uri):
            socket.create_connection(place, timeout=PATIENCE).close()
    except (OSError, sqlite3.Error, ValueError) as error:
        raise TrackingError(redacted(f"tracking store {uri}: {error}")) from error


def _try_file(path: Path) -> None:
    """Open a database, or find the folder that it can be made in."""
    place = next(each for each in (path, *path.parents) if each.exists())
    if not os.access(place, os.W_OK):
        raise PermissionError(f"{place} cannot be written")
    if place == path:
        with closing(sqlite3.connect(path, timeout=0)) as connection:
            try:
                connection.execute("PRAGMA schema_version")
            except sqlite3.OperationalError as error:
                if "locked" not in str(error):  # which the publisher waits for
                    raise


def _host(uri: str) -> tuple[str, int] | None:
    """Host and port of a store; None where only MLflow knows, or a proxy is between."""
    url = urlsplit(uri)
    scheme = url.scheme.partition("+")[0]
    if scheme in getproxies() and not proxy_bypass(url.hostname or ""):
        return None
    port = url.port or PORTS.get(scheme)
    return (url.hostname, port) if url.hostname and port else None


def redacted(text: str) -> str:
    """`text` without the passwords of the URLs in it, or of this environment."""
    text = re.sub(r"(\w://[^\s:/@]*):\S*@", rf"\1:{HIDDEN}@", text)
    text = re.sub(r"(https?://)[^\s:/@]+@", rf"\1{HIDDEN}@", text)
    text = re.sub(r"(?i)([?&](?:password|token)=)[^&\s]+", rf"\1{HIDDEN}", text)
    try:
        password = urlsplit(os.environ.get(VARIABLE, "")).password or ""
    except ValueError:
        password = ""
    known = {password, unquote(password), *(os.environ.get(key, "") for key in SECRETS)}
    for secret in sorted(known, key=len, reverse=True):
        if len(secret) > 3:  # a shorter one would cut ordinary words
            text = text.replace(secret, HIDDEN)
    return text


def mlflow_command(uri: str, *arguments: str) -> str:
    """A command of MLflow's, to be typed into the shell that met the error.

    A URI that this environment names is left to it, so no password is printed.
    """
    same = os.environ.get(VARIABLE) == uri
    shown = f'"${VARIABLE}"' if same else shlex.quote(uri)
    given = "" if same else f"{VARIABLE}={shown} "
    words = (shown if word == uri else shlex.quote(word) for word in arguments)
    return f"{given}{shlex.quote(sys.executable)} -m mlflow {' '.join(words)}"

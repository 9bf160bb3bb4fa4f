"""Every child process of the tests: none depends on how pytest was started.

A child gets default signal dispositions, an environment without what steers MLflow and
make, no terminal, and a session (and process group) of its own. It is waited for LIMIT
seconds, and the whole group is killed when the test ends.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from cvae.cli.table import COMMANDS
from tests.prepared import LIMIT, Forked, Prepared
from tests.prepared import Child as Child

ROOT = Path(__file__).resolve().parent.parent
Done = subprocess.CompletedProcess[str]
STEERING = ("MLFLOW", "MAKE", "GIT_", "MFLAGS", "COLUMNS", "RAY_")

_alive: list[Child] = []
_ports = itertools.count(os.getpid())


def default_signals() -> None:
    """Replace each SIG_IGN that pytest inherited by a handler that does nothing.

    `nohup` and `&` start pytest with SIGHUP and SIGINT ignored. exec hands SIG_IGN on
    to every child but resets handlers to the default; pytest still ignores the signal.
    """
    numbers = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT)
    for number in numbers:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def environment(**extra: str) -> dict[str, str]:
    """This process's environment without what steers MLflow, make and git."""
    steering = {name for one in COMMANDS.values() for name in one.variables}
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(STEERING) and key not in steering
    }
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | extra


def start(
    command: Sequence[str],
    *,
    limit: float = LIMIT,
    output: IO[Any] | int = subprocess.PIPE,
    errors: IO[Any] | int = subprocess.PIPE,
    **options: Any,
) -> Child:
    """Begin a command; who waits for it does so for `limit` seconds."""
    defaults: dict[str, Any] = {
        "cwd": ROOT,
        "env": environment(),
        "stdin": subprocess.DEVNULL,
        "stdout": output,
        "stderr": errors,
        "encoding": "utf-8",
        "start_new_session": True,
    }
    options = defaults | options
    prepared = _prepared()
    if prepared.covers(command, **options):
        child: Child = Forked(prepared, list(command), **options)
    else:
        child = Child(list(command), text=True, **options)
    child.limit = limit
    _alive.append(child)
    return child


@functools.cache
def _prepared() -> Prepared:
    return Prepared(ROOT, environment())


def run(command: Sequence[str], *, limit: float = LIMIT, **options: Any) -> Done:
    """Run a command to its end and return what it printed.

    Raises:
        TimeoutExpired: it, or a child that holds its output, took longer than `limit`.
    """
    child = start(command, limit=limit, **options)
    try:
        output, errors = child.communicate()
    finally:
        end(child)
    return Done(list(command), child.returncode, output, errors)


def python(*arguments: str, **options: Any) -> Done:
    """This interpreter with arguments: `python("-m", "cvae")`."""
    return run([sys.executable, *arguments], **options)


def copy(files: Iterable[Path], place: Path) -> None:
    """Copy files and folders by a process of its own, which a database in use needs.

    Whoever closes a file gives up all POSIX locks that its process has on it: a copy
    made here would take from SQLite those of its open connections, and the next process
    to leave the database would remove the log that they still read.
    """
    place.mkdir(parents=True, exist_ok=True)
    done = run(["cp", "-R", *map(str, files), str(place)])
    assert done.returncode == 0, done.stderr


def end(child: Child, *, grace: float = 0.0) -> None:
    """Kill a child and its process group; with `grace`, SIGTERM so long before."""
    if grace and child.poll() is None:
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(child.pid, signal.SIGTERM)
            child.wait(grace)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    for pipe in (child.stdin, child.stdout, child.stderr):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    if child in _alive:
        _alive.remove(child)


@contextlib.contextmanager
def ended() -> Iterator[None]:
    """End every child that was begun within."""
    before = list(_alive)
    try:
        yield
    finally:
        for child in [child for child in _alive if child not in before]:
            end(child)


def until(condition: Callable[[], object], seconds: float = LIMIT) -> None:
    """Wait for a condition; `seconds` is no claim about speed."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so after {seconds:.0f} s"
        time.sleep(0.01)


def answers(child: Child, address: str, log: Path | None = None) -> None:
    """Wait until a command's server is well; what it said, if it ends instead."""

    def well() -> bool:
        assert child.poll() is None, log.read_text() if log else child.communicate()
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"{address}/health", timeout=5),
        ):
            return True
        return False

    until(well)


def free_port() -> int:
    """A port of 127.0.0.1 below those that Linux gives away by chance, so that nobody
    takes it before the server that it is for; of this process alone."""
    while True:
        port = 10_000 + 97 * next(_ports) % 20_000
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def end_all() -> None:
    """At the end of the session."""
    for child in list(_alive):
        end(child)
    _prepared().end()

"""A process that has torch and MLflow imported, and forks for every command.

The tests start hundreds of commands, and each would spend three seconds of a processor
on the same imports. What is started here is a whole process in all other respects: a
child of pytest with its own session, arguments, folder, environment, standard files,
signals and end. On Linux only, and only if a new interpreter would import the same.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import logging
import os
import runpy
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing import popen_fork
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import IO, Any

IMPORTS = (
    *("cvae.cli.commands", "cvae.loading.loaded", "cvae.sweep.sweep"),
    *("cvae.tracking.publish", "matplotlib.pyplot", "scipy.stats"),
    # what torch and MLflow import when they are first used, and others beside them
    *("torch.fx.experimental.symbolic_shapes", "torch._dynamo", "torch._inductor"),
    *("mlflow.store.tracking.sqlalchemy_store", "PIL.GifImagePlugin", "mlflow.pyfunc"),
)
PACKAGES = ("cvae", "analysis", "benchmarks", "recipe")
READ_AT_START = ("PYTHON", "OMP_", "MKL_", "LC_", "LANG", "XDG_", "HOME", "PATH")
ADOPT = 36  # prctl's PR_SET_CHILD_SUBREAPER: take children whose parent has ended
LIMIT = 300.0  # seconds: no claim about speed, only an end to what hangs
LONGEST = 1 << 20  # bytes of a request


class Prepared:
    """Pytest's end of the process, which is started with the first command."""

    def __init__(self, root: Path, environment: Mapping[str, str]) -> None:
        self.root, self.environment = root, dict(environment)
        self.process: subprocess.Popen[bytes] | None = None

    def covers(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        preexec_fn: object = None,
        **_: Any,
    ) -> bool:
        """Whether a new interpreter would import and read the same."""
        if command[:2] != [sys.executable, "-m"] or preexec_fn is not None:
            return False
        package = command[2].partition(".")[0]
        known = sys.platform == "linux" and package in PACKAGES
        return known and _read(env) == _read(self.environment)

    def start(self, files: tuple[int, int, int], **request: Any) -> int:
        """Fork for a command; its process id. It is this process's own child."""
        if self.process is None:
            self._begin()
        prctl = ctypes.CDLL(None).prctl
        message = json.dumps(request).encode()
        prctl(ADOPT, 1, 0, 0, 0)
        try:
            socket.send_fds(self.socket, [message], list(files))
            return int(self.socket.recv(64))
        finally:
            prctl(ADOPT, 0, 0, 0, 0)

    def _begin(self) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=theirs.fileno(),
                cwd=self.root,
                env=self.environment,
                start_new_session=True,
            )

    def end(self) -> None:
        if self.process is not None:
            self.socket.close()
            self.process.wait()


def _read(env: Mapping[str, str]) -> dict[str, str]:
    return {key: text for key, text in env.items() if key.startswith(READ_AT_START)}


class Child(subprocess.Popen[str]):
    """A process that is waited for `limit` seconds and not for ever."""

    limit = LIMIT

    def wait(self, timeout: float | None = None) -> int:
        return super().wait(self.limit if timeout is None else timeout)

    def communicate(
        self, input: str | None = None, timeout: float | None = None
    ) -> tuple[str, str]:
        return super().communicate(input, self.limit if timeout is None else timeout)


class Forked(Child):
    """A Popen whose process comes from a prepared one."""

    def __init__(self, prepared: Prepared, command: list[str], **options: Any) -> None:
        self.prepared = prepared
        super().__init__(command, text=True, **options)

    def _execute_child(self, args: list[str], *rest: Any) -> None:  # by Popen
        cwd, env, pipes = rest[4], rest[5], rest[9:15]
        files = pipes[0], pipes[3], pipes[5]
        self.pid = self.prepared.start(
            files, arguments=args[2:], cwd=str(cwd), env=dict(env)
        )
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


class ForkedAgain(subprocess.Popen[Any]):
    """What a prepared command starts of this package: the publisher, before torch has
    begun a thread."""

    def _execute_child(self, args: Sequence[str], *rest: Any) -> None:  # by Popen
        if list(args[:2]) != [sys.executable, "-m"] or not args[2].startswith("cvae"):
            super()._execute_child(args, *rest)  # type: ignore[misc]
            return
        pipes = rest[9:15]
        given = [pipes[0], pipes[3], pipes[5]]
        self.pid = os.fork()
        if not self.pid:
            atexit._clear()  # what its parent has yet to do, as to remove its folders
            files = [os.dup(k if own < 0 else own) for k, own in enumerate(given)]
            request = {"arguments": args[2:], "cwd": str(rest[4] or Path.cwd())}
            _become(request | {"env": dict(rest[5] or os.environ)}, files, {})
            os.closerange(3, 1024)
            os._exit(_run_to_its_end())
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


def _forked_worker(process: Any) -> popen_fork.Popen:
    """A worker of a sweep; of its parent's files it has those that it is given alone,
    so that it hears of the parent's end."""
    known = process._target

    def alone(*given: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        kept = {0, 1, 2, *(connection.fileno() for connection in given)}
        for number in set(range(3, 1024)) - kept:
            with contextlib.suppress(OSError):
                os.close(number)
        known(*given)

    process._target = alone
    return popen_fork.Popen(process)


def _run_to_its_end() -> int:
    """The exit code of the module that `sys.argv` names."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in (None, "cvae"):
        logging.getLogger(name).handlers.clear()
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException as error:
        traceback.print_exc()
        code = 130 if isinstance(error, KeyboardInterrupt) else 1
    else:
        code = 0
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    return code


def serve() -> None:
    """Fork until pytest ends; in the forked process, return once it is made ready."""
    before = dict(os.environ)
    for name in IMPORTS:
        importlib.import_module(name)
    set_by_imports = {
        name: text for name, text in os.environ.items() if before.get(name) != text
    }
    gc.freeze()  # else the end of each command would look through all of it
    home = socket.socket(fileno=os.dup(0))
    while True:
        message, files, _, _ = socket.recv_fds(home, LONGEST, 3)
        if not message:
            os._exit(0)
        told, tell = os.pipe()
        between = os.fork()  # its end makes the command pytest's child
        if not between:
            command = os.fork()
            if not command:
                for mine in (home.detach(), told, tell):
                    os.close(mine)
                _become(json.loads(message), files, set_by_imports)
                return
            os.write(tell, str(command).encode())
            os._exit(0)
        os.waitpid(between, 0)
        home.send(os.read(told, 64))
        for mine in (*files, told, tell):
            os.close(mine)


def _become(
    request: dict[str, Any], files: Sequence[int], set_by_imports: dict[str, str]
) -> None:
    """What exec and the start of an interpreter do."""
    os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    if Path.cwd() != Path(request["cwd"]):  # which may have packages of its own
        own = {name for name in PACKAGES if Path(request["cwd"], name).exists()}
        for name in [name for name in sys.modules if name.partition(".")[0] in own]:
            del sys.modules[name]
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(set_by_imports | request["env"])
    sys.argv = request["arguments"]
    sys.path[0] = request["cwd"]
    sys.stdin = _text(0, "r")
    sys.stdout = _text(1, "w")
    sys.stderr = _text(2, "w")
    subprocess.Popen = ForkedAgain  # type: ignore[misc]
    SpawnProcess._Popen = staticmethod(_forked_worker)  # type: ignore
    connection = sys.modules.get("cvae.tracking.connection")
    if connection:  # imported by the process that forks, where its exit is registered
        atexit.register(connection.close_databases)


def _text(number: int, mode: str) -> IO[str]:
    old = (sys.stdin, sys.stdout, sys.stderr)[number]
    lines = 1 if number == 2 or os.isatty(number) else -1
    return os.fdopen(number, mode, lines, old.encoding, old.errors, closefd=False)


if __name__ == "__main__":
    serve()
    os._exit(_run_to_its_end())  # the usual end would look through all of it

"""A child process that serves on a port: free port, first answer, end."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cvae.errors import TrackingError, UsageError

PATIENCE = 10.0  # seconds that the server has to end, once it was asked to


def free_port(host: str, port: int, advice: str) -> int:
    """The port, or any free one for 0.

    Raises:
        UsageError: it is taken, or this machine has no such address; with `advice`.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UsageError(f"{host}:{port}: {error.strerror}; {advice}") from error
        return int(probe.getsockname()[1])


def run(
    command: Sequence[str],
    host: str,
    port: int,
    *,
    environment: Mapping[str, str],
    ready: Callable[[], None],
) -> None:
    """Run the server until Ctrl-C; `ready` is called when it answers.

    Raises:
        TrackingError: it ended by itself.
    """
    own = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    server = subprocess.Popen(command, env=dict(os.environ) | own | dict(environment))
    try:
        while server.poll() is None and not _answers(host, port):
            time.sleep(0.1)
        if server.poll() is None:
            ready()
        code = server.wait()
    except KeyboardInterrupt:
        return
    finally:
        _stop_server(server)
    raise TrackingError(f"MLflow's server ended by itself, with exit code {code}")


def _answers(host: str, port: int) -> bool:
    """Whether the server is up; asked without the proxies of the environment."""
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _stop_server(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(PATIENCE)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        server.kill()

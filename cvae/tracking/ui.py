"""MLflow's web UI over the runs: the server started, its links printed last."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

from cvae.errors import TrackingError, UsageError
from cvae.tracking.store import Store

PATIENCE = 10.0  # seconds that the server has to end, once it was asked to


def serve(runs: Path, host: str, port: int) -> None:
    """Run the UI until Ctrl-C; of a store on a server, only print where its pages are.

    Raises:
        TrackingError: the store cannot be used, or the UI's server ended by itself.
        UsageError: nothing can listen on this host and port.
    """
    store = Store(runs)
    if not store.local and store.uri.startswith("http"):
        url = urlsplit(store.address)
        _print_links(store, f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}")
        return
    port = _free(host, port)
    server = subprocess.Popen(_command(host, port), env=_environment(store))
    try:
        while server.poll() is None and not _answers(host, port):
            time.sleep(0.1)
        if server.poll() is None:
            shown = f"[{host}]" if ":" in host else host
            print("MLflow (Ctrl-C ends it)")
            _print_links(store, f"http://{shown}:{port}")
        code = server.wait()
    except KeyboardInterrupt:
        return
    finally:
        _end(server)
    raise TrackingError(f"MLflow's server ended by itself, with exit code {code}")


def _print_links(store: Store, address: str) -> None:
    pages = store.pages(address) or {"no runs yet": address}
    for name, page in pages.items():
        print(f"  {name}: {page}", flush=True)


def _free(host: str, port: int) -> int:
    """The port, or any free one for 0.

    Raises:
        UsageError: it is taken, or this machine has no such address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UsageError(
                f"{host}:{port}: {error.strerror}; if MLflow runs there already, open "
                "it, or take any free port: make ui PORT=0"
            ) from error
        return int(probe.getsockname()[1])


def _command(host: str, port: int) -> list[str]:
    """The server with one worker.

    uvicorn says nothing: neither every page that is read, below which the links would
    be lost, nor the traceback that Ctrl-C means to it. MLflow logs its errors itself.
    """
    words = ["ui", "--host", host, "--port", str(port), "--workers", "1"]
    quiet = ["--uvicorn-opts", "--log-level critical"]
    return [sys.executable, "-m", "mlflow", *words, *quiet]


def _environment(store: Store) -> dict[str, str]:
    """The store's address is passed here: it may hold a password."""
    own = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # two processes, not ten
        "MLFLOW_BACKEND_STORE_URI": store.address,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    return dict(os.environ) | own


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


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(PATIENCE)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        server.kill()

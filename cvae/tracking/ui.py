"""MLflow's web UI over the runs: the server started, its links printed last."""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import urlsplit

from cvae.tracking import server
from cvae.tracking.store import Store

TAKEN = "if MLflow runs there already, open it, or take any free port: make ui PORT=0"


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
    port = server.free_port(host, port, TAKEN)

    def ready() -> None:
        shown = f"[{host}]" if ":" in host else host
        print("MLflow (Ctrl-C ends it)")
        _print_links(store, f"http://{shown}:{port}")

    environment = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # two processes, not ten
        "MLFLOW_BACKEND_STORE_URI": store.address,  # it may hold a password
    }
    command = _server_command(host, port)
    server.run(command, host, port, environment=environment, ready=ready)


def _print_links(store: Store, address: str) -> None:
    pages = store.page_links(address) or {"no runs yet": address}
    for name, page in pages.items():
        print(f"  {name}: {page}", flush=True)


def _server_command(host: str, port: int) -> list[str]:
    """The server with one worker.

    uvicorn says nothing: neither every page that is read, below which the links would
    be lost, nor the traceback that Ctrl-C means to it. MLflow logs its errors itself.
    """
    words = ["ui", "--host", host, "--port", str(port), "--workers", "1"]
    quiet = ["--uvicorn-opts", "--log-level critical"]
    return [sys.executable, "-m", "mlflow", *words, *quiet]

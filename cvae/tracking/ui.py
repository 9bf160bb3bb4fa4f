"""MLflow's own servers: its web UI over the runs, and a run's model behind HTTP."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from mlflow.models import Model

from cvae.errors import TrackingError, UsageError
from cvae.run.folder import RunFolder
from cvae.run.published import Published
from cvae.tracking import logged_model
from cvae.tracking.address import sqlite_uri
from cvae.tracking.connection import MlflowException, clear_errors
from cvae.tracking.publish import Tracker
from cvae.tracking.store import Store

ALIAS = "served"


def serve(runs: Path, host: str, port: int) -> None:
    """Run the UI until Ctrl-C; of a store on a server, only print where its pages are.

    Raises:
        TrackingError: the store cannot be used, or the UI's server ended by itself.
        UsageError: something else listens on this port.
    """
    store = Store(runs)
    if not store.local and store.uri.startswith("http"):
        url = urlsplit(store.address)
        _print_links(store, f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}")
        return
    print("MLflow (in some seconds; Ctrl-C ends it)")
    _print_links(store, f"http://{f'[{host}]' if ':' in host else host}:{port}")
    # uvicorn is quiet: each page that is read would push the links off the screen
    words = ["ui", "--workers", "1", "--uvicorn-opts", "--log-level critical"]
    names = ("MLFLOW_BACKEND_STORE_URI", "MLFLOW_REGISTRY_STORE_URI")
    _serve(words, host, port, **dict.fromkeys(names, store.address))


def _print_links(store: Store, address: str) -> None:
    pages = store.page_links(address) or {"no runs yet": address}
    for name, page in pages.items():
        print(f"  {name}: {page}", flush=True)


def serve_model(runs: Path, folder: RunFolder, host: str, port: int) -> None:
    """Answer requests for digits until Ctrl-C, by MLflow's `models serve`.

    The model of a run is published and registered first; a published run's is served
    as it is, without a store.

    Raises:
        TrackingError: the store cannot be used, or the server ended by itself.
    """
    with tempfile.TemporaryDirectory() as place:
        if isinstance(folder, Published):
            address = sqlite_uri(Path(place) / "none.db")
            uri = str(logged_model.save(folder, Path(place), Model()))
        else:
            tracker = Tracker(runs)
            with folder.lock():
                tracker.publish(folder, model=True)
                address, uri = tracker.address, register(tracker, folder)
        print(f"{folder.name} (in some seconds; Ctrl-C ends it)")
        body = json.dumps({"inputs": logged_model.EXAMPLE})
        header = "'Content-Type: application/json'"
        print(f"  curl http://{host}:{port}/invocations -H {header} -d '{body}'")
        sys.stdout.flush()
        words = ["models", "serve", "--model-uri", uri, "--env-manager", "local"]
        quiet = {"MLFLOW_LOGGING_LEVEL": "WARNING", "UVICORN_LOG_LEVEL": "critical"}
        _serve(words, host, port, MLFLOW_TRACKING_URI=address, **quiet)


def register(tracker: Tracker, folder: RunFolder) -> str:
    """The URI of the registered model, whose alias leads to this run from now on.

    A model has the name of its spec, and a version for each run that was served.
    """
    client, name = tracker.client, folder.spec().name
    with clear_errors(tracker.address):
        model = client.get_logged_model(folder.published["model"]["id"])
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        run = model.source_run_id
        known = client.search_model_versions(f"name = '{name}' and run_id = '{run}'")
        # a store here would look up `models:/…` in the store of the whole process
        source = model.artifact_location if tracker.local else model.model_uri
        if not known:
            id = model.model_id
            known = [client.create_model_version(name, source, run, model_id=id)]
        client.set_registered_model_alias(name, ALIAS, known[0].version)
    return f"models:/{name}@{ALIAS}"


def _serve(words: list[str], host: str, port: int, **environment: str) -> None:
    """Run MLflow's command, with two processes instead of ten, until Ctrl-C.

    Raises:
        TrackingError: it ended by itself.
        UsageError: something else listens on this port.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        if probe.connect_ex((host, port)) == 0:
            raise UsageError(f"{host}:{port}: in use; take another: PORT={port + 1}")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment |= {"PATH": path, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment |= {"PYTHONWARNINGS": "ignore"}  # of MLflow's own packages
    command = [sys.executable, "-m", "mlflow", *words]
    command += ["--host", host, "--port", str(port)]
    server = subprocess.Popen(command, env=os.environ | environment)
    try:
        code = server.wait()
    except KeyboardInterrupt:
        return
    finally:
        server.terminate()
        server.wait()
    raise TrackingError(f"MLflow's server ended by itself, with exit code {code}")

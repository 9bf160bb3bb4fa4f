"""A run's model behind HTTP: registered, named by an alias, served by MLflow."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cvae.run.folder import RunFolder
from cvae.run.published import Published
from cvae.spec.document import dump
from cvae.tracking import server
from cvae.tracking.connection import MlflowException, clear_errors
from cvae.tracking.logged_model import EXAMPLE
from cvae.tracking.publish import Tracker

ALIAS = "served"
EXPERIMENT = "published"  # of runs of results/: among one's own they would be one's own


def serve(runs: Path, folder: RunFolder, host: str, port: int) -> None:
    """Register the model of a finished run and answer requests for digits until Ctrl-C.

    Raises:
        TrackingError: the store cannot be used, or the server ended by itself.
    """
    tracker = Tracker(runs)
    with publishable(folder) as whole, whole.lock():
        tracker.publish(whole, model=True)
        name, version = register(tracker, whole)
    address = f"http://{host}:{port}/invocations"

    def ready() -> None:
        print(f"{name} version {version}, models:/{name}@{ALIAS} (Ctrl-C ends it)")
        print(f"  {address}")
        body = json.dumps({"inputs": EXAMPLE})
        header = "'Content-Type: application/json'"
        print(f"  curl {address} -H {header} -d '{body}'", flush=True)

    command = [sys.executable, "-m", "mlflow", "models", "serve"]
    command += ["--model-uri", f"models:/{name}@{ALIAS}", "--env-manager", "local"]
    command += ["--host", host, "--port", str(port)]
    environment = {
        "MLFLOW_TRACKING_URI": tracker.address,
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "UVICORN_LOG_LEVEL": "critical",  # no line a request
    }
    server.run(command, host, port, environment=environment, ready=ready)


def register(tracker: Tracker, folder: RunFolder) -> tuple[str, str]:
    """Name and version of the registered model, to which the alias leads from now on.

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
        version = (
            known[0]
            if known
            else client.create_model_version(name, source, run, model_id=model.model_id)
        ).version
        client.set_registered_model_alias(name, ALIAS, version)
    return name, str(version)


@contextmanager
def publishable(folder: RunFolder) -> Iterator[RunFolder]:
    """The run's folder; a published one is laid out as such, in `EXPERIMENT`."""
    if not isinstance(folder, Published):
        yield folder
        return
    with tempfile.TemporaryDirectory() as place:
        whole = RunFolder(Path(place) / folder.name)
        spec = folder.spec()
        tracking = spec.tracking.model_copy(update={"experiment": EXPERIMENT})
        whole.figures.mkdir(parents=True)
        spec_text = dump(spec.model_copy(update={"tracking": tracking}))
        (whole.path / "spec.yaml").write_text(spec_text)
        whole.weights.write_bytes(folder.read_weights())
        whole.update(**folder.info)
        for record in folder.records():
            whole.append(record)
        yield whole

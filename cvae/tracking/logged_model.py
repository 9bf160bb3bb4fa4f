"""A run's final weights as MLflow's LoggedModel, with its test figures linked to it.

A model is a folder: `served.py` as its code, the run's spec, facts and weights, and the
package itself, so that it loads where nothing of this project is installed.
"""

from __future__ import annotations

import json
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from unittest import mock

from mlflow.entities import LoggedModel, LoggedModelOutput, Metric
from mlflow.models import Model
from mlflow.models.utils import _save_example

from cvae.run.find import display_name
from cvae.run.folder import RunFolder
from cvae.spec.document import dump
from cvae.spec.identity import flatten
from cvae.tracking.connection import MlflowClient
from cvae.tracking.parts import text

CODE = Path(__file__).with_name("served.py")
EXAMPLE = [{"digit": 5, "num_samples": 16, "seed": 7}]  # of a request
PACKAGE = Path(__file__).parents[1]
NEEDS = ("mlflow", "torch", "numpy", "pydantic", "PyYAML", "safetensors", "pillow")


def publish(client: MlflowClient, folder: RunFolder, run_id: str) -> str:
    """Log the model of a finished run and link its figures, whatever of it is missing.

    Returns:
        The model's id: `models:/<id>` loads it.
    """
    run = client.get_run(run_id)
    experiment, last = run.info.experiment_id, folder.records()[-1]["epoch"]
    query = f"source_run_id = '{run_id}'"
    models = client.search_logged_models([experiment], query)
    model = models[0] if models else _create(client, folder, experiment, run_id)
    name = str(model.model_id)
    if not model.status.is_finalized(model.status):
        with tempfile.TemporaryDirectory() as place:
            saved = save(folder, Path(place), Model(run_id=run_id, model_id=name))
            client.log_model_artifacts(name, str(saved))
        client.finalize_logged_model(name, "READY")
    outputs = run.outputs.model_outputs if run.outputs else []
    if name not in {output.model_id for output in outputs}:
        client.log_outputs(run_id, [LoggedModelOutput(name, last)])
    known = {(one.key, one.timestamp, one.step) for one in model.metrics or ()}
    figures = _figures(folder, run_id, name)
    new = [one for one in figures if (one.key, one.timestamp, one.step) not in known]
    client.log_batch(run_id, metrics=new)  # a figure twice is refused
    return name


def _create(
    client: MlflowClient, folder: RunFolder, experiment: str, run_id: str
) -> LoggedModel:
    return client.create_logged_model(
        experiment,
        re.sub("[/:.%\"']", "_", display_name(folder)),  # which MLflow refuses
        run_id,
        tags={"cvae.id": folder.info["id"], "cvae.uid": folder.info["uid"]},
        params={key: text(value) for key, value in flatten(folder.spec()).items()},
    )


def save(folder: RunFolder, place: Path, facts: Model) -> Path:
    """The model as MLflow keeps it, in a folder of `place`."""
    run, model = place / folder.name, place / "model"
    run.mkdir()
    (run / "spec.yaml").write_text(dump(folder.spec()))
    (run / "run.json").write_text(json.dumps(folder.info))
    (run / "model.safetensors").write_bytes(folder.read_weights())
    with _without_requirements_check():
        import mlflow.pyfunc  # warns of its own types

        mlflow.pyfunc.save_model(
            model,
            mlflow_model=facts,
            python_model=CODE,
            artifacts={"run": str(run)},
            code_paths=[str(PACKAGE)],
            pip_requirements=[f"{n}=={version(n).split('+')[0]}" for n in NEEDS],
        )
    # given to `save_model`, it would load the model and ask it
    _save_example(facts, EXAMPLE, str(model))
    facts.save(str(model / "MLmodel"))
    return model


@contextmanager
def _without_requirements_check() -> Iterator[None]:
    """Without the check whether this environment has what the model needs.

    It does, for its versions are those that are named; but MLflow would read the lists
    of files of every installed package, for a second or two.
    """
    check = "mlflow.utils.environment.warn_dependency_requirement_mismatches"
    with warnings.catch_warnings(), mock.patch(check, create=True):
        warnings.simplefilter("ignore")
        yield


def _figures(folder: RunFolder, run_id: str, model_id: str) -> list[Metric]:
    """Every test figure as a point of the model's, on the test images."""
    data = folder.info["data"]
    about = {"model_id": model_id, "run_id": run_id}
    about |= {"dataset_name": f"{data['name']}-test", "dataset_digest": data["digest"]}
    return [
        Metric(key, value, record["time"], record["epoch"], **about)
        for record in folder.records()
        for key, value in record["metrics"].items()
        if key.startswith("test/")
    ]

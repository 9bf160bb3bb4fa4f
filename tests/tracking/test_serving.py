"""Digits over real HTTP, from the server that `make serve` starts."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch

from cvae.loading.loaded import generate_conditional_samples, load_run
from tests import children
from tests.children import Done
from tests.test_commands import start
from tests.tracking.test_links import answers

pytestmark = pytest.mark.services


def post(address: str, body: Any) -> tuple[int, dict[str, Any]]:
    """Status and JSON of the answer to a body, sent as JSON."""
    header = {"Content-Type": "application/json"}
    request = urllib.request.Request(address, json.dumps(body).encode(), header)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.parametrize("name", ["quickstart", "seed-notebook"])
def test_the_answer_is_the_samples_of_the_run_until_ctrl_c(
    name: str, tmp_path: Path, finished: tuple[Path, Done]
) -> None:
    """Of a run, and of a published one; the printed command can be typed."""
    runs = tmp_path / "runs"
    children.copy(list(finished[0].iterdir()), runs)
    known = load_run(name, runs=runs) if name == "quickstart" else load_run(name)
    chosen = name if name == "quickstart" else str(known.folder.path)
    port = str(children.free_port())
    process = start("serve", "--runs", str(runs), "--run", chosen, "--port", port)
    assert process.stdout is not None
    said = ""
    while "curl" not in said and (line := process.stdout.readline()):
        said += line
    address = re.search(r"http://127\.0\.0\.1:\d+/invocations", said)
    assert address, process.communicate()
    answers(process, f"http://127.0.0.1:{port}/health")

    asked = {"digit": 5, "num_samples": 16, "seed": 7, "pixels": True}
    status, answer = post(address[0], {"inputs": [asked]})
    assert status == 200
    found = torch.tensor(answer["predictions"][0]["pixels"])
    expected = generate_conditional_samples(5, 16, known, 7)
    assert torch.allclose(found, expected, atol=1e-6)
    status, answer = post(address[0], {"inputs": [{"digit": 12}]})
    assert status == 400
    assert "found 12" in answer["message"]
    done = children.run(["/bin/sh", "-c", said.splitlines()[-1]])
    assert len(json.loads(done.stdout)["predictions"][0]["png"]) == 16
    if name == "quickstart":
        assert_it_loads_by_its_alias(runs, tmp_path)

    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "Traceback" not in errors


def assert_it_loads_by_its_alias(runs: Path, elsewhere: Path) -> None:
    """Where nothing of this project is installed."""
    code = (
        "import json, mlflow\n"
        "model = mlflow.pyfunc.load_model('models:/quickstart@served')\n"
        "asked = {'digit': 3, 'num_samples': 2, 'seed': 1, 'pixels': True}\n"
        "print(json.dumps(model.predict([asked])[0].pixels))"
    )
    uri = f"sqlite:///{runs / 'mlflow.db'}"
    environment = children.environment(MLFLOW_TRACKING_URI=uri)
    del environment["PYTHONPATH"]
    done = children.run([sys.executable, "-c", code], cwd=elsewhere, env=environment)
    assert done.returncode == 0, done.stderr
    expected = generate_conditional_samples(3, 2, load_run(runs=runs), 1)
    assert torch.allclose(torch.tensor(json.loads(done.stdout)), expected, atol=1e-6)

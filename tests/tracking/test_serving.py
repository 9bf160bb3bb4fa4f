"""Digits over real HTTP, from the server that `make serve` starts."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from cvae.loading.loaded import LoadedRun, generate_conditional_samples, load_run
from tests import children
from tests.children import Child, Done
from tests.test_commands import cvae, start

pytestmark = pytest.mark.services


class Served(NamedTuple):
    """A running server, its address, what it printed, and the run that it serves."""

    process: Child
    address: str
    said: str
    run: LoadedRun
    runs: Path


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, finished: tuple[Path, Done]
) -> Iterator[Served]:
    runs = tmp_path_factory.mktemp("serving") / "runs"
    children.copy(list(finished[0].iterdir()), runs)
    process = start("serve", "--runs", str(runs), "--port", "0")
    assert process.stdout is not None
    said = ""
    while "curl" not in said and (line := process.stdout.readline()):
        said += line
    address = re.search(r"http://127\.0\.0\.1:\d+/invocations", said)
    assert address, process.communicate()
    yield Served(process, address[0], said, load_run(runs=runs), runs)
    children.end(process)


def post(address: str, body: Any) -> tuple[int, dict[str, Any]]:
    """Status and JSON of the answer to a body, sent as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    header = {"Content-Type": "application/json"}
    request = urllib.request.Request(address, data, header)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_the_answer_is_the_samples_of_the_run(served: Served) -> None:
    asked = {"digit": 5, "num_samples": 16, "seed": 7}
    status, answer = post(
        served.address, {"inputs": [asked, asked | {"pixels": True, "seed": 8}]}
    )
    assert status == 200
    pictures, numbers = answer["predictions"]
    expected = generate_conditional_samples(5, 16, served.run, 7)
    assert len(pictures["png"]) == 16
    for text, image in zip(pictures["png"], expected, strict=True):
        with Image.open(io.BytesIO(base64.b64decode(text))) as picture:
            assert picture.size == (28, 28)
            found = np.asarray(picture, np.float32)
        assert np.abs(found - 255 * image.view(28, 28).numpy()).max() <= 0.5
    others = generate_conditional_samples(5, 16, served.run, 8)
    assert torch.allclose(torch.tensor(numbers["pixels"]), others, atol=1e-6)
    assert (pictures["pixels"], numbers["png"]) == ([], [])


def test_a_bad_request_is_answered_by_400_and_the_reason(served: Served) -> None:
    status, answer = post(served.address, {"inputs": [{"digit": 12}]})
    assert status == 400
    assert "digit must be 0 to 9, found 12" in answer["message"]


def test_what_is_printed_can_be_typed(served: Served) -> None:
    done = children.run(["/bin/sh", "-c", served.said.splitlines()[-1]])
    assert len(json.loads(done.stdout)["predictions"][0]["png"]) == 16


def test_the_model_loads_by_its_alias_where_nothing_of_ours_is_installed(
    served: Served, tmp_path: Path
) -> None:
    code = (
        "import json, mlflow\n"
        "model = mlflow.pyfunc.load_model('models:/quickstart@served')\n"
        "asked = {'digit': 3, 'num_samples': 2, 'seed': 1, 'pixels': True}\n"
        "print(json.dumps(model.predict([asked])[0].pixels))"
    )
    environment = children.environment(
        MLFLOW_TRACKING_URI=f"sqlite:///{served.runs / 'mlflow.db'}"
    )
    del environment["PYTHONPATH"]
    done = children.run([sys.executable, "-c", code], cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    expected = generate_conditional_samples(3, 2, served.run, 1)
    assert torch.allclose(torch.tensor(json.loads(done.stdout)), expected, atol=1e-6)


def test_ctrl_c_ends_it_and_the_port_is_free(served: Served) -> None:
    """The last test of this server; before, a second one is refused its port."""
    port = served.address.split(":")[2].partition("/")[0]
    second = cvae("serve", "--runs", str(served.runs), "--port", port)
    assert second.returncode == 2
    assert "make serve PORT=0" in second.stderr
    os.killpg(served.process.pid, signal.SIGINT)
    _, errors = served.process.communicate()
    assert served.process.returncode == 0, errors
    assert "Traceback" not in errors
    with pytest.raises(urllib.error.URLError, match="refused"):
        urllib.request.urlopen(served.address, timeout=5)

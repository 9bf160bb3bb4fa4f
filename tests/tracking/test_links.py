"""`make ui` and `make serve`: real servers, and the links that they print."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from cvae.loading.loaded import generate_conditional_samples, load_run
from cvae.run.find import display_name, folders
from cvae.tracking import charts
from cvae.tracking.publish import Tracker
from cvae.tracking.store import Store
from tests import children
from tests.children import Done, answers
from tests.made import made_run
from tests.test_commands import cvae, start

if TYPE_CHECKING:  # only `make test-services` installs it
    from playwright.sync_api import Browser


def test_the_ui_prints_its_links_and_runs_until_ctrl_c(
    tmp_path: Path, finished: tuple[Path, Done]
) -> None:
    """A second one is told that the port is in use."""
    shutil.copytree(finished[0], tmp_path / "50% of #1?")
    words = ["ui", "--runs", str(tmp_path / "50% of #1?"), "--port"]
    port = str(children.free_port())
    process = start(*words, port)
    assert process.stdout is not None
    assert "Ctrl-C" in process.stdout.readline()
    link = process.stdout.readline()
    address = f"http://127.0.0.1:{port}"
    assert re.match(rf"  cvae: {address}/#/experiments/\d+/runs", link)
    answers(process, address)
    second = cvae(*words, port)
    assert second.returncode == 2
    assert f"127.0.0.1:{port}: in use" in second.stderr
    os.killpg(process.pid, signal.SIGINT)  # Ctrl-C reaches the whole group
    rest, errors = process.communicate()
    assert process.returncode == 0, errors
    assert rest == ""
    assert "Traceback" not in errors


def test_the_newest_run_is_the_last_link_and_reports_are_no_runs(
    tmp_path: Path, finished: tuple[Path, Done]
) -> None:
    shutil.copy(finished[0] / "mlflow.db", tmp_path)
    tracker = Tracker(tmp_path)
    for place, started in (("new", 2e9), ("old", 1e9)):
        folder = made_run(
            tmp_path, 90, started=started, name=place, tracking__experiment=place
        )
        tracker.publish(folder)
    home = tracker.report_run("old")  # it ended last, but is no run
    assert tracker.report_run("old") == home != tracker.report_run("it's another")
    links = tracker.page_links("http://x")
    assert list(links)[-1] == "new"
    assert {"cvae", "old", "reports"} < set(links)
    ids = [tracker.experiments()[name] for name in ("new", "old", "reports")]
    assert {run.run_id for run in tracker.search(ids, charts.RUNS_ONLY)} == {
        folder.published["run_id"] for folder in folders(tmp_path)
    }


def post(address: str, body: Any) -> tuple[int, dict[str, Any]]:
    """Status and JSON of the answer to a body, sent as JSON."""
    header = {"Content-Type": "application/json"}
    request = urllib.request.Request(address, json.dumps(body).encode(), header)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.services
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
    answers(process, f"http://127.0.0.1:{port}")

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


@pytest.mark.services
def test_the_address_leads_to_the_training_runs(
    browser: Browser, published: Path, tmp_path: Path
) -> None:
    """In a browser that was never here; a sweep's own run and a report's are none."""
    runs, port = tmp_path / "runs", str(children.free_port())
    children.copy(list(published.iterdir()), runs)
    Store(runs).report_run("tests")
    server = start("ui", "--runs", str(runs), "--port", port)
    answers(server, f"http://127.0.0.1:{port}")
    assert server.stdout is not None
    (line,) = itertools.islice((x for x in server.stdout if "  tests: " in x), 1)
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.goto(line.removeprefix("  tests: ").strip())
    page.wait_for_url(re.compile(r"/experiments/\d+/(?!$)"))
    assert re.search(r"/experiments/\d+/runs\b", page.url)
    for folder in folders(runs):
        page.get_by_role("link", name=display_name(folder)).first.wait_for()
    assert not page.get_by_role("link", name="beta", exact=True).count()
    assert not page.get_by_role("link", name="report").count()
    # the GenAI side of the UI calls the same table "Training runs"
    page.get_by_role("heading", name="Runs", exact=True).wait_for()
    page.close()

"""`make ui`: a real server, and the links that it prints."""

from __future__ import annotations

import os
import re
import shutil
import signal
import urllib.request
from pathlib import Path

from cvae.run.find import folders
from cvae.tracking import charts
from cvae.tracking.publish import Tracker
from tests import children
from tests.children import Child, Done
from tests.made import made_run
from tests.test_commands import cvae, start


def answers(process: Child, address: str) -> None:
    """Wait until the server of a command answers at its address."""

    def answered() -> bool:
        assert process.poll() is None, process.communicate()
        try:
            with urllib.request.urlopen(address, timeout=60) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    children.until(answered)


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
    answers(process, f"{address}/health")
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

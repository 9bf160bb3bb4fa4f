"""`make ui`: a real server, and the links that it prints."""

from __future__ import annotations

import os
import re
import shutil
import signal
import urllib.request
from pathlib import Path

import pytest

from cvae.errors import TrackingError
from cvae.run.find import folders
from cvae.tracking import charts, server, ui
from cvae.tracking.publish import Tracker
from cvae.tracking.store import Store
from tests.children import Done
from tests.made import made_run
from tests.test_commands import cvae, start


@pytest.mark.parametrize("name", ["runs", "50% of #1?"])
def test_the_link_is_printed_last_when_the_server_answers(
    name: str, tmp_path: Path, finished: tuple[Path, Done]
) -> None:
    """And Ctrl-C ends it; a second one on its port says which command takes another."""
    shutil.copytree(finished[0], tmp_path / name)
    runs = ["--runs", str(tmp_path / name)]
    process = start("ui", *runs, "--port", "0")
    assert process.stdout is not None
    pattern = re.compile(r"  cvae: (http://127\.0\.0\.1:(\d+))/#/experiments/\d+/")
    link = None
    while (line := process.stdout.readline()) and not (link := pattern.match(line)):
        pass
    assert link, process.communicate()
    with urllib.request.urlopen(f"{link[1]}/health", timeout=60) as answer:
        assert answer.status == 200

    second = cvae("ui", *runs, "--port", link[2])
    assert second.returncode == 2
    assert f"127.0.0.1:{link[2]}: Address already in use" in second.stderr
    assert second.stderr.endswith("make ui PORT=0\n")  # as this test began
    assert second.stdout == ""

    os.killpg(process.pid, signal.SIGINT)  # Ctrl-C reaches the whole group
    rest, errors = process.communicate()
    assert process.returncode == 0, errors
    assert rest == ""
    assert "Traceback" not in errors
    server.free_port("127.0.0.1", int(link[2]), "")


def test_a_server_that_ends_by_itself_is_an_error(
    tmp_path: Path, finished: tuple[Path, Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(finished[0] / "mlflow.db", tmp_path)
    monkeypatch.setattr(
        ui, "_server_command", lambda host, port: ["/bin/sh", "-c", "exit 7"]
    )
    with pytest.raises(TrackingError, match="with exit code 7"):
        ui.serve(tmp_path, "127.0.0.1", 0)


def test_the_experiment_of_the_newest_run_is_the_last_link(
    tmp_path: Path, finished: tuple[Path, Done]
) -> None:
    shutil.copy(finished[0] / "mlflow.db", tmp_path)
    tracker = Tracker(tmp_path)
    for place, started in (("new", 2e9), ("old", 1e9)):
        folder = made_run(
            tmp_path, 90, started=started, name=place, tracking__experiment=place
        )
        tracker.publish(folder)
    tracker.report_run("old")  # it ended last, but is no run
    assert list(tracker.page_links("http://x"))[-1] == "new"
    assert {"cvae", "old", "reports"} < set(tracker.page_links("http://x"))


def test_reports_are_in_no_list_of_runs(
    tmp_path: Path, finished: tuple[Path, Done]
) -> None:
    shutil.copytree(finished[0], tmp_path / "runs")
    store = Store(tmp_path / "runs")
    home = store.report_run("cvae")
    assert store.report_run("cvae") == home != store.report_run("it's another")
    ids = [store.experiments()["cvae"]]
    assert [run.run_id for run in store.search(ids)] == [
        folder.published["run_id"] for folder in folders(tmp_path / "runs")
    ]
    assert home not in [run.run_id for run in store.search(ids, charts.RUNS_ONLY)]

"""The report in a real browser: on its own, and in MLflow's artifact viewer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from analysis import compare, report
from analysis.reading import attach
from analysis.reading.load import load_runs
from cvae.tracking.publish import Tracker
from tests import children
from tests.analysis.test_compare import BOUNDS
from tests.made import made_run
from tests.tracking.test_ui import (
    command,
    page,
    stop,
    wait_for,
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Frame, Page

__all__ = ["page"]
pytestmark = pytest.mark.services

HOSTILE = "<script>window.pwned=1</script><img src=x onerror='window.pwned=2'>"
SHOWN = "[...document.images].filter(i => i.complete && i.naturalWidth).length"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published experiment with scripts in every text, and its report attached."""
    runs = tmp_path_factory.mktemp("report") / "runs"
    for beta, bounds in BOUNDS.items():
        for seed, bound in enumerate(bounds[:2]):
            folder = made_run(
                runs,
                bound,
                objective__beta=beta,
                training__seed=seed,
                tracking__experiment="reported",
                info={"header": f"Question: {HOSTILE}", "command": f"make {HOSTILE}"},
            )
            Tracker(runs).publish(folder)
    loaded = load_runs(experiment="reported", runs=runs)
    files = report.write(compare.compare(loaded), runs / "report", HOSTILE)
    assert "in MLflow" in attach.attach(loaded, files, "report")
    return runs


@pytest.fixture(scope="module")
def server(runs: Path) -> Iterator[str]:
    port = children.free_port()
    log = runs / "ui.log"
    with log.open("w") as output:
        words = command("ui", "--runs", str(runs), "--port", str(port))
        process = children.start(words, output=output, errors=output, limit=1800)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        stop(process)


@pytest.mark.parametrize("width", [390, 1100])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_screen_and_asks_for_nothing(
    runs: Path, browser: Browser, width: int, scheme: str
) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 800},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    page, asked = context.new_page(), list[str]()
    page.on("request", lambda request: asked.append(request.url.partition(":")[0]))
    page.goto((runs / "report" / "report.html").as_uri())
    page.wait_for_function(f"{SHOWN} == 9")
    assert set(asked) <= {"file", "data"}
    assert asked.count("file") == 1
    assert page.evaluate("document.documentElement.scrollWidth") == width
    ink = page.evaluate("getComputedStyle(document.body).color")
    assert (ink == "rgb(230, 230, 230)") == (scheme == "dark")
    assert page.evaluate("window.pwned") is None
    assert "window.pwned" in page.inner_text("body")
    context.close()


def test_it_shows_in_mlflows_artifact_viewer(
    runs: Path, server: str, page: Page
) -> None:
    tracker = Tracker(runs)
    experiment = tracker.client.get_experiment_by_name("reports")
    assert experiment is not None
    query = "tags.`cvae.kind` = 'page'"
    (home,) = tracker.client.search_runs([experiment.experiment_id], query)
    page.goto(
        f"{server}/#/experiments/{experiment.experiment_id}/runs/{home.info.run_id}"
        "/artifacts/report/report.html"
    )
    frame = viewer(page)
    frame.get_by_role("heading", name="Answer").wait_for()
    frame.wait_for_function(f"{SHOWN} == 9")
    assert "99.75 ± 1.06 nats per image (n = 2), the best" in frame.inner_text("body")
    assert frame.evaluate("window.pwned") is None
    page.get_by_text("report.md", exact=True).click()
    page.get_by_role("heading", name="The same again").wait_for()
    assert page.evaluate("window.pwned") is None


def viewer(page: Page) -> Frame:
    """The frame that shows an HTML artifact, sandboxed."""
    element = page.locator("iframe[sandbox]").element_handle()
    assert element is not None
    assert element.get_attribute("sandbox") == "allow-scripts"
    frame = element.content_frame()
    assert frame is not None
    return frame

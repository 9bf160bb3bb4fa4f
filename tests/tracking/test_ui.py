"""What a reader finds in the MLflow UI, in a real browser over two real runs."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from cvae.run.find import display_name, find_run
from cvae.run.folder import RunFolder
from cvae.tracking.store import Store
from tests import children
from tests.test_commands import start
from tests.tracking.test_links import answers

if TYPE_CHECKING:  # only `make test-services` installs it
    from playwright.sync_api import Browser, Locator, Page

pytestmark = pytest.mark.services

NAMES = ("first", "second")
EPOCHS = 2
SPEC = f"""\
name: first
data: {{train_images: 512, validation_images: 128}}
model: {{hidden: [16]}}
training: {{epochs: {EPOCHS}, device: cpu}}
tracking: {{experiment: browser test, images_every: 1}}
"""
MOVED = "([slider, from]) => slider.getAttribute('aria-valuenow') > from"
LOADED = "image => image.complete && image.naturalWidth"


@dataclass(frozen=True)
class UI:
    """A running UI: the address that its command printed, and the runs' folders."""

    address: str
    folders: dict[str, RunFolder]

    @property
    def server(self) -> str:
        return self.address.partition("/#")[0].rstrip("/")

    @property
    def runs_url(self) -> str:
        seen = self.folders["first"].published
        return f"{self.server}/#/experiments/{seen['experiment_id']}/runs"


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UI]:
    place = tmp_path_factory.mktemp("ui")
    runs, spec = place / "runs", place / "spec.yaml"
    spec.write_text(SPEC)
    for name in NAMES:
        cvae("run", str(spec), "--runs", str(runs), "--set", f"name={name}")
    words = ["seeds=2 training.epochs=1 name=swept", "--jobs", "1"]
    cvae("sweep", str(spec), "--runs", str(runs), "--set", *words)
    Store(runs).report_run("browser test")
    folders = {name: find_run(name, runs=runs) for name in NAMES}
    port = str(children.free_port())
    server = start("ui", "--runs", str(runs), "--port", port)
    answers(server, f"http://127.0.0.1:{port}/health")
    assert server.stdout is not None
    for line in server.stdout:
        if line.startswith("  browser test: "):
            break
    yield UI(line.removeprefix("  browser test: ").strip(), folders)
    children.end(server, grace=10)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of a browser that was never here before."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    context.set_default_timeout(20_000)
    yield context.new_page()
    context.close()


def test_address_leads_to_training_runs(ui: UI, page: Page) -> None:
    page.goto(ui.address)
    page.wait_for_url(re.compile(r"/experiments/\d+/(?!$)"))
    assert re.search(r"/experiments/\d+/runs\b", page.url), (
        f"the experiment opens on {page.url}, not on its runs"
    )
    for name in NAMES:
        page.get_by_role("link", name=display_name(ui.folders[name])).first.wait_for()
    page.get_by_role("link", name="swept seed=1").first.wait_for()
    assert not page.get_by_role("link", name="swept", exact=True).count()
    assert not page.get_by_role("link", name="report").count()
    # the GenAI side of the UI calls the same table "Training runs"
    page.get_by_role("heading", name="Runs", exact=True).wait_for()


def test_image_grid_compares_runs(ui: UI, page: Page) -> None:
    page.goto(f"{ui.runs_url}?compareRunsMode=CHART&workflowType=machine_learning")
    page.get_by_placeholder("Search metric charts").fill("digits")
    card = page.get_by_test_id("experiment-view-compare-runs-card").filter(
        has_text="digits"
    )
    slider = card.get_by_role("slider").first
    slider.wait_for()
    for step in range(1, EPOCHS + 1):
        while (now := int(slider.get_attribute("aria-valuenow") or 0)) < step:
            slider.press("ArrowRight")
            page.wait_for_function(MOVED, arg=[slider.element_handle(), now])
        for name in NAMES:
            run_id = ui.folders[name].published["run_id"]
            image = card.locator(f"img[src*='{run_id}'][src*='step%2B{step}%2B']")
            assert eventually(image, LOADED), f"no image of {name} at step {step}"


def eventually(element: Locator, script: str) -> int:
    """What `script` says of the element, asked again until it is not zero."""
    element.wait_for(state="attached")
    deadline = time.monotonic() + 20
    while not (value := int(element.evaluate(script))):
        assert time.monotonic() < deadline, f"{element} never loaded"
        time.sleep(0.1)
    return value


def cvae(*arguments: str) -> None:
    done = children.python("-m", "cvae", *arguments)
    assert done.returncode == 0, done.stderr

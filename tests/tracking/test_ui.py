"""What a reader finds in the MLflow UI, in a real browser over two real runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from cvae.run.find import display_name, find_run
from cvae.run.folder import RunFolder
from cvae.tracking.store import Store
from tests import children
from tests.children import answers
from tests.test_commands import start

if TYPE_CHECKING:  # only `make test-services` installs it
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.services

NAMES = ("first", "second")
SPEC = """\
name: first
data: {train_images: 512, validation_images: 128}
model: {hidden: [16]}
training: {epochs: 1, device: cpu}
tracking: {experiment: browser test}
"""


@pytest.fixture(scope="module")
def ui(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[str, dict[str, RunFolder]]]:
    """The address that a running UI printed, and the folders of two runs."""
    place = tmp_path_factory.mktemp("ui")
    runs, spec = place / "runs", place / "spec.yaml"
    spec.write_text(SPEC)
    for name in NAMES:
        cvae("run", str(spec), "--runs", str(runs), "--set", f"name={name}")
    words = ["seeds=2 name=swept", "--jobs", "1"]
    cvae("sweep", str(spec), "--runs", str(runs), "--set", *words)
    Store(runs).report_run("browser test")
    folders = {name: find_run(name, runs=runs) for name in NAMES}
    port = str(children.free_port())
    server = start("ui", "--runs", str(runs), "--port", port)
    answers(server, f"http://127.0.0.1:{port}")
    assert server.stdout is not None
    for line in server.stdout:
        if line.startswith("  browser test: "):
            break
    yield line.removeprefix("  browser test: ").strip(), folders
    children.end(server, grace=10)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of a browser that was never here before."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    context.set_default_timeout(20_000)
    yield context.new_page()
    context.close()


def test_address_leads_to_training_runs(
    ui: tuple[str, dict[str, RunFolder]], page: Page
) -> None:
    address, folders = ui
    page.goto(address)
    page.wait_for_url(re.compile(r"/experiments/\d+/(?!$)"))
    assert re.search(r"/experiments/\d+/runs\b", page.url), (
        f"the experiment opens on {page.url}, not on its runs"
    )
    for name in NAMES:
        page.get_by_role("link", name=display_name(folders[name])).first.wait_for()
    page.get_by_role("link", name="swept seed=1").first.wait_for()
    assert not page.get_by_role("link", name="swept", exact=True).count()
    assert not page.get_by_role("link", name="report").count()
    # the GenAI side of the UI calls the same table "Training runs"
    page.get_by_role("heading", name="Runs", exact=True).wait_for()


def cvae(*arguments: str) -> None:
    done = children.python("-m", "cvae", *arguments)
    assert done.returncode == 0, done.stderr

"""A real browser, for the tests and pictures of pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # only `make test-services` installs it
    from playwright.sync_api import Browser, Page

CHROMIUM = "--no-sandbox --disable-gpu --disable-background-networking --no-first-run"


@contextmanager
def launched() -> Iterator[Browser]:
    """Chromium; the test fails where it or playwright is missing."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.fail("no Chromium on PATH: sudo apt-get install chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.fail("no playwright: `make test-services` installs it")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=CHROMIUM.split()
        )
        yield browser
        browser.close()


def stroke(page: Page, places: Sequence[tuple[float, float]]) -> None:
    """Draw with the mouse from place to place, in pixels of the window."""
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=4)
    page.mouse.up()

"""docs/explorer.png: the page in docs, a digit drawn on it, as README shows it.

python -m tests.analysis.explorer_picture
"""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

from cvae.run.files import write_atomic
from tests.browser import launched, stroke

STROKE = (
    *((0.3, 0.25), (0.45, 0.17), (0.62, 0.2), (0.68, 0.32), (0.6, 0.44), (0.45, 0.48)),
    *((0.62, 0.52), (0.7, 0.66), (0.6, 0.8), (0.44, 0.84), (0.28, 0.76)),
)
WIDTH = 1080  # of the window


def write(page: Page, out: Path) -> None:
    box = page.locator("#pad").bounding_box()
    assert box
    places = [
        (box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in STROKE
    ]
    stroke(page, places)
    page.locator("tr.best").wait_for(timeout=120_000)
    page.locator("#picture").evaluate("() => document.activeElement.blur()")
    first, last = (page.locator(name).bounding_box() for name in ("#latent", "#write"))
    assert first
    assert last
    part = {
        "x": first["x"] - 8,
        "y": first["y"] - 8,
        "width": WIDTH - 16,
        "height": last["y"] + last["height"] - first["y"] + 16,
    }
    with Image.open(io.BytesIO(page.screenshot(clip=part, full_page=True))) as picture:
        file = io.BytesIO()
        picture.convert("RGB").save(file, "PNG", optimize=True)
    write_atomic(out, file.getvalue())


def main() -> None:
    with launched() as browser:
        page = browser.new_page(viewport={"width": WIDTH, "height": 2000})
        page.goto(Path("docs/explorer.html").resolve().as_uri())
        page.evaluate("() => explorer.ready")
        write(page, Path("docs/explorer.png"))


if __name__ == "__main__":
    main()

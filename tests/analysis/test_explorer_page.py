"""The explorer in a real browser: its numbers are PyTorch's; it can be played with."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from analysis import explorer
from analysis.reading import packed
from cvae import grids, mixture, mnist
from cvae.evaluation.quadrature import integrate
from cvae.loading.loaded import LoadedRun, load_data, load_run
from cvae.objective import bernoulli_nll
from cvae.priors import gaussian_log_density, sample
from tests.conftest import generator, untrained_run

if TYPE_CHECKING:  # only `make test-services` installs it
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.services

LEVEL = 1 / 255
NATS = 0.01
READY = "async () => { await explorer.ready; }"
DECODED = """asked => asked.map(([u, y]) =>
  Array.from(explorer.model.decodeAt(u, y), logit => 1 / (1 + Math.exp(-logit))))"""
ENCODED = """([k, y]) => { const q = explorer.model.encode(explorer.images[k], y);
  return [Array.from(q.mu), Array.from(q.sigma)]; }"""
EVIDENCE = """async ([k, y]) =>
  (await explorer.quadrature.evidence(explorer.images[k], y)).logP"""
SAMPLED = """async ([k, y]) => (await explorer.importanceSampled(
  explorer.model, explorer.images[k], y, explorer.noise)).logP"""


@pytest.fixture
def opened(browser: Browser) -> Iterator[Page]:
    """A page that fails the test if its script fails or it asks for anything."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page, wrong = context.new_page(), list[str]()
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda line: wrong.append(line.text))
    page.on("request", lambda request: wrong.append(request.url))
    page.set_default_timeout(30_000)
    yield page
    context.close()
    assert [line for line in wrong if not line.startswith("file:")] == []


def show(page: Page, file: Path, fragment: str = "#z=0,0&digit=5") -> None:
    """The page at a place of its own: without one, a test image is on its pad."""
    page.goto(f"file://{file}{fragment}")
    page.evaluate(READY)


def rounded(run: LoadedRun) -> LoadedRun:
    """The run with its weights as the page has them."""
    with torch.no_grad():
        for layer in run.model.modules():
            if isinstance(layer, nn.Linear):
                halves = packed.rounded(layer.weight)
                layer.weight.copy_(torch.from_numpy(halves.astype(np.float32)))
    return run


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedRun, Path]:
    """The published run, as the page in docs has it, and that page."""
    return rounded(load_run("seed-notebook")), Path("docs/explorer.html").resolve()


def made(root: Path, **fields: Any) -> tuple[LoadedRun, Path]:
    """An untrained run with large weights and any prior; its page."""
    run = untrained_run(root, scale=1.5, model__hidden=[24, 16], **fields)
    if run.model.prior_table is not None and not run.model.is_mixture:
        torch.nn.init.normal_(run.model.prior_table, generator=generator(1))
    if run.model.is_mixture:
        size = run.model.latent_dim
        z = torch.randn(600, size, generator=generator(2)) @ torch.randn(
            size, size, generator=generator(3)
        )
        table = mixture.fit(z + 0.5, torch.arange(600) % 10, generator(4))
        run.model.set_mixture(table)
    page = root / "page.html"
    page.write_text(explorer.page(run))
    return rounded(run), page


KINDS: dict[str, dict[str, Any]] = {
    "gelu mixture 2": {
        "model__activation": "gelu",
        "model__prior": "mixture",
    },
    "relu mixture 5": {"model__latent_dim": 5, "model__prior": "mixture"},
    "relu learned 1": {"model__latent_dim": 1, "model__prior": "learned"},
}


@pytest.fixture(scope="module", params=["published", *KINDS])
def shown(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[LoadedRun, Path]:
    if request.param == "published":
        found: tuple[LoadedRun, Path] = request.getfixturevalue("published")
        return found
    return made(tmp_path_factory.mktemp("kind"), **KINDS[request.param])


@torch.no_grad()
def decoded(run: LoadedRun, u: Tensor, y: Tensor) -> Tensor:
    return grids.digits(run.model, run.model.prior.unwhiten(u, y), y)


@torch.no_grad()
def test_pixels_and_posteriors_are_pytorchs(
    shown: tuple[LoadedRun, Path], opened: Page
) -> None:
    run, file = shown
    show(opened, file)
    u = 1.5 * torch.randn(200, run.model.latent_dim, generator=generator(5))
    y = torch.arange(200) % 10
    asked = [[one.tolist(), int(label)] for one, label in zip(u, y, strict=True)]
    there = torch.tensor(opened.evaluate(DECODED, asked))
    assert float((there - decoded(run, u, y)).abs().max()) < LEVEL
    x = images(run)
    for k in range(0, len(x), 5):
        y = torch.tensor([(k + 3) % 10])
        mu, logvar = run.model.encode(x[k : k + 1], y)
        there = torch.tensor(opened.evaluate(ENCODED, [k, int(y)]))
        expected = torch.stack([mu[0], torch.exp(0.5 * logvar[0])])
        torch.testing.assert_close(there, expected, rtol=1e-4, atol=1e-4)


def images(run: LoadedRun) -> Tensor:
    """The images of the page (40, D) in [0, 1]."""
    test = load_data(run.spec, run.folder).test
    return test.images[explorer._example_rows(test.labels.numpy())] / 255


def test_label_scores_are_the_integral_over_z(
    shown: tuple[LoadedRun, Path], opened: Page
) -> None:
    """By quadrature; by the same draws where z has more than two dimensions."""
    run, file = shown
    if run.model.latent_dim > 2:
        return sampled_scores(run, file, opened)
    show(opened, file)
    every = 8
    x = images(run)[::every]
    y = 1  # most of the images are no 1: their posteriors are narrow and far out
    there = [opened.evaluate(EVIDENCE, [every * k, y]) for k in range(len(x))]
    data = mnist.Images((255 * x).round().byte(), torch.full((len(x),), y))
    expected = integrate(run.model, data).log_p.tolist()
    assert there == pytest.approx(expected, abs=NATS, rel=0)
    return None


@torch.no_grad()
def sampled_scores(run: LoadedRun, file: Path, opened: Page) -> None:
    """The same draws in PyTorch, by the estimator of cvae/likelihood.py."""
    show(opened, file)
    x, model = images(run), run.model
    noise = torch.from_numpy(
        np.frombuffer(explorer._noise(model.latent_dim), "<f4").copy()
    ).view(explorer.DRAWS, 1, model.latent_dim)
    for k in range(0, len(x), 3):
        for label in (0, 4, 8):
            y, image = torch.tensor([label]), x[k : k + 1]
            q = model.encode(image, y)
            z = sample(q, noise)
            logs = model.prior.log_density(z, y) - gaussian_log_density(z, q)
            logs = logs - bernoulli_nll(model.decode(z, y), image)
            expected = torch.logsumexp(logs.double(), 0) - math.log(len(noise))
            there = opened.evaluate(SAMPLED, [k, label])
            assert there == pytest.approx(float(expected), abs=NATS)


# -- what a visitor does ---------------------------------------------------------------

TILES = """() => [...document.querySelectorAll("#ten canvas")].map(canvas =>
  Array.from(canvas.getContext("2d").getImageData(0, 0, 28, 28).data)
    .filter((_, i) => i % 4 === 0))"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedRun, Path]:
    """A page of small networks, a plain twin beside them: it answers at once."""
    root = tmp_path_factory.mktemp("small")
    run = untrained_run(root, scale=1.5, model__hidden=[16])
    twin = untrained_run(root, model__hidden=[16], model__conditional=False)
    page = root / "page.html"
    page.write_text(explorer.page(run, twin))
    return rounded(run), page


def test_dragging_the_point_draws_all_ten_digits_anew(
    small: tuple[LoadedRun, Path], opened: Page
) -> None:
    run, file = small
    show(opened, file)
    box = opened.locator("#plane").bounding_box()
    assert box
    before = opened.evaluate("explorer.frames")
    opened.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    opened.mouse.down()
    opened.mouse.move(
        box["x"] + 0.75 * box["width"], box["y"] + 0.4 * box["height"], steps=5
    )
    opened.mouse.up()
    opened.evaluate(  # two frames later everything that was asked for is drawn
        "() => new Promise(done => requestAnimationFrame("
        "() => requestAnimationFrame(() => setTimeout(done, 300))))"
    )
    edge = opened.evaluate("facts.edge")
    u = opened.evaluate("Array.from(explorer.state.u)")
    assert u == pytest.approx([0.5 * edge, 0.2 * edge], abs=0.05)
    assert opened.evaluate("explorer.frames") > before
    z = torch.tensor(u).expand(10, -1)
    expected = 255 * (1 - decoded(run, z, torch.arange(10)))  # black ink on white
    shown = torch.tensor(opened.evaluate(TILES))
    assert float((shown - expected).abs().max()) <= 1  # half a level of it by rounding


DRAWN = """() => {
  const x = explorer.looked.x; let [m, a, b] = [0, 0, 0]; const rows = new Set();
  x.forEach((v, i) => { m += v; a += v * (i % 28); b += v * Math.floor(i / 28);
    if (v) rows.add(Math.floor(i / 28)); });
  return { middle: [a / m, b / m], rows: rows.size, label: explorer.looked.y }; }"""


def test_a_drawn_digit_is_centred_as_mnist_is_and_recognised(
    published: tuple[LoadedRun, Path], opened: Page
) -> None:
    """The longer side is 20 pixels, the centre of mass pixel 14, to half a pixel."""
    show(opened, published[1])
    opened.locator("#pad").scroll_into_view_if_needed()
    box = opened.locator("#pad").bounding_box()
    assert box
    strokes = {
        1: [(0.3, 0.1), (0.28, 0.5)],  # small, and in a corner
        7: [(0.2, 0.2), (0.8, 0.2), (0.45, 0.9)],
        0: [(0.5, 0.1), (0.2, 0.4), (0.4, 0.9), (0.8, 0.6), (0.75, 0.2), (0.5, 0.1)],
    }
    for digit, path in strokes.items():
        opened.get_by_role("button", name="Clear").click()
        places = [
            (box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in path
        ]
        opened.mouse.move(*places[0])
        opened.mouse.down()
        for place in places[1:]:
            opened.mouse.move(*place, steps=4)
        opened.mouse.up()
        found = opened.evaluate(DRAWN)
        assert found["middle"] == pytest.approx([14, 14], abs=0.51)
        assert found["rows"] == pytest.approx(20, abs=1)
        assert found["label"] == digit

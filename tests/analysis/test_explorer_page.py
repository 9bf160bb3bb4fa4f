"""The explorer in a real browser: its numbers are PyTorch's; it can be played with."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from analysis import explorer
from analysis.reading import packed
from cvae import grids, mixture
from cvae.objective import bernoulli_nll
from cvae.priors import gaussian_log_density, sample
from cvae.run.data import load_data
from cvae.samples import Run, load_run
from tests.conftest import generator, untrained_run
from tests.tracking.test_ui import CHROMIUM

if TYPE_CHECKING:  # only `make test-services` installs it
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.services

Array = NDArray[np.float64]
LEVEL = 1 / 255
NATS = 0.01
EDGE = 5.4  # of the page's own grid
READY = "async () => { await explorer.ready; }"
DECODED = """asked => asked.map(([u, y]) =>
  Array.from(explorer.model.decodeAt(u, y), logit => 1 / (1 + Math.exp(-logit))))"""
ENCODED = """([k, y]) => { const q = explorer.model.encode(explorer.images[k], y);
  return [Array.from(q.mu), Array.from(q.sigma)]; }"""
EVIDENCE = """async ([k, y]) =>
  (await explorer.quadrature.evidence(explorer.images[k], y)).logP"""
SAMPLED = """async ([k, y]) => (await explorer.importanceSampled(
  explorer.model, explorer.images[k], y, explorer.noise)).logP"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    assert chromium, "no Chromium on PATH: sudo apt-get install chromium"
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=CHROMIUM.split()
        )
        yield browser
        browser.close()


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


def show(page: Page, file: Path, fragment: str = "") -> None:
    page.goto(f"file://{file}{fragment}")
    page.evaluate(READY)


def rounded(run: Run) -> Run:
    """The run with its weights as the page has them."""
    with torch.no_grad():
        for layer in run.model.modules():
            if isinstance(layer, nn.Linear):
                halves = packed.rounded(layer.weight)
                layer.weight.copy_(torch.from_numpy(halves.astype(np.float32)))
    return run


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """The published run, as the page in docs has it, and that page."""
    return rounded(load_run("seed-notebook")), Path("docs/explorer.html").resolve()


def made(root: Path, **fields: Any) -> tuple[Run, Path]:
    """An untrained run with large weights and any prior; its page."""
    run = untrained_run(root, scale=1.5, model__hidden=[24, 16], **fields)
    if fields.get("model__prior") == "learned":
        assert isinstance(run.model.prior_table, nn.Parameter)
        nn.init.normal_(run.model.prior_table, std=0.5, generator=generator(1))
    if fields.get("model__prior") == "mixture":
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
    "tanh learned 2": {
        "model__activation": "tanh",
        "model__prior": "learned",
        "model__label_scale": 4.0,
    },
    "gelu mixture 2": {
        "model__activation": "gelu",
        "model__prior": "mixture",
    },
    "relu mixture 5": {"model__latent_dim": 5, "model__prior": "mixture"},
    "silu standard 3": {"model__activation": "silu", "model__latent_dim": 3},
    "relu standard 1": {"model__latent_dim": 1},
}


@pytest.fixture(scope="module", params=["published", *KINDS])
def shown(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Run, Path]:
    if request.param == "published":
        found: tuple[Run, Path] = request.getfixturevalue("published")
        return found
    return made(tmp_path_factory.mktemp("kind"), **KINDS[request.param])


@torch.no_grad()
def decoded(run: Run, u: Tensor, y: Tensor) -> Tensor:
    return grids.digits(run.model, run.model.prior.unwhiten(u, y), y)


def test_pixels_are_pytorchs_to_a_grey_level(
    shown: tuple[Run, Path], opened: Page
) -> None:
    run, file = shown
    show(opened, file)
    u = 1.5 * torch.randn(200, run.model.latent_dim, generator=generator(5))
    y = torch.arange(200) % 10
    asked = [[one.tolist(), int(label)] for one, label in zip(u, y, strict=True)]
    there = torch.tensor(opened.evaluate(DECODED, asked))
    assert float((there - decoded(run, u, y)).abs().max()) < LEVEL


@torch.no_grad()
def test_the_encoder_is_pytorchs(shown: tuple[Run, Path], opened: Page) -> None:
    run, file = shown
    show(opened, file)
    x = images(run)
    for k in range(0, len(x), 5):
        y = torch.tensor([(k + 3) % 10])
        mu, logvar = run.model.encode(x[k : k + 1], y)
        there = torch.tensor(opened.evaluate(ENCODED, [k, int(y)]))
        expected = torch.stack([mu[0], torch.exp(0.5 * logvar[0])])
        torch.testing.assert_close(there, expected, rtol=1e-4, atol=1e-4)


def images(run: Run) -> Tensor:
    """The images of the page (40, D) in [0, 1]."""
    test = load_data(run.spec, run.folder).test
    return test.images[explorer._shown(test.labels.numpy())] / 255


@torch.no_grad()
def log_joint(run: Run, x: Tensor, u: Tensor, y: int) -> Tensor:
    """log p(x, u given y) of u (G, Z) and images x (N, D): (N, G)."""
    model = run.model
    labels = torch.full((len(u),), y)
    z = model.prior.unwhiten(u, labels)
    volume = model.prior.unwhiten(torch.eye(u.shape[1]), torch.full((u.shape[1],), y))
    origin = model.prior.unwhiten(torch.zeros(1, u.shape[1]), torch.tensor([y]))
    logdet = torch.linalg.slogdet(volume - origin)[1]
    logits = model.decode(z, labels).double()
    softplus = torch.nn.functional.softplus(logits).sum(1)
    prior = (model.prior.log_density(z, labels) + logdet).double()
    joint: Tensor = x.double() @ logits.T - softplus + prior
    return joint


def integral(run: Run, x: Tensor, y: int) -> Tensor:
    """log p(x given y) of images (N, D): dense quadrature over the whole plane (N,).

    A point a 0.03, and nine where it matters: within 9 nats of an image's best.
    """
    dims, step = run.model.latent_dim, 0.03
    grid = torch.cartesian_prod(*[torch.arange(-EDGE, EDGE, step)] * dims)
    grid = grid.view(-1, dims)
    joint = torch.cat([log_joint(run, x, part, y) for part in grid.split(4000)], 1)
    parts = torch.cartesian_prod(*[torch.tensor([-1, 0, 1]) * step / 3] * dims)
    totals = []
    for k, logs in enumerate(joint):
        near = logs > logs.max() - 9
        finer = (grid[near][:, None] + parts.view(-1, dims)).flatten(0, 1)
        again = log_joint(run, x[k : k + 1], finer, y)[0] - dims * np.log(3)
        totals.append(torch.logsumexp(torch.cat([logs[~near], again]), 0))
    return torch.stack(totals) + dims * float(np.log(step))


def test_label_scores_are_the_integral_over_z(
    shown: tuple[Run, Path], opened: Page
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
    apart = torch.tensor(there) - integral(run, x, y)
    assert float(apart.abs().max()) < NATS
    return None


@torch.no_grad()
def sampled_scores(run: Run, file: Path, opened: Page) -> None:
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
            expected = torch.logsumexp(logs.double(), 0) - np.log(len(noise))
            there = opened.evaluate(SAMPLED, [k, label])
            assert there == pytest.approx(float(expected), abs=NATS)

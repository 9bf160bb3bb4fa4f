"""A page to play with a run's latent space: one HTML file, nothing else needed.

    make explorer RUN=seed-notebook AGAINST=plain-vae OUT=docs/explorer.html
    python -m cvae explorer --run quickstart

The page holds the weights and decodes by itself. Its parts lie in analysis/explorer/.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from markupsafe import Markup
from numpy.typing import NDArray

from analysis.reading import latent, packed
from analysis.reading.latent import Posterior
from analysis.templates import render
from cvae.errors import UsageError
from cvae.evaluation.metrics import headline
from cvae.loading.loaded import LoadedRun, load_data, load_run
from cvae.mnist import pixels
from cvae.priors import Standard
from cvae.run.files import write_atomic
from cvae.run.find import display_name

PARTS = Path(__file__).parent / "explorer"
SCRIPTS = (
    *("network", "prior", "posterior", "plane", "drawing", "images", "files"),
    *("looking", "page", "share", "start"),  # the last one begins at once
)
CLOUD = 1500  # test images on the plane
PLAIN = ("mlp", False, "none")  # networks that the page can decode with
PER_DIGIT = 4  # test images of each digit to choose from
DRAWS = 128  # of z for each label, where z has more than two dimensions
TWIN_BITS = 6  # of the twin's weights: one fewer keeps both models under 3 MB
Blocks = dict[str, str]


def page(run: LoadedRun, against: LoadedRun | None = None, again: str = "") -> str:
    """The page of `run` as HTML; the plain VAE `against` stands beside it.

    Args:
        again: the command that writes this page.

    Raises:
        UsageError: a run is of the wrong kind. DataError: its data cannot be read.
    """
    _check(run, against)
    posterior = latent.encode(run)
    shown = _example_rows(posterior.labels)
    images = load_data(run.spec, run.folder).test.images[shown]
    facts = page_facts(run, posterior, again)
    facts["images"] = {"labels": posterior.labels[shown].tolist()}
    blocks: Blocks = {
        **_blocks("", run, posterior, facts["edge"]),
        "encoder": packed.pack(packed.layers(run.model.encoder)),
        "images": packed.pack(images.numpy().tobytes()),
        "noise": packed.pack(_noise(run.model.latent_dim)),
    }
    if against:
        theirs, name = latent.encode(against), display_name(against.folder)
        described = packed.model_facts(against.model, against.spec.model.activation)
        facts["twin"] = {"name": name, **described}
        facts["images"]["twin"] = _posterior_means(against, images)
        blocks |= _blocks("twin-", against, theirs, facts["edge"], TWIN_BITS)
    return _render(run, facts, blocks)


def _check(run: LoadedRun, against: LoadedRun | None) -> None:
    name = run.folder.name
    if not run.model.classes:
        raise UsageError(
            f"{name} is unconditional: it cannot be asked for a digit; name a "
            f"conditional run, and this one beside it: make explorer RUN=… "
            f"AGAINST={name}"
        )
    if against and against.model.classes:
        raise UsageError(
            f"AGAINST={against.folder.name} is conditional: beside a conditional run "
            "stands a plain one, such as AGAINST=plain-vae"
        )
    for each in (run, against) if against else (run,):
        kind = each.spec.model
        if each.model.flow is not None:
            why = "draws from Gaussians and their mixtures, not from model.prior: flow"
        elif (kind.architecture, kind.residual, kind.normalisation) != PLAIN:
            why = "decodes with linear layers: architecture mlp, normalisation none"
        elif not packed.reproduces(each.model, kind.activation):
            why = "decodes by itself, and this model's own encode or decode differs"
        elif each.shape != (28, 28):
            why = f"shows 28 × 28 pixels, and its images are {each.shape}"
        else:
            continue
        raise UsageError(
            f"{each.folder.name}: the explorer's page {why}; name another run"
        )


def _example_rows(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The places of the first `PER_DIGIT` images of each digit, round by round."""
    places = [np.flatnonzero(labels == d)[:PER_DIGIT] for d in np.unique(labels)]
    rounds = itertools.zip_longest(*map(list, places))
    return np.array([at for some in rounds for at in some if at is not None])


def page_facts(run: LoadedRun, posterior: Posterior, again: str) -> dict[str, Any]:
    """All that the page's text and script know besides the blocks."""
    model, kl, order = run.model, posterior.kl.mean(0), posterior.order.tolist()
    farthest = np.quantile(np.abs(posterior.mu), 0.999)
    bound = headline(run.folder.metrics)
    measured = [] if np.isnan(bound) else [f"neg_elbo {bound:.2f} nats per image"]
    return {
        "name": display_name(run.folder),
        "model": packed.model_facts(model, run.spec.model.activation),
        "twin": None,
        "order": order,
        "axes": order[:2] if model.latent_dim > 1 else [0, 1],
        "kl": [f"{kl[i]:.2f}" for i in order],
        "edge": float(np.clip(np.ceil(2 * farthest) / 2, 3.0, 5.0)),
        "cloud": len(_cloud_rows(len(posterior.labels))),
        "binarized": run.spec.data.binarize != "none",
        "footer": " · ".join([run.folder.name, *measured, *[again] * bool(again)]),
    }


def _cloud_rows(count: int) -> NDArray[np.int64]:
    """Which of `count` test images make the cloud: evenly through the set."""
    return np.linspace(0, count - 1, min(count, CLOUD)).astype(np.int64)


def _blocks(
    prefix: str,
    run: LoadedRun,
    posterior: Posterior,
    edge: float,
    bits: int = packed.BITS,
) -> Blocks:
    """Decoder, prior and cloud: what shows the latent space of either model."""
    rows = _cloud_rows(len(posterior.labels))
    axes = posterior.plane if run.model.latent_dim > 1 else [0, 1]
    places = posterior.mu[rows]
    if places.shape[1] == 1:  # the digits one above the other
        lanes = (posterior.labels[rows, None] - 4.5) * edge / 6
        places = np.concatenate([places, lanes], 1)
    quantised = np.round(places[:, axes].clip(-edge, edge) / edge * 32767)
    cloud = np.concatenate([posterior.labels[rows], quantised.ravel()]).astype("<i2")
    return {
        f"{prefix}prior": packed.pack(packed.prior(run.model)[0]),
        f"{prefix}decoder": packed.pack(packed.layers(run.model.decoder, bits)),
        f"{prefix}cloud": packed.pack(cloud.tobytes()),
    }


def _noise(latent_dim: int) -> bytes:
    """Standard normal draws (DRAWS, Z), float32, the same on every page."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(DRAWS, latent_dim, generator=generator).numpy().tobytes()


@torch.no_grad()
def _posterior_means(run: LoadedRun, images: torch.Tensor) -> list[list[float]]:
    """The plain model's posterior means of images."""
    mu, _ = run.model.encode(pixels(images), torch.zeros(len(images), dtype=torch.long))
    return [[round(value, 4) for value in row] for row in mu.tolist()]


def _render(run: LoadedRun, facts: dict[str, Any], blocks: Blocks) -> str:
    def part(name: str) -> Markup:
        return Markup((PARTS / name).read_text(encoding="utf-8"))

    content = {
        "facts": facts,
        "blocks": blocks,
        "standard": isinstance(run.model.prior, Standard),
        "draws": DRAWS,
        "json": Markup(json.dumps(facts).replace("<", "\\u003c")),
        "style": part("style.css"),
        "script": Markup("\n").join(part(f"{name}.js") for name in SCRIPTS),
    }
    return render("explorer/page.html.j2", content)


def main(
    run: str | None, against: str, out: Path | None, attach: bool, runs: Path
) -> None:
    """`make explorer`."""
    loaded = load_run(run, runs=runs)
    plain = load_run(against, runs=runs) if against else None
    file = _file(out or Path("reports") / loaded.folder.name)
    twin = f" AGAINST={plain.folder.name}" if plain else ""
    text = page(loaded, plain, f"make explorer RUN={loaded.folder.name}{twin}")
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, text.encode())
    print(f"{file}: {file.stat().st_size / 1e6:.2f} MB; open it in a browser")
    if attach:
        from analysis.reading.attach import attach_to_run

        print(attach_to_run(loaded, runs, [file], "figures"))


def _file(out: Path) -> Path:
    """`out` itself if it ends in .html, or explorer.html in the folder `out`."""
    if out.suffix.lower() in (".html", ".htm"):
        return out
    if out.suffix and not out.is_dir():
        raise UsageError(f"OUT={out}: the explorer is an HTML page; end it in .html")
    return out / "explorer.html"

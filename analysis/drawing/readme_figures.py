"""The figures of the README and of docs/results.md, each with its caption.

The sizes of all PNGs together stay under 3 MB.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from numpy.typing import NDArray
from torch import Tensor

from analysis import compare
from analysis.comparing.sentences import shown_digits, verdicts
from analysis.comparing.settings import Comparison
from analysis.drawing import latent_plates, plots, style
from analysis.drawing.plates import Panel, Plate, mosaic
from analysis.reading import latent
from analysis.reading.latent import Posterior
from analysis.reading.load import load_runs
from analysis.reading.needed import Needed
from analysis.templates import caption
from cvae import grids
from cvae.evaluation.metrics import NATS
from cvae.grids import Picture
from cvae.loading.loaded import LoadedRun, generate_conditional_samples, load_data
from cvae.run.folder import RunFolder

SAMPLES = 16  # of a digit
SQUARE = 8  # rows and columns of a plain model's sheet
BELOW = 50.0  # nats under the lowest bound at the end that a frame has
IMAGES = 2  # test images of each digit that are reconstructed
TWO_AND_TWENTY = ("seed_notebook", "latent_20")  # latent dimensions
PLAIN_TWO_AND_TWENTY = ("plain_vae", "pytorch_example")
PARTS = ("train", "val")


@dataclass(frozen=True)
class Exhibit:
    """What is drawn together, and the specs and sweeps that it is drawn from."""

    needs: tuple[str, ...]
    draw: Callable[[Needed], list[Plate]]


def digits(needed: Needed) -> list[Plate]:
    run = needed.run("seed_notebook")
    images, plate = ten_rows(run, "digits", "each column is one z")
    side = int(SAMPLES**0.5)
    singles = [
        Plate(f"digit_{digit}", grids.sheet([each], side, run.shape), "")
        for digit, each in enumerate(images)
    ]
    return [plate, *singles]


def digits_20(needed: Needed) -> list[Plate]:
    column = "each column is one noise, of which the label's p(z given y) makes a z"
    names = {"latent_20": "digits_20", "best_mlp": "digits_best"}
    return [ten_rows(needed.run(of), name, column)[1] for of, name in names.items()]


def ten_rows(run: LoadedRun, name: str, column: str) -> tuple[list[Tensor], Plate]:
    """Samples of each digit (N, D), and their sheet: a digit a row."""
    images = [generate_conditional_samples(d, SAMPLES, run, seed=0) for d in range(10)]
    name_of, latents = run.folder.name, run.model.latent_dim
    words = caption(
        "ten_rows", count=SAMPLES, run=name_of, latents=latents, column=column
    )
    words += shown_digits(run.folder.metrics)
    return images, Plate(name, grids.sheet(images, SAMPLES, run.shape), words)


def manifolds(needed: Needed) -> list[Plate]:
    drawn = []
    for name, kind in (("seed_notebook", "conditional"), ("plain_vae", "plain")):
        run = needed.run(name)
        posterior = latent.encode(run)
        plane = latent_plates.planes(run, posterior, [])[0]
        points = latent_plates.posterior_means(run, posterior)
        drawn += [
            Plate(f"manifold_{kind}", plane.figure, f"`{name}`. {plane.caption}"),
            Plate(f"posterior_{kind}", points.figure, f"`{name}`. {points.caption}"),
        ]
    return drawn


def reconstructions(needed: Needed) -> list[Plate]:
    panels: list[Panel] = []
    for run in map(needed.run, TWO_AND_TWENTY):
        posterior = latent.encode(run)
        places = shown(posterior)
        if not panels:
            panels.append(Panel("test images", row(posterior.pixels[places], run)))
        bound = run.folder.metrics["test/neg_elbo"]
        size = f"{run.model.latent_dim} latent dimensions, {bound:.1f} nats per image"
        panels.append(Panel(size, restored(run, posterior, places)))
    words = caption("reconstructions", images=IMAGES)
    return [Plate("reconstructions", mosaic(panels, 1), words)]


def denoising(needed: Needed) -> list[Plate]:
    run = needed.run("denoising")
    posterior = latent.encode(run)
    places = shown(posterior)
    clean = load_data(run.spec, run.folder).test.images[places]
    share = f"{100 * run.spec.data.corrupt:g} % of the pixels destroyed"
    panels = [
        Panel("clean", row(clean.numpy() / 255, run)),
        Panel(f"noisy: {share}", row(posterior.pixels[places], run)),
        Panel("restored", restored(run, posterior, places)),
    ]
    nats = run.folder.metrics["test/neg_elbo"]
    words = caption("denoising", images=IMAGES, nats=nats)
    return [Plate("denoising", mosaic(panels, 1), words)]


def plain_samples(needed: Needed) -> list[Plate]:
    """Kingma & Welling 2014, Figure 5."""
    panels, bounds = [], []
    for run in map(needed.run, PLAIN_TWO_AND_TWENTY):
        bounds.append(f"{run.folder.metrics['test/neg_elbo']:.1f}")
        noise = torch.randn(
            SQUARE**2, run.model.latent_dim, generator=torch.Generator().manual_seed(0)
        )
        images = grids.digits(run.model, noise, torch.zeros(SQUARE**2).long())
        name = f"{run.model.latent_dim} latent dim."
        panels.append(Panel(name, grids.sheet([images], SQUARE, run.shape)))
    words = caption("plain_samples", count=SQUARE**2, bounds=bounds)
    return [Plate("plain_samples", mosaic(panels, len(panels)), words)]


def aevb_figure2(needed: Needed) -> list[Plate]:
    """Kingma & Welling 2014, Figure 2: the bound, higher is better, as they draw it."""
    sizes = _by_value(needed, "aevb_figure2", "model.latent_dim", "{} dim.")
    words = caption("aevb_figure2", apart=overfitting(sizes))
    return [Plate("aevb_figure2", learning_curves(sizes, {}), words)]


def aevb_figure3(needed: Needed) -> list[Plate]:
    """Kingma & Welling 2014, Figure 3: few and all training images, the same steps."""
    images = _by_value(needed, "aevb_figure3", "data.train_images", "{:,} images")
    samples = needed.plan("aevb_figure3").variants[0].spec.evaluation.importance_samples
    at_end = {f"nll_is{samples}": f"log p(x), {samples} samples"}
    words = caption("aevb_figure3", samples=samples, apart=overfitting(images))
    return [Plate("aevb_figure3", learning_curves(images, at_end), words)]


def overfitting(settings: Mapping[str, Sequence[RunFolder]]) -> list[str]:
    """How much more held-out images cost than training images, by setting."""
    apart = []
    for name, folders in settings.items():
        ends = [-histories(folders, f"{part}/neg_elbo")[1][:, -1] for part in PARTS]
        nats = f"{ends[1].mean() - ends[0].mean():.1f}".replace("-", "−")
        apart.append(f"{nats} ({name})")
    return apart


def _by_value(
    needed: Needed, sweep: str, key: str, name: str
) -> dict[str, list[RunFolder]]:
    """The runs of a sweep by the value of a swept field, written as `name`."""
    settings: dict[str, list[RunFolder]] = {}
    for swept, folder in needed.children(sweep):
        settings.setdefault(name.format(swept[key]), []).append(folder)
    return settings


def learning_curves(
    settings: Mapping[str, Sequence[RunFolder]], at_end: Mapping[str, str]
) -> Figure:
    """The bounds of plain VAEs while they learn, a panel a setting.

    `at_end`: test metrics to be marked at the end, beside the bound, with their names.
    """
    drawn = style.figure(3.0)
    panels = drawn.subplots(1, len(settings), sharey=True, squeeze=False)[0]
    marks, lowest = {"neg_elbo": "test, at the end"} | dict(at_end), 0.0
    for axes, (name, folders) in zip(panels, settings.items(), strict=True):
        for part, colour in zip(PARTS, style.COLOURS[1::-1], strict=True):
            seen, bounds = histories(folders, f"{part}/neg_elbo")
            low, high = bounds.min(0), bounds.max(0)
            axes.fill_between(seen, low, high, color=colour, alpha=0.25, lw=0)
            label = {"train": "training", "val": "held out"}[part]
            axes.plot(seen, bounds.mean(0), color=colour, lw=1.2, label=label)
        for (metric, words), mark in zip(marks.items(), "_.", strict=False):
            values = [-folder.metrics[f"test/{metric}"] for folder in folders]
            mean = sum(values) / len(values)
            axes.plot(seen[-1], mean, f"k{mark}", ms=8, mew=1.5, label=words)
            lowest = min(lowest, mean)
        axes.set(xscale="log", title=name)
        axes.xaxis.set_minor_formatter(NullFormatter())
    panels[0].set(ylabel=f"bound −neg_elbo, {NATS}", ylim=lowest - BELOW)
    drawn.supxlabel("training images seen", size=9)
    n = min(map(len, settings.values()))
    style.title(drawn, f"Plain VAE, n = {n} seeds")
    lines, labels = panels[0].get_legend_handles_labels()
    drawn.legend(lines, labels, loc="outside upper right", ncols=4, fontsize=8)
    return drawn


def compared(needed: Needed, name: str) -> Comparison:
    """A sweep's settings, set against each other."""
    ids = [folder.name for _, folder in needed.children(name)]
    runs = load_runs(ids=ids, runs=needed.runs, folders_only=True)
    return compare.compare(runs).comparison


def beta(needed: Needed) -> list[Plate]:
    one, two = compared(needed, "beta"), compared(needed, "latent_beta")
    plates = {
        "beta_plane": (one, plots.rate_distortion(one)),
        "beta_metrics": (one, plots.swept(one)),
        "latent_beta_plane": (two, plots.rate_distortion(two)),
    }
    return [
        replace(plate, name=name, caption=f"{plate.caption} {verdicts(comparison)[0]}")
        for name, (comparison, plate) in plates.items()
        if plate
    ]


def control(needed: Needed) -> list[Plate]:
    comparison = compared(needed, "control")
    if not (plate := plots.control(comparison)):
        return []
    return [replace(plate, caption=f"{plate.caption} {verdicts(comparison)[0]}")]


def exact(needed: Needed) -> list[Plate]:
    """One decoder trained by several objectives: its likelihood and its best bound."""
    drawn = style.figure(2.6)
    axes = drawn.subplots()
    rows = needed.children("exact")
    for metric, colour, words in (
        ("nll_quadrature", style.COLOURS[1], "−log p(x given y), by quadrature"),
        ("neg_elbo", style.COLOURS[0], "−ELBO with its encoder"),
    ):
        values = [run.metrics.get(f"test/{metric}", math.nan) for _, run in rows]
        axes.plot(values, range(len(rows)), "o", color=colour, label=words)
    axes.set_yticks(range(len(rows)), [objective_of(swept) for swept, _ in rows])
    axes.invert_yaxis()
    axes.set_xlabel("test, nats per image")
    axes.legend(fontsize=8)
    return [Plate("exact", drawn, caption("exact"))]


def objective_of(swept: Mapping[str, Any]) -> str:
    """A variant of the sweep `exact` in words."""
    if swept.get("objective.grid"):
        return "the likelihood itself"
    samples = swept.get("objective.importance_samples", 1)
    words = f"{samples}-sample bound" if samples > 1 else "ELBO"
    doubly = "objective.gradient" in swept
    return words + (",\ndoubly reparameterised" if doubly else "")


EXHIBITS = {
    "digits": Exhibit(("seed_notebook",), digits),
    "digits_20": Exhibit(("latent_20", "best_mlp"), digits_20),
    "manifolds": Exhibit(("seed_notebook", "plain_vae"), manifolds),
    "reconstructions": Exhibit(TWO_AND_TWENTY, reconstructions),
    "denoising": Exhibit(("denoising",), denoising),
    "aevb_figure2": Exhibit(("aevb_figure2",), aevb_figure2),
    "aevb_figure3": Exhibit(("aevb_figure3",), aevb_figure3),
    "plain_samples": Exhibit(PLAIN_TWO_AND_TWENTY, plain_samples),
    "beta": Exhibit(("beta", "latent_beta"), beta),
    "control": Exhibit(("control",), control),
    "exact": Exhibit(("exact",), exact),
}


def shown(posterior: Posterior) -> list[int]:
    """The places of the first images of each digit."""
    places = (posterior.of(digit)[:IMAGES] for digit in posterior.digits)
    return [int(place) for few in places for place in few]


def restored(run: LoadedRun, posterior: Posterior, places: Sequence[int]) -> Picture:
    """The decoder's means at the posterior means of some test images, in a row."""
    u = torch.from_numpy(posterior.mu[places]).float()
    labels = torch.from_numpy(posterior.labels[places])
    z = run.model.prior.unwhiten(u, labels)
    return row(grids.digits(run.model, z, labels).numpy(), run)


def row(pixels: NDArray[np.floating], run: LoadedRun) -> Picture:
    """(N, D) pixels in [0, 1] as one row of tiles."""
    return grids.tile(torch.from_numpy(pixels)[None].float(), run.shape)


def histories(
    folders: Sequence[RunFolder], key: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Training images seen (E,) and minus the metric `key` (seeds, E) by epoch."""
    rows = [
        [r["metrics"][key] for r in folder.records() if key in r["metrics"]]
        for folder in folders
    ]
    images = folders[0].info["data"]["images"]["training"]
    epochs = 1 + np.arange(min(map(len, rows)))
    return images * epochs.astype(float), -np.array([r[: len(epochs)] for r in rows])

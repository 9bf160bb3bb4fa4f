"""The figures of a latent space, each with the words that stand under it.

Decoded planes and paths, and where the images lie. Positions u are in units of the
prior (see `latent`); what is decoded is the decoder's mean. Letters: N images, Z
latent, D pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import NDArray
from torch import Tensor

from analysis.comparing.sentences import shown_digits
from analysis.drawing import style
from analysis.drawing.plates import Panel, Plate, mosaic
from analysis.reading import latent
from analysis.reading.latent import Array, Posterior
from analysis.templates import caption, latents
from cvae import grids
from cvae.evaluation.metrics import TRANSFER
from cvae.grids import Picture
from cvae.loading.loaded import LoadedRun
from cvae.priors import Standard
from cvae.run.find import display_name

LARGE, SMALL = 20, 6  # tiles in a row: of one digit's plane, of one beside nine others
TRAVERSED = 10  # dimensions at most
STEPS = 10  # tiles of a path
NAMED = 10  # images from which on a digit is written at its middle
RINGS = (1, 2, 3)  # of the prior, in standard deviations
RING: dict[str, Any] = {"ls": "--", "lw": 0.8, "color": "0.2", "zorder": 3}


@style.house()
def draw_latent(
    run: LoadedRun,
    posterior: Posterior,
    *,
    digit: int | None = None,
) -> list[Plate]:
    """All that is drawn of a run, in the order of the page."""
    large = [digit] if digit is not None else list(range(run.model.classes or 1))
    return [
        *planes(run, posterior, large),
        posterior_means(run, posterior),
        *paths(run, posterior, large),
    ]


def axis_names(run: LoadedRun, posterior: Posterior, dims: Sequence[int]) -> list[str]:
    """z1, z2, …: with its kl where there are more than are shown."""
    model = run.model
    unit = "σ of the prior"
    if not isinstance(model.prior, Standard):
        unit = "σ of p(z|y) from its mean"
    unit = "whitened by the flow" if model.flow is not None else unit
    nats = posterior.kl.mean(0)
    many = posterior.mu.shape[1] > 2
    return [
        f"z{dim + 1} ({unit}{f'; {nats[dim]:.2f} nats' if many else ''})"
        for dim in dims
    ]


def planes(run: LoadedRun, posterior: Posterior, chosen: Sequence[int]) -> list[Plate]:
    """All digits small on one sheet, then a large sheet each; strips if Z is 1."""
    dims = posterior.plane
    axes = np.eye(run.model.latent_dim)[dims]
    where = " to the right, ".join(axis_names(run, posterior, dims))
    where += " upwards" if len(dims) == 2 else " to the right"
    rest = "; all other dimensions at 0" if run.model.latent_dim > 2 else ""
    count = SMALL if len(dims) == 2 and run.model.classes else LARGE
    far = latent.quantiles(count)[-1]
    words = caption("planes", far=far, where=where + rest)

    def panel(name: str, count: int, digit: int, *, ends: bool = False) -> Panel:
        along = column_labels(count, ends=ends)
        picture = plane(run, axes, count, digit)
        return Panel(name, picture, along, along[::-1] if len(dims) == 2 else ())

    whole = f"{title(run)}; {' → '.join(f'z{dim + 1}' for dim in dims)} ↑"
    whole = whole if len(dims) == 2 else f"{title(run)}; z1 →"
    if not run.model.classes:
        return [sheet("plane", panel(whole, LARGE, 0), words)]
    words += shown_digits(run.folder.metrics)
    small = [
        panel(f"digit {digit}", count, digit, ends=len(dims) == 2)
        for digit in range(run.model.classes)
    ]
    if len(dims) == 1:
        return [Plate("planes", mosaic(small, 1), words)]
    sheets = [Plate("planes", mosaic(small, 5), words)]
    for digit in chosen:
        large = panel(f"digit {digit}: {whole}", LARGE, digit)
        sheets.append(sheet(f"plane_{digit}", large))
    return sheets


def posterior_means(run: LoadedRun, posterior: Posterior) -> Plate:
    """The posterior means by digit, and whether they mix."""
    dims = posterior.plane
    points = scatter(
        posterior.mu[:, dims],
        posterior.labels,
        axis_names(run, posterior, dims),
        f"{title(run)}: posterior means of {len(posterior.labels):,} test images",
    )
    return Plate("posterior", points, mixing_caption(run, posterior))


def paths(run: LoadedRun, posterior: Posterior, chosen: Sequence[int]) -> list[Plate]:
    """Traversals where Z > 2, and style transfer."""
    shown = []
    dims = posterior.active[:TRAVERSED]
    if run.model.latent_dim > 2 and dims:
        far = latent.quantiles(STEPS)[-1]
        rows = [f"z{dim + 1}" for dim in dims]
        under = caption("traversals", far=far)
        under += shown_digits(run.folder.metrics) if run.model.classes else ""
        for digit in chosen:
            picture = traversals(run, dims, digit)
            which = f"_{digit}" if run.model.classes else ""
            words = title(run) + which.replace("_", ", digit ")
            steps = column_labels(STEPS)
            panel = Panel(words, picture, steps, rows)
            text = under if digit == chosen[0] else ""
            shown.append(sheet(f"traversals{which}", panel, text))
    if run.model.classes:
        picture = transfer(run, posterior)
        asked = ["image", *map(str, range(run.model.classes))]
        rows = [str(digit) for digit in posterior.digits]
        panel = Panel(title(run), picture, asked, rows)
        under = caption("transfer") + shown_digits(run.folder.metrics, TRANSFER)
        shown.append(sheet("transfer", panel, under))
    return shown


def sheet(name: str, panel: Panel, words: str = "") -> Plate:
    return Plate(name, mosaic([panel], 1), words)


def column_labels(count: int, *, ends: bool = False) -> list[str]:
    """The first dimension's value over each column, or over the first and last."""
    words = [f"{at:.2f}".replace("-", "−") for at in latent.quantiles(count)]
    return [words[0], *[""] * (count - 2), words[-1]] if ends else words


def title(run: LoadedRun) -> str:
    return f"{display_name(run.folder)}, {latents(run.model.latent_dim)}"


def mixing_caption(run: LoadedRun, posterior: Posterior) -> str:
    """Whether z tells the digit, in words and in numbers."""
    labels = posterior.labels
    if len(posterior.digits) < 2:
        return "The test images hold a single digit: there is none to tell from z."
    return caption(
        "mixing",
        conditional=run.model.classes > 0,
        neighbours=latent.NEIGHBOURS,
        in_z=latent.neighbour_accuracy(posterior.mu, labels),
        commonest=posterior.commonest,
        pixels=latent.neighbour_accuracy(posterior.pixels, labels),
    )


def decoded(run: LoadedRun, u: Array, digit: int) -> Tensor:
    """Decoder means (…, D) in [0, 1] at u (…, Z), drawn as `digit`."""
    flat = torch.from_numpy(u.reshape(-1, u.shape[-1])).float()
    labels = torch.full((len(flat),), digit)
    images = grids.digits(run.model, run.model.prior.unwhiten(flat, labels), labels)
    return images.view(*u.shape[:-1], -1)


def plane(run: LoadedRun, axes: Array, count: int, digit: int) -> Picture:
    """The decoder on a grid of equal prior mass; `axes` (2, Z) go right and up.

    One axis (1, Z) gives a strip. In all other directions u stays 0. Kingma & Welling
    2014, Figure 4.
    """
    at = latent.quantiles(count)
    u = (at[:, None] * axes[0])[None]
    if len(axes) == 2:
        u = u + at[::-1, None, None] * axes[1]
    images = decoded(run, u, digit)
    rows, (height, width) = len(images), run.shape
    tiles = images.view(rows, count, height, width).transpose(1, 2)
    picture = tiles.reshape(rows * height, count * width)
    return (picture * 255).round().to(torch.uint8).numpy()


def traversals(run: LoadedRun, dims: list[int], digit: int) -> Picture:
    """A row a dimension, from its low to its high quantiles, the others at 0."""
    axes = np.eye(run.model.latent_dim)[dims]
    u = latent.quantiles(STEPS)[:, None] * axes[:, None]
    return grids.tile(decoded(run, u, digit), run.shape)


def transfer(run: LoadedRun, posterior: Posterior) -> Picture:
    """A row a digit: its first image, then the same z decoded as each digit."""
    first = [int(posterior.of(digit)[0]) for digit in posterior.digits]
    seen = torch.from_numpy(posterior.pixels[first]).float()
    asked = range(run.model.classes)
    drawn = [decoded(run, posterior.mu[first], digit) for digit in asked]
    return grids.tile(torch.stack([seen, *drawn], dim=1), run.shape)


@style.house()
def scatter(
    points: Array,
    labels: NDArray[np.int64],
    names: Sequence[str],
    title: str,
) -> Figure:
    """Points (N, 2) coloured by digit under the rings of the prior.

    In one dimension, (N, 1), each digit has a line of its own. What lies far out is
    counted, not drawn.
    """
    drawn = style.figure(5.4)
    style.title(drawn, title)
    axes = drawn.add_subplot()
    axes.set(xlabel=names[0], ylabel=[*names, "digit"][1])
    random = np.random.default_rng(0)
    colours = np.array(style.DIGITS)[labels]
    edge = _limit(axes, points)
    if points.shape[1] == 1:
        spread = labels + random.uniform(-0.35, 0.35, len(labels))
        points = np.column_stack([points[:, 0], spread])
        axes.set(yticks=range(10))
        for line in RINGS:
            axes.axvline(-line, **RING)
            axes.axvline(line, **RING)
    else:
        axes.set(ylim=(-edge, edge), aspect="equal")
        for radius in RINGS:
            axes.add_patch(Circle((0, 0), radius, fill=False, **RING))
    order = random.permutation(len(points))  # no digit lies on top of the others
    x, y = points[order].T
    axes.scatter(x, y, s=4, c=colours[order], lw=0, alpha=1.0, rasterized=True)
    _digit_legend(axes, points, labels)
    return drawn


def _limit(axes: Axes, points: Array) -> float:
    """Where the axes end: what lies outside is counted in a note."""
    farthest = np.abs(points).max(1)
    edge = max(3.5, 1.05 * float(np.quantile(farthest, 0.999)))
    if outside := int((farthest > edge).sum()):
        note = f"{outside} farther out"
        axes.annotate(
            note, (1, 0), (-4, 4), "axes fraction", "offset points", ha="right"
        )
    axes.set_xlim(-edge, edge)
    return edge


def _digit_legend(axes: Axes, points: Array, labels: NDArray[np.int64]) -> None:
    """The colours of the digits, and each digit that is frequent at its middle."""
    digits = [int(digit) for digit in np.unique(labels)]
    for digit in digits:
        axes.scatter([], [], s=30, c=style.DIGITS[digit], label=str(digit))
    named = [digit for digit in digits if (labels == digit).sum() >= NAMED]
    _name_centres(axes, {d: np.median(points[labels == d], 0) for d in named})
    axes.plot([], [], **RING, label="prior,\n1, 2, 3 σ")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), title="digit")


def _name_centres(axes: Axes, centres: dict[int, Array]) -> None:
    """Each digit at its middle, or beside it with a line to it: ten hues look alike."""
    halo = [patheffects.withStroke(linewidth=3, foreground="white")]
    centred: dict[str, Any] = {"ha": "center", "va": "center", "weight": "bold"}
    middles = np.array([*centres.values()])
    places = apart(middles, 0.11 * axes.get_xlim()[1]) if len(centres) else middles
    for digit, middle, place in zip(centres, middles, places, strict=True):
        axes.plot(*zip(middle, place, strict=True), color="0.2", lw=0.8, zorder=4)
        x, y = place
        axes.text(x, y, str(digit), **centred, size=12, zorder=5, path_effects=halo)


def apart(places: Array, gap: float) -> Array:
    """Places (N, 2) pushed from each other until none is nearer than about `gap`."""
    turn = 2 * np.pi * np.arange(len(places)) / len(places)
    moved = places + 1e-3 * gap * np.column_stack([np.cos(turn), np.sin(turn)])
    for _ in range(200):
        between = moved[:, None] - moved
        far = np.linalg.norm(between, axis=-1)
        push = np.clip(gap - far, 0, None) / np.where(far > 0, far, 1)
        np.fill_diagonal(push, 0)
        moved = moved + 0.3 * (push[..., None] * between).sum(1)
    return np.asarray(moved)

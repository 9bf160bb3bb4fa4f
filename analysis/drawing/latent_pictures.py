"""Pictures of a latent space: decoded planes and paths, and where the images lie.

Positions u are in units of the prior (see `latent`); what is decoded is the decoder's
mean. Letters: N images, Z latent, D pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import NDArray
from scipy.stats import norm
from torch import Tensor

from analysis.drawing import style
from analysis.drawing.axes import name_axes
from analysis.reading import latent
from analysis.reading.latent import Array, Posterior
from cvae import grids
from cvae.grids import Picture
from cvae.loading.loaded import LoadedRun

STEPS = 10  # tiles of a path
ELLIPSES = 400  # more would cover each other
NAMED = 10  # images from which on a digit is written at its middle
RINGS = (1, 2, 3)  # of the prior, in standard deviations
RING: dict[str, Any] = {"ls": "--", "lw": 0.8, "color": "0.2", "zorder": 3}


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


def pairs(run: LoadedRun, posterior: Posterior) -> list[tuple[int, int]]:
    """Two test images a digit: its first two, or its first and that of the next digit.

    The latter for a plain model, which alone can pass between digits. A digit with a
    single image has no pair.
    """
    digits = posterior.digits
    firsts = {digit: [int(k) for k in posterior.of(digit)[:2]] for digit in digits}
    if run.model.classes or len(digits) == 1:
        return [(some[0], some[1]) for some in firsts.values() if len(some) == 2]
    following = digits[1:] + digits[:1]
    pairs = zip(digits, following, strict=True)
    return [(firsts[one][0], firsts[other][0]) for one, other in pairs]


def interpolation(run: LoadedRun, posterior: Posterior, *, spherical: bool) -> Picture:
    """A row a pair: the first image, the path between their means, the second image."""
    rows = []
    for start, end in pairs(run, posterior):
        ends = posterior.mu[start], posterior.mu[end]
        u = (latent.slerp if spherical else latent.lerp)(*ends, STEPS)
        images = decoded(run, u, int(posterior.labels[start]))
        seen = torch.from_numpy(posterior.pixels[[start, end]]).float()
        rows.append(torch.cat([seen[:1], images, seen[1:]]))
    return grids.tile(torch.stack(rows), run.shape)


def transfer(run: LoadedRun, posterior: Posterior) -> Picture:
    """A row a digit: its first image, then the same z decoded as each digit."""
    first = [int(posterior.of(digit)[0]) for digit in posterior.digits]
    seen = torch.from_numpy(posterior.pixels[first]).float()
    drawn = [decoded(run, posterior.mu[first], digit) for digit in range(10)]
    return grids.tile(torch.stack([seen, *drawn], dim=1), run.shape)


@style.house()
def scatter(
    points: Array,
    labels: NDArray[np.int64],
    names: Sequence[str],
    title: str,
    *,
    sigma: Array | None = None,
) -> Figure:
    """Points (N, 2) coloured by digit under the rings of the prior.

    In one dimension, (N, 1), each digit has a line of its own. `sigma` (N, 2) adds the
    1-σ ellipses of the first few hundred. What lies far out is counted, not drawn.
    """
    drawn = style.figure(5.4)
    style.title(drawn, title)
    axes = drawn.add_subplot()
    name_axes(axes, "posterior", first=names[0], second=[*names, "digit"][1])
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
        _rings(axes)
    if sigma is not None and sigma.shape[1] == 2:
        axes.add_collection(_ellipses(points, sigma, colours, axes))
    order = random.permutation(len(points))  # no digit lies on top of the others
    x, y = points[order].T
    alpha = 1.0 if sigma is None else 0.25  # or the ellipses drown in them
    axes.scatter(x, y, s=4, c=colours[order], lw=0, alpha=alpha, rasterized=True)
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
        axes.text(
            place[0],
            place[1],
            str(digit),
            **centred,
            size=12,
            zorder=5,
            path_effects=halo,
        )


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


def _rings(axes: Axes) -> None:
    for radius in RINGS:
        axes.add_patch(Circle((0, 0), radius, fill=False, **RING))


def _ellipses(
    points: Array, sigma: Array, colours: NDArray[np.str_], axes: Axes
) -> EllipseCollection:
    few = slice(ELLIPSES)
    widths, heights = 2 * sigma[few].T
    return EllipseCollection(
        widths,
        heights,
        angles=0,
        units="xy",
        offsets=points[few],
        offset_transform=axes.transData,
        facecolors="none",
        edgecolors=colours[few],
        linewidths=0.8,
        zorder=2.5,
    )


@style.house()
def densities(
    posterior: Posterior, dims: list[int], names: Sequence[str], title: str
) -> Figure:
    """Each digit's aggregate posterior against the prior, with the gap between them."""
    drawn = style.figure(4.2)
    style.title(drawn, title)
    panels = drawn.subplots(2, 5, sharex=True, sharey=True)
    digits = posterior.digits
    by_digit = {d: latent.density(posterior, posterior.of(d), dims) for d in digits}
    peak = max(float(np.quantile(mixture, 0.999)) for _, mixture in by_digit.values())
    for panel, (digit, (at, mixture)) in zip(
        panels.flat, by_digit.items(), strict=False
    ):
        count, nats = len(posterior.of(digit)), latent.kl_to_prior(at, mixture)
        panel.set_title(f"{digit} · n={count:,}\n{nats:.2f} nats", size=8)
        panel.grid(False)
        panel.set(xlim=(-3.5, 3.5), xticks=(-2, 0, 2))
        if mixture.ndim == 1:
            panel.fill_between(at, mixture, color=style.COLOURS[5], lw=0)
            panel.plot(at, norm.pdf(at), **RING)
        else:
            seen = np.abs(at) <= 3.5
            extent = (at[seen][0], at[seen][-1]) * 2
            panel.imshow(
                mixture[seen][:, seen],
                **{"extent": extent, "origin": "lower", "vmin": 0, "vmax": peak},
                cmap="Blues",
                interpolation="bilinear",
            )
            panel.set(ylim=(-3.5, 3.5), yticks=(-2, 0, 2))
            _rings(panel)
    drawn.supxlabel(names[0], size=9)
    drawn.supylabel(names[1] if len(dims) == 2 else "density", size=9)
    return drawn

"""The figures of a latent space, each with the words that stand under it.

z is in units of the prior throughout (see `latent`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analysis.comparing.sentences import shown_digits
from analysis.drawing import latent_pictures, style
from analysis.drawing.plates import Panel, Plate, mosaic
from analysis.reading import latent
from analysis.reading.latent import Posterior
from analysis.templates import caption, latents
from cvae.evaluation.metrics import TRANSFER
from cvae.loading.loaded import LoadedRun
from cvae.priors import Standard
from cvae.run.find import display_name

LARGE, SMALL = 20, 6  # tiles in a row: of one digit's plane, of one beside nine others
TRAVERSED = 10  # dimensions at most


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
        picture = latent_pictures.plane(run, axes, count, digit)
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
    points = latent_pictures.scatter(
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
        far = latent.quantiles(latent_pictures.STEPS)[-1]
        rows = [f"z{dim + 1}" for dim in dims]
        under = caption("traversals", far=far)
        under += shown_digits(run.folder.metrics) if run.model.classes else ""
        for digit in chosen:
            picture = latent_pictures.traversals(run, dims, digit)
            which = f"_{digit}" if run.model.classes else ""
            words = title(run) + which.replace("_", ", digit ")
            steps = column_labels(latent_pictures.STEPS)
            panel = Panel(words, picture, steps, rows)
            text = under if digit == chosen[0] else ""
            shown.append(sheet(f"traversals{which}", panel, text))
    if run.model.classes:
        picture = latent_pictures.transfer(run, posterior)
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

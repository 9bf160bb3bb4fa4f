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
from cvae.evaluation.metrics import TRANSFER
from cvae.loading.samples import Run
from cvae.priors import Standard
from cvae.run.find import display_name

LARGE, SMALL = 20, 6  # tiles in a row: of one digit's plane, of one beside nine others
TRAVERSED = 10  # dimensions at most


@style.house()
def draw_latent(
    run: Run, posterior: Posterior, *, digit: int | None = None, ellipses: bool = False
) -> list[Plate]:
    """All that is drawn of a run, in the order of the page."""
    large = [digit] if digit is not None else list(range(run.model.classes or 1))
    return [
        *planes(run, posterior, large),
        *positions(run, posterior, ellipses=ellipses),
        *paths(run, posterior, large),
    ]


def leading_dims(posterior: Posterior) -> list[int]:
    """The two dimensions with the most nats, in order; the only one of a strip."""
    return sorted(int(dim) for dim in posterior.order[:2])


def axis_names(run: Run, posterior: Posterior, dims: Sequence[int]) -> list[str]:
    """z1, z2, …: with its kl where there are more than are shown."""
    model = run.model
    unit = "" if isinstance(model.prior, Standard) else ", in σ of p(z|y) from its mean"
    unit = ", whitened by the flow" if model.flow is not None else unit
    nats = posterior.kl.mean(0)
    many = posterior.mu.shape[1] > 2
    return [
        f"z{dim + 1}" + (f" ({nats[dim]:.2f} nats)" if many else "") + unit
        for dim in dims
    ]


def planes(run: Run, posterior: Posterior, chosen: Sequence[int]) -> list[Plate]:
    """All digits small on one sheet, then a large sheet each; strips if Z is 1."""
    dims = leading_dims(posterior)
    axes = np.eye(run.model.latent_dim)[dims]
    far = latent.quantiles(LARGE)[-1]
    where = " to the right, ".join(axis_names(run, posterior, dims))
    where += " upwards" if len(dims) == 2 else " to the right"
    rest = "; all other dimensions at 0" if run.model.latent_dim > 2 else ""
    caption = (
        f"The decoder's mean on a grid of equal prior mass, −{far:.2f} to {far:.2f}: "
        f"{where}{rest}."
    )
    if not run.model.classes:
        picture = latent_pictures.plane(run, axes, LARGE, 0)
        panel = Panel(title(run), picture, column_labels(LARGE))
        return [Plate("plane", mosaic([panel], 1), caption)]
    caption += shown_digits(run.folder.metrics)
    count = SMALL if len(dims) == 2 else LARGE
    small = [
        Panel(
            f"digit {digit}",
            latent_pictures.plane(run, axes, count, digit),
            column_labels(count, ends=len(dims) == 2),
        )
        for digit in range(run.model.classes)
    ]
    if len(dims) == 1:
        return [Plate("planes", mosaic(small, 1), caption)]
    sheets = [Plate("planes", mosaic(small, 5), caption)]
    for digit in chosen:
        picture = latent_pictures.plane(run, axes, LARGE, digit)
        panel = Panel(f"{title(run)}, digit {digit}", picture, column_labels(LARGE))
        sheets.append(Plate(f"plane_{digit}", mosaic([panel], 1), ""))
    return sheets


def posterior_means(run: Run, posterior: Posterior, *, ellipses: bool = False) -> Plate:
    """The posterior means by digit, and whether they mix."""
    dims = leading_dims(posterior)
    points = latent_pictures.scatter(
        posterior.mu[:, dims],
        posterior.labels,
        axis_names(run, posterior, dims),
        f"{title(run)}: posterior means of {len(posterior.labels):,} test images",
        sigma=posterior.sigma[:, dims] if ellipses else None,
    )
    around = (
        f" Ellipses: the 1-σ contours of the first {latent_pictures.ELLIPSES} "
        "posteriors."
        if ellipses and len(dims) == 2
        else ""
    )
    return Plate("posterior", points, mixing_caption(run, posterior) + around)


def positions(run: Run, posterior: Posterior, *, ellipses: bool) -> list[Plate]:
    """The posterior means by digit, the densities behind them, and their PCA."""
    dims = leading_dims(posterior)
    names = axis_names(run, posterior, dims)
    images = f"{len(posterior.labels):,} test images"
    densities = latent_pictures.densities(
        posterior, dims, names, f"{title(run)}: q(z|y) of {images}"
    )
    caption = (
        "Each digit's aggregate posterior against the prior (dashed), and by how many "
        "nats they differ, KL(q(z|y) ‖ p). A tenth of all images, drawn at random, "
        f"differs by {random_gap(posterior, dims):.2f} nats."
    )
    shown = [posterior_means(run, posterior, ellipses=ellipses)]
    shown.append(Plate("densities", densities, caption))
    if run.model.latent_dim > 2:
        variances, axes = latent.principal(posterior)
        share = 100 * variances / variances.sum()
        pca = latent_pictures.scatter(
            posterior.mu @ axes[:2].T,
            posterior.labels,
            [
                f"principal axis {k + 1} ({share[k]:.1f} % of the variance)"
                for k in (0, 1)
            ],
            f"{title(run)}: PCA, {images}",
        )
        caption = (
            "The posterior means along the principal axes of the aggregate posterior, "
            "whose variance would be 1 along every axis if it were the prior: here it "
            f"is {variances[0]:.2f} and {variances[1]:.2f} along the two shown."
        )
        shown.append(Plate("pca", pca, caption))
    return shown


def paths(run: Run, posterior: Posterior, chosen: Sequence[int]) -> list[Plate]:
    """Traversals where Z > 2, interpolations, and style transfer."""
    shown = []
    dims = posterior.active[:TRAVERSED]
    if run.model.latent_dim > 2 and dims:
        far = latent.quantiles(latent_pictures.STEPS)[-1]
        rows = ", ".join(f"z{dim + 1}" for dim in dims)
        caption = (
            f"A row an active dimension, most nats first ({rows}), from −{far:.2f} to "
            f"{far:.2f} with all others at 0."
        )
        caption += shown_digits(run.folder.metrics) if run.model.classes else ""
        for digit in chosen:
            picture = latent_pictures.traversals(run, dims, digit)
            which = f"_{digit}" if run.model.classes else ""
            words = title(run) + which.replace("_", ", digit ")
            panel = Panel(words, picture, column_labels(latent_pictures.STEPS))
            text = caption if digit == chosen[0] else ""
            shown.append(Plate(f"traversals{which}", mosaic([panel], 1), text))
    ends = ["image", *[""] * latent_pictures.STEPS, "image"]
    both = [
        Panel(
            name,
            latent_pictures.interpolation(run, posterior, spherical=spherical),
            ends,
        )
        for name, spherical in (("linear", False), ("spherical", True))
    ]
    caption = (
        "First and last column: two test images"
        + (" of one digit" if run.model.classes else "")
        + ". Between them the path from one posterior mean to the other, decoded: on "
        "the left a line, on the right an arc around 0."
    )
    shown.append(Plate("interpolation", mosaic(both, 2), caption))
    if run.model.classes:
        sheet = latent_pictures.transfer(run, posterior)
        panel = Panel(title(run), sheet, ["image", *map(str, range(10))])
        caption = (
            "First column: a test image of each digit. Then its z decoded as 0 to 9."
        )
        caption += shown_digits(run.folder.metrics, TRANSFER)
        shown.append(Plate("transfer", mosaic([panel], 1), caption))
    return shown


def column_labels(count: int, *, ends: bool = False) -> list[str]:
    """The first dimension's value over each column, or over the first and last."""
    words = [f"{at:.2f}".replace("-", "−") for at in latent.quantiles(count)]
    return [words[0], *[""] * (count - 2), words[-1]] if ends else words


def title(run: Run) -> str:
    return f"{display_name(run.folder)}, {dimensions(run.model.latent_dim)}"


def dimensions(size: int) -> str:
    return f"{size} latent dimension{'s' * (size > 1)}"


def mixing_caption(run: Run, posterior: Posterior) -> str:
    """Whether z tells the digit, in words and in figures."""
    labels = posterior.labels
    in_z = latent.neighbour_accuracy(posterior.mu, labels)
    pixels = latent.neighbour_accuracy(posterior.pixels, labels)
    should = (
        "The model is given the label: z need not carry it, and the colours should mix."
        if run.model.classes
        else "The model is given no label: z has to carry it, and the colours part."
    )
    return (
        f"{should} The {latent.NEIGHBOURS} nearest neighbours in z name the digit of "
        f"{100 * in_z:.1f} % of the images. Always naming the commonest would be "
        f"right for {100 * posterior.commonest:.1f} %, neighbours in the pixels are "
        f"for {100 * pixels:.1f} %."
    )


def random_gap(posterior: Posterior, dims: list[int]) -> float:
    """The gap of a random tenth of the images: that of a digit without a meaning."""
    count = len(posterior.labels)
    tenth = np.random.default_rng(0).permutation(count)[: max(1, count // 10)]
    return latent.kl_to_prior(*latent.density(posterior, tenth, dims))

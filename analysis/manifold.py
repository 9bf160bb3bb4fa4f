"""What a finished run's latent space looks like, as pictures, tables and a page.

    make manifold RUN=quickstart
    python -m analysis.manifold --run quickstart --digit 3 --formats png,svg
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from analysis import latent, pictures, style
from analysis.latent import Array, Posterior
from analysis.style import Panel, mosaic
from cvae.samples import Run, load_run

LARGE, SMALL = 20, 6  # tiles a side: of one digit's plane, of one beside nine others
SHOWN = 10  # dimensions traversed at most


@dataclass(frozen=True)
class Shown:
    """A figure, the file it goes to, and what stands under it."""

    name: str
    figure: Figure
    caption: str


def manifold(
    run: Run,
    out: Path,
    *,
    digit: int | None = None,
    formats: Iterable[str] = ("png",),
    ellipses: bool = False,
) -> list[Path]:
    """Draw the latent space of `run` into the folder `out`; returns the files written.

    `digit` draws the large sheets of one digit only; `ellipses` adds 1-σ ellipses.

    Raises:
        ValueError: `digit` asked of a plain model. DataError, OSError.
    """
    if digit is not None and not run.model.classes:
        raise ValueError(
            f"{run.folder.name} is unconditional: it has one manifold and none per "
            "digit; leave the digit out, or name another run"
        )
    posterior = latent.encode(run)
    digits = [digit] if digit is not None else list(range(run.model.classes or 1))
    shown = [
        *decoded_planes(run, posterior, digits),
        *positions(run, posterior, ellipses=ellipses),
        *paths(run, posterior, digits),
    ]
    files = [
        path
        for each in shown
        for path in style.save(each.figure, out / each.name, formats)
    ]
    files += tables(posterior, out)
    page = out / "manifold.md"
    page.write_text(write_page(run, posterior, shown), encoding="utf-8")
    return [page, *files]


def decoded_planes(run: Run, posterior: Posterior, digits: list[int]) -> list[Shown]:
    """All digits small on one sheet, and a large sheet each; a strip if Z is 1."""
    dims = leading(posterior)
    axes = np.eye(run.model.latent_dim)[dims]
    names = [f"u{dim + 1}" for dim in dims]
    far = latent.quantiles(LARGE)[-1]
    across = f"{names[0]} grows to the right" + (
        f", {names[1]} upwards" if len(dims) == 2 else ""
    )
    rest = ", all other dimensions at 0" if run.model.latent_dim > 2 else ""
    caption = (
        f"The decoder's mean on a grid of equal prior mass, −{far:.2f} to {far:.2f} "
        f"prior standard deviations: {across}{rest}."
    )
    if not run.model.classes:
        panel = Panel(run.folder.name, pictures.plane(run, axes, LARGE, 0))
        return [Shown("plane", mosaic([panel], 1), caption)]
    large = {digit: pictures.plane(run, axes, LARGE, digit) for digit in digits}
    small = [
        Panel(f"digit {digit}", pictures.plane(run, axes, SMALL, digit))
        for digit in range(run.model.classes)
    ]
    sheets = [
        Shown(f"plane_{digit}", mosaic([Panel(f"digit {digit}", picture)], 1), caption)
        for digit, picture in large.items()
    ]
    columns = 5 if len(dims) == 2 else 1
    return [Shown("planes", mosaic(small, columns), f"{caption} Every digit."), *sheets]

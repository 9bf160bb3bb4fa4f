"""One look for every figure, and one way to write it to disk.

Importing this sets matplotlib's defaults. Colours are those of Okabe and Ito (2008),
told apart by colour-blind readers, and for the ten digits those of Petroff (2021). A
figure is one README column wide; the same figure gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

WIDTH = 7.2  # inches: one README column at 120 dots an inch
DPI = 120
COLOURS = (
    "#0072B2",  # blue
    "#D55E00",  # vermilion
    "#009E73",  # bluish green
    "#CC79A7",  # reddish purple
    "#E69F00",  # orange
    "#56B4E9",  # sky blue
    "#000000",
    "#F0E442",  # yellow: last, for it is faint on white
)
DIGITS = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6"),
    *("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"),
)
FORMATS = ("png", "svg", "pdf")

RC = {
    "figure.dpi": DPI,
    "savefig.dpi": "figure",
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    "axes.prop_cycle": cycler(color=COLOURS),
    "image.cmap": "gray",
    "image.interpolation": "nearest",
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "cvae",
    "pdf.fonttype": 42,
}
mpl.rcParams.update(RC)


def figure(height: float, *, width: float = WIDTH) -> Figure:
    """An empty figure of so many inches in the house style; it needs no display."""
    return Figure(figsize=(width, height), layout="constrained")


class Panel(NamedTuple):
    """A grey picture (height, width) uint8 with the line that stands over it."""

    title: str
    picture: NDArray[np.uint8]


SHARP = 1800  # dots: twice the column, so that pictures stay sharp on dense screens
TITLE, APART = 15.0, 7.0  # points: the line over a panel, the space between two


def mosaic(panels: Sequence[Panel], columns: int) -> Figure:
    """Pictures in rows of `columns`; every pixel is a square of whole dots, no axes.

    All columns are as wide as the widest picture, a row as high as its highest.
    """
    rows = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    columns = len(rows[0])
    widest = max(panel.picture.shape[1] for panel in panels)
    heights = [max(panel.picture.shape[0] for panel in row) for row in rows]
    scale = max(1, SHARP // (columns * widest))
    dpi = round(scale * columns * widest / WIDTH)
    over, apart = round(TITLE * dpi / 72), round(APART * dpi / 72)
    wide = columns * (scale * widest + apart) - apart
    high = scale * sum(heights) + len(rows) * (over + apart) - apart
    # a hundredth of a dot more, lest rounding costs a whole one
    drawn = Figure(figsize=((wide + 0.01) / dpi, (high + 0.01) / dpi), dpi=dpi)
    drawn.set_layout_engine("none")
    top = high
    for row, height in zip(rows, heights, strict=True):
        top -= over
        for column, (title, picture) in enumerate(row):
            left = column * (scale * widest + apart)
            tall, broad = scale * picture.shape[0], scale * picture.shape[1]
            box = (left / wide, (top - tall) / high, broad / wide, tall / high)
            axes = drawn.add_axes(box)
            axes.set_axis_off()
            axes.set_title(title, pad=4)
            # "none" and not "nearest": a vector file keeps the pixels as they are
            colours = np.repeat(picture[..., None], 3, axis=2)
            axes.imshow(colours, interpolation="none", aspect="auto")
        top -= scale * height + apart
    return drawn


def save(figure: Figure, path: Path, formats: Iterable[str] = ("png",)) -> list[Path]:
    """Write `path` with each format as its suffix; no date and no version in the bytes.

    Raises:
        OSError: the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    undated: dict[str, dict[str, None]] = {
        "svg": {"Date": None, "Creator": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }
    written = []
    for kind in formats:
        target = path.with_suffix(f".{kind}")
        if kind == "png":
            _save_png(figure, target)
        else:
            figure.savefig(target, metadata=undated[kind])
        written.append(target)
    return written


def _save_png(figure: Figure, target: Path) -> None:
    """A PNG without an alpha channel, in grey where nothing is coloured."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    dots = np.asarray(canvas.buffer_rgba())[..., :3]
    grey = (dots == dots[..., :1]).all()
    Image.fromarray(dots[..., 0] if grey else dots).save(target, format="PNG")

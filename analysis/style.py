"""One look for every figure, and one way to write it to disk.

Importing this sets matplotlib's defaults. Colours are those of Okabe and Ito (2008),
told apart by colour-blind readers. A figure is one README column wide; the same figure
gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import matplotlib as mpl
from cycler import cycler
from matplotlib.figure import Figure

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
FORMATS = ("png", "svg", "pdf")

RC = {
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
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


def save(figure: Figure, path: Path, formats: Iterable[str] = ("png",)) -> list[Path]:
    """Write `path` with each format as its suffix; no date and no version in the bytes.

    Raises:
        OSError: the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    undated: dict[str, dict[str, None]] = {
        "png": {"Software": None},
        "svg": {"Date": None, "Creator": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }
    written = []
    for kind in formats:
        target = path.with_suffix(f".{kind}")
        figure.savefig(target, metadata=undated[kind])
        written.append(target)
    return written

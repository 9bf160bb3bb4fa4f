"""One look for every figure, whatever matplotlib is configured to.

Colours are those of Okabe and Ito (2008), told apart by colour-blind readers, and for
the ten digits those of Petroff (2021). A figure is one README column wide; the same
figure gives the same bytes.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

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
DIGITS = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6"),
    *("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"),
)

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


@contextmanager
def house() -> Iterator[None]:
    """Draw in this style: matplotlib's own defaults, then ours; the caller's return.

    Also a decorator. Figures have to be made and saved inside of it: a font, a style or
    LaTeX of the user's matplotlibrc reaches neither.
    """
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(RC)
        yield


def figure(height: float, *, width: float = WIDTH) -> Figure:
    """An empty figure of so many inches in the house style; it needs no display."""
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def title(drawn: Figure, text: str) -> None:
    """A title over the whole figure, from its left edge; a long one is wrapped."""
    text = textwrap.fill(text, round(12 * drawn.get_figwidth()))
    drawn.suptitle(text, x=0.01, ha="left", fontsize=RC["axes.titlesize"])

"""Plates: a figure with its name and caption, written to disk and shown on a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from analysis.drawing import style
from cvae.grids import Picture
from cvae.run.files import save_png


@dataclass(frozen=True)
class Plate:
    """A figure, or a bare picture; its file without suffix; the words under it.

    Without a caption a page may link to it but does not show it.
    """

    name: str
    figure: Figure | Picture
    caption: str = ""

    @property
    def markdown(self) -> str:
        return f"![{self.name}]({self.name}.png)\n\n{self.caption}"

    def save(self, folder: Path, formats: Sequence[str] = ("png",)) -> list[Path]:
        """Write the plate into `folder` with each format as its suffix; the files.

        A bare picture is always a PNG. No date and no version is in the bytes.

        Raises:
            OSError: the folder cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if not isinstance(self.figure, Figure):
            save_png(self.figure, folder / f"{self.name}.png")
            return [folder / f"{self.name}.png"]
        written = [folder / f"{self.name}.{kind}" for kind in formats]
        with style.house():
            for kind, target in zip(formats, written, strict=True):
                if kind == "png":
                    _save_png(self.figure, target)
                else:
                    self.figure.savefig(target, metadata=UNDATED[kind])
        return written


class Panel(NamedTuple):
    """A grey picture (height, width) uint8, its title, words at its columns and rows.

    Columns are of equal width, rows of equal height; empty words leave one without.
    """

    title: str
    picture: Picture
    columns: Sequence[str] = ()
    rows: Sequence[str] = ()


UNDATED: dict[str, dict[str, None]] = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
INSET = 3.0  # points between the edge and a title
SHARP = 1800  # dots: twice the column, so that pictures stay sharp on dense screens
TITLE, APART = 18.0, 7.0  # points: the line over a panel, the space between two
NAMES, LETTER = 9.0, 4.0  # points: the words over columns; a letter of those of rows


@style.house()
def mosaic(panels: Sequence[Panel], columns: int) -> Figure:
    """Pictures in rows of `columns`; every pixel is a square of whole dots, no axes.

    All columns are as wide as the widest picture, a row as high as its highest.
    """
    rows = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    columns = len(rows[0])
    widest = max(panel.picture.shape[1] for panel in panels)
    heights = [max(panel.picture.shape[0] for panel in row) for row in rows]
    scale = max(1, SHARP // (columns * widest))
    dpi = round(scale * columns * widest / style.WIDTH)
    names = NAMES * any(panel.columns for panel in panels)
    longest = max((len(word) for panel in panels for word in panel.rows), default=-1)
    side = round(LETTER * (longest + 1) * dpi / 72)
    over, apart = round((TITLE + names) * dpi / 72), round(APART * dpi / 72)
    wide = columns * (side + scale * widest + apart) - apart
    high = scale * sum(heights) + len(rows) * (over + apart) - apart
    # a hundredth of a dot more, lest rounding costs a whole one
    drawn = Figure(figsize=((wide + 0.01) / dpi, (high + 0.01) / dpi), dpi=dpi)
    drawn.set_layout_engine("none")
    top = high
    for row, height in zip(rows, heights, strict=True):
        top -= over
        for column, (title, picture, words, beside) in enumerate(row):
            left = column * (side + scale * widest + apart) + side
            tall, broad = scale * picture.shape[0], scale * picture.shape[1]
            box = (left / wide, (top - tall) / high, broad / wide, tall / high)
            axes = drawn.add_axes(box)
            axes.set_axis_off()
            place: dict[str, Any] = {
                "xycoords": "axes fraction",
                "textcoords": "offset points",
            }
            room = 72 * scale * widest / dpi - INSET  # points; a letter takes 0.6
            size = min(10.0, room / (0.6 * max(1, len(title))))
            axes.annotate(title, (0, 1), (INSET, 4 + names), **place, size=size)
            for at, word in enumerate(words):
                spot = ((at + 0.5) / len(words), 1.0)
                axes.annotate(word, spot, (0, 3), **place, size=6, ha="center")
            for at, word in enumerate(beside):
                place |= {"ha": "right", "va": "center"}
                spot = (0.0, 1 - (at + 0.5) / len(beside))
                axes.annotate(word, spot, (-3, 0), **place, size=6)
            # "none" and not "nearest": a vector file keeps the pixels as they are
            colours = np.repeat(picture[..., None], 3, axis=2)
            axes.imshow(colours, interpolation="none", aspect="auto")
        top -= scale * height + apart
    return drawn


def _save_png(figure: Figure, target: Path) -> None:
    """A PNG without an alpha channel, in grey where nothing is coloured."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    dots = np.asarray(canvas.buffer_rgba())[..., :3]
    grey = (dots == dots[..., :1]).all()
    Image.fromarray(dots[..., 0] if grey else dots).save(target, format="PNG")

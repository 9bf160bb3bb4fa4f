"""Words beside the points of a plot, moved until they do not cover each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

STEP = 11.0  # points up or down
GAP = 5.0  # points to the side
AROUND = ((1, 0.5), (0, 1), (0, -1), (1, -0.5), (-1, 0.5), (-1, -0.5))  # first is best


def annotate(
    axes: Axes, words: str, point: tuple[float, float], colour: Any
) -> Annotation:
    """Words at a point, legible over lines; `spread_labels` moves them off it."""
    outline = [withStroke(linewidth=2, foreground="white")]
    return axes.annotate(
        words,
        point,
        (0.0, 0.0),
        textcoords="offset points",
        color=colour,
        fontsize=8,
        ha="center",
        va="center",
        path_effects=outline,
    )


def spread_labels(axes: Axes, texts: Sequence[Annotation]) -> None:
    """Move each text to where, near its point, it covers the fewest points and texts.

    The axes must have their final limits.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # now the layout is known
    pixel = 72 / figure.dpi  # in points
    centres = [pixel * np.array(axes.transData.transform(each.xy)) for each in texts]
    taken = [Bbox([at - 4, at + 4]) for at in centres]
    for each, at in zip(texts, centres, strict=True):
        half = pixel * np.array(each.get_window_extent().size) / 2
        side = float(half[0]) + GAP
        places = [
            np.array([across * side, far * up * STEP])
            for far in (1, 2, 3)
            for across, up in AROUND
        ]
        boxes = [Bbox([at + place - half, at + place + half]) for place in places]
        covered = [box.count_overlaps(taken) for box in boxes]
        best = covered.index(min(covered))
        each.set_position(tuple(places[best]))
        taken.append(boxes[best])

"""What an estimator returns: figures with their errors, and what they are made of."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

RESAMPLED = 50  # times; enough for an error of two digits


@dataclass(frozen=True)
class Measured:
    """Figures of one model on one set of images; names are metrics without split.

    `nll_is5000` stands for `test/nll_is5000`. An error is the standard error of its
    figure over images (and draws), in the figure's unit.
    """

    figures: Mapping[str, float]
    errors: Mapping[str, float] = field(default_factory=dict)
    per_image: Mapping[str, Tensor] = field(default_factory=dict)  # each (N,): the CSV
    arrays: Mapping[str, Tensor] = field(default_factory=dict)  # what a page draws
    cited: frozenset[str] = frozenset()  # figures for the records; empty: all

    def __or__(self, other: Measured) -> Measured:
        """Both together, as dicts are joined."""
        return Measured(
            {**self.figures, **other.figures},
            {**self.errors, **other.errors},
            {**self.per_image, **other.per_image},
            {**self.arrays, **other.arrays},
            self.cited | other.cited,
        )


def mean_and_error(
    per_image: Mapping[str, Tensor], arrays: Mapping[str, Tensor] | None = None
) -> Measured:
    """Figures that are means over images (N,), with their standard errors."""
    values = {name: each.double() for name, each in per_image.items()}
    return Measured(
        {name: float(each.mean()) for name, each in values.items()},
        {
            name: float(each.std()) / math.sqrt(len(each))
            for name, each in values.items()
            if len(each) > 1
        },
        per_image,
        arrays or {},
    )


def bootstrap(
    figure: Callable[..., float], *sets: Tensor, generator: torch.Generator
) -> float:
    """Standard error of `figure(*sets)` over images: the rows of each set, resampled.

    Rows are drawn with replacement, each set by itself (Efron 1979).
    """
    values = []
    for _ in range(RESAMPLED):
        rows = [torch.randint(len(s), (len(s),), generator=generator) for s in sets]
        values.append(figure(*(s[r] for s, r in zip(sets, rows, strict=True))))
    return statistics.stdev(values)

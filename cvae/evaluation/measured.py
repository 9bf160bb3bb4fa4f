"""What an estimator returns: figures with their errors, and what they are made of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


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

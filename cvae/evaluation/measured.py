"""What an estimator returns: figures with their errors, and what they are made of."""

from __future__ import annotations

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

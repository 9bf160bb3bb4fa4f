"""Two sets of images compared by their features: real images (N, F), drawn (M, F).

Precision and recall: Kynkäänniemi et al. 2019 (https://arxiv.org/abs/1904.06991);
density and coverage: Naeem et al. 2020 (https://arxiv.org/abs/2002.09797). Each point
has a ball that reaches to its 5th neighbour in its own set. Distances are made in
chunks: 10,000 × 10,000 of them take 40 MB.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cvae.control import NEIGHBOURS, covered, distances, radii


class Overlap(NamedTuple):
    """What each image says; a figure is the mean, and its error that of a mean.

    precision: whether a drawn image lies in the ball of a real one, (M,) of 0 and 1.
    recall: whether a real image lies in the ball of a drawn one, (N,) of 0 and 1.
    density: in how many balls of real images a drawn one lies, over 5, (M,); with both
        sets from one distribution it is 1 in expectation.
    coverage: whether the ball of a real image holds a drawn one, (N,) of 0 and 1; with
        as many samples as images 1 − 2⁻⁵ = 0.97 in expectation if both are alike.
    """

    precision: Tensor
    recall: Tensor
    density: Tensor
    coverage: Tensor


def overlap(drawn: Tensor, real: Tensor) -> Overlap:
    """How far the two sets fill the same part of the space."""
    real_radius, drawn_radius = radii(real), radii(drawn)
    held = real.new_zeros(len(drawn))
    recalled = torch.zeros(len(real), dtype=torch.bool)
    for rows, apart in distances(drawn, real):
        held[rows] = (apart <= real_radius).sum(1).to(held)
        recalled |= (apart <= drawn_radius[rows, None]).any(0)
    parts = held > 0, recalled, held / NEIGHBOURS, covered(drawn, real)
    return Overlap(*(part.double() for part in parts))


def frechet(drawn: Tensor, real: Tensor) -> float:
    """Squared Fréchet distance of the two sets, each taken as one Gaussian.

    |m − m'|² + tr(S + S' − 2 (S S')^½) with means m and covariances S (Dowson & Landau
    1982; of an image network's features it is Heusel et al. 2017's). It is not 0 for
    two samples of one distribution, but shrinks with their size.
    """
    (mean, cov), (other_mean, other_cov) = (
        (part.mean(0), part.T.cov(correction=1).view(part.shape[1], -1))
        for part in (drawn.double(), real.double())
    )
    values, vectors = torch.linalg.eigh(cov)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    # S S' has the eigenvalues of the symmetric S^½ S' S^½
    cross = torch.linalg.eigvalsh(root @ other_cov @ root).clamp(min=0).sqrt().sum()
    apart = (mean - other_mean).square().sum()
    return float(apart + cov.trace() + other_cov.trace() - 2 * cross)

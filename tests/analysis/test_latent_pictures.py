"""Decoded planes and paths of linear models made by hand; figures by their dots."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from scipy.special import expit
from scipy.stats import norm

from analysis.drawing import latent_pictures
from cvae.grids import GAP, Picture
from cvae.loading.loaded import LoadedRun
from tests.conftest import linear, untrained_run

STEP = 28 + GAP


def linear_run(root: Path, *, size: int = 2, conditional: bool = True) -> LoadedRun:
    """Pixel k of the decoder is sigmoid(z_k), and pixel 100 + y of digit y is lit."""
    run = untrained_run(
        root, model__latent_dim=size, model__hidden=[], model__conditional=conditional
    )
    layer = linear(run.model.decoder, 0)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.fill_(-100.0)
        for k in range(size):
            layer.weight[k, k] = 1.0
            layer.bias[k] = 0.0
        for y in range(run.model.classes):
            layer.weight[100 + y, size + y] = 200.0
    return run


def pixel(picture: Picture, row: int, column: int, k: int, step: int = 28) -> int:
    """Pixel k of the tile at a place; tiles `step` apart, with a gap around if > 28."""
    edge = GAP if step > 28 else 0
    top, left = edge + row * step + k // 28, edge + column * step + k % 28
    return int(picture[top, left])


def lit(z: float) -> int:
    return round(255 * float(expit(z)))


def test_a_plane_has_the_first_axis_to_the_right_and_the_second_upwards(
    tmp_path: Path,
) -> None:
    run, count = linear_run(tmp_path), 5
    picture = latent_pictures.plane(run, np.eye(2), count, digit=3)
    assert picture.shape == (5 * 28, 5 * 28)
    at = norm.ppf([0.1, 0.3, 0.5, 0.7, 0.9])
    for row in range(count):
        for column in range(count):
            assert pixel(picture, row, column, 0) == lit(at[column])
            assert pixel(picture, row, column, 1) == lit(at[count - 1 - row])
            digits = [pixel(picture, row, column, 100 + y) for y in range(10)]
            assert digits == [255 * (y == 3) for y in range(10)]

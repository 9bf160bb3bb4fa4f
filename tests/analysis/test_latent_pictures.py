"""Decoded planes and paths of linear models made by hand; figures by their dots."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.special import expit
from scipy.stats import norm

from analysis.drawing import latent_pictures, style
from analysis.reading import latent
from analysis.reading.latent import Posterior
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


def test_the_other_dimensions_of_a_plane_stay_at_zero(tmp_path: Path) -> None:
    run = linear_run(tmp_path, size=4)
    picture = latent_pictures.plane(run, np.eye(4)[[1, 3]], 2, digit=0)
    for row in range(2):
        for column in range(2):
            assert pixel(picture, row, column, 0) == lit(0)
            assert pixel(picture, row, column, 2) == lit(0)
    assert pixel(picture, 0, 1, 1) == lit(norm.ppf(0.75))
    assert pixel(picture, 0, 1, 3) == lit(norm.ppf(0.75))


def test_one_dimension_is_a_strip(tmp_path: Path) -> None:
    picture = latent_pictures.plane(linear_run(tmp_path, size=1), np.eye(1), 6, digit=0)
    assert picture.shape == (28, 6 * 28)
    assert [pixel(picture, 0, c, 0) for c in range(6)] == [
        lit(z) for z in latent.quantiles(6)
    ]


def test_a_learned_prior_lays_its_plane_around_its_own_mean(tmp_path: Path) -> None:
    run = untrained_run(tmp_path, model__prior="learned", model__hidden=[])
    assert run.model.prior_table is not None
    layer = linear(run.model.decoder, 0)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
        layer.weight[0, 0] = layer.weight[1, 1] = 1.0
        run.model.prior_table[7] = torch.tensor([2.0, -1.0, np.log(4.0), np.log(0.25)])
    picture = latent_pictures.plane(run, np.eye(2), 3, digit=7)
    assert pixel(picture, 1, 1, 0) == lit(2)
    assert pixel(picture, 1, 1, 1) == lit(-1)
    assert pixel(picture, 1, 2, 0) == lit(2 + 2 * norm.ppf(5 / 6))
    assert pixel(picture, 0, 1, 1) == lit(-1 + 0.5 * norm.ppf(5 / 6))


def test_a_traversal_moves_one_dimension_a_row(tmp_path: Path) -> None:
    picture = latent_pictures.traversals(linear_run(tmp_path, size=4), [2, 0], digit=1)
    at = latent.quantiles(latent_pictures.STEPS)
    for row, moved in enumerate([2, 0]):
        for column, z in enumerate(at):
            for k in range(4):
                wanted = lit(z if k == moved else 0)
                assert pixel(picture, row, column, k, STEP) == wanted


def test_a_path_runs_from_the_first_image_to_the_second(tmp_path: Path) -> None:
    run = linear_run(tmp_path)
    posterior = latent.encode(run)
    picture = latent_pictures.interpolation(run, posterior, spherical=False)
    assert picture.shape == (10 * STEP + GAP, (latent_pictures.STEPS + 2) * STEP + GAP)
    for digit in range(10):
        start, end = posterior.of(digit)[:2]
        for column, image in ((0, start), (latent_pictures.STEPS + 1, end)):
            seen = round(255 * posterior.pixels[image, 300])
            assert pixel(picture, digit, column, 300, STEP) == seen
        path = latent.lerp(
            posterior.mu[start], posterior.mu[end], latent_pictures.STEPS
        )
        for column, z in enumerate(path[:, 1], start=1):
            assert abs(pixel(picture, digit, column, 1, STEP) - lit(z)) <= 1
            assert pixel(picture, digit, column, 100 + digit, STEP) == 255


def test_a_plain_model_passes_from_each_digit_to_the_next(tmp_path: Path) -> None:
    run = linear_run(tmp_path, conditional=False)
    posterior = latent.encode(run)
    found = latent_pictures.pairs(run, posterior)
    labels = [(posterior.labels[a], posterior.labels[b]) for a, b in found]
    assert labels == [(d, (d + 1) % 10) for d in range(10)]


def test_transfer_keeps_z_and_changes_the_digit(tmp_path: Path) -> None:
    run = linear_run(tmp_path)
    posterior = latent.encode(run)
    picture = latent_pictures.transfer(run, posterior)
    assert picture.shape == (10 * STEP + GAP, 11 * STEP + GAP)
    for row in range(10):
        first = posterior.of(row)[0]
        seen = round(255 * posterior.pixels[first, 300])
        assert pixel(picture, row, 0, 300, STEP) == seen
        for digit in range(10):
            z = posterior.mu[first, 0]
            assert abs(pixel(picture, row, 1 + digit, 0, STEP) - lit(z)) <= 1
            assert pixel(picture, row, 1 + digit, 100 + digit, STEP) == 255


def some(size: int = 2, count: int = 200) -> Posterior:
    random = np.random.default_rng(0)
    mu = random.normal(size=(count, size))
    sigma, labels = np.full(mu.shape, 0.2), np.arange(count) % 10
    return Posterior(mu, sigma, mu**2, np.zeros((count, 4)), labels)


def dots(drawn: Figure) -> Picture:
    """The figure as (height, width, 3) bytes."""
    canvas = FigureCanvasAgg(drawn)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def test_points_stand_at_their_place_in_the_colour_of_their_digit() -> None:
    points = np.array([[x, y] for y in (-2.5, 2.5) for x in (-3, -1.5, 0.5, 1.5, 3)])
    drawn = latent_pictures.scatter(points, np.arange(10), ["z1", "z2"], "ten")
    seen = dots(drawn)
    (axes,) = drawn.axes
    for digit, (x, y) in enumerate(axes.transData.transform(points)):
        colour = seen[seen.shape[0] - 1 - int(y), int(x)]
        assert "#{:02x}{:02x}{:02x}".format(*colour) == style.DIGITS[digit]


def test_points_far_out_are_counted_and_not_drawn() -> None:
    points = np.zeros((5000, 2))
    points[:3] = 50.0
    drawn = latent_pictures.scatter(points, np.zeros(5000, int), ["z1", "z2"], "three")
    (axes,) = drawn.axes
    assert axes.get_xlim()[1] == 3.5
    assert "3 farther out" in [text.get_text() for text in axes.texts]


def test_a_density_is_darkest_where_the_digit_is() -> None:
    found = some()
    found.mu[found.labels == 4] = [1.5, -1.0]
    drawn = latent_pictures.densities(found, [0, 1], ["z1", "z2"], "densities")
    seen = dots(drawn).astype(int).sum(2)
    axes = drawn.axes[4]
    assert axes.get_title(loc="left").startswith("4 · n=20")
    (x, y), (x0, y0) = axes.transData.transform([[1.5, -1.0], [-1.5, 1.0]])
    height = seen.shape[0]
    assert seen[height - int(y), int(x)] < seen[height - int(y0), int(x0)] - 200

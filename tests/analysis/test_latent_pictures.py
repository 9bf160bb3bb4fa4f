"""Decoded planes and paths of linear models made by hand; figures by their dots."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from scipy.special import expit
from scipy.stats import norm

from analysis.drawing import latent_pictures, plates, style
from analysis.drawing.plates import Panel
from analysis.reading import latent
from analysis.reading.arguments import FORMATS
from analysis.reading.latent import Posterior
from cvae.grids import GAP, Picture
from cvae.loading.samples import Run
from tests.conftest import linear, untrained_run

STEP = 28 + GAP


def linear_run(root: Path, *, size: int = 2, conditional: bool = True) -> Run:
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


def cut_off(drawn: Figure) -> bool:
    """Whether anything of a figure, its labels too, reaches over its edge."""
    canvas = FigureCanvasAgg(drawn)
    canvas.draw()
    box = drawn.get_tightbbox(canvas.get_renderer())
    width, height = drawn.get_size_inches()
    least = min(box.x0, box.y0, width - box.x1, height - box.y1)
    return float(least) < -1 / drawn.dpi


def test_points_stand_at_their_place_in_the_colour_of_their_digit() -> None:
    points = np.array([[x, y] for y in (-2.5, 2.5) for x in (-3, -1.5, 0.5, 1.5, 3)])
    drawn = latent_pictures.scatter(points, np.arange(10), ["z1", "z2"], "ten")
    seen = dots(drawn)
    (axes,) = drawn.axes
    for digit, (x, y) in enumerate(axes.transData.transform(points)):
        colour = seen[seen.shape[0] - 1 - int(y), int(x)]
        assert "#{:02x}{:02x}{:02x}".format(*colour) == style.DIGITS[digit]


def test_ellipses_reach_one_standard_deviation() -> None:
    centre, sigma = np.array([[0.5, 0.6]]), np.array([[0.8, 0.2]])
    drawn = latent_pictures.scatter(
        centre, np.array([2]), ["z1", "z2"], "one", sigma=sigma
    )
    dark = dots(drawn).min(2) < 200
    (axes,) = drawn.axes

    def near(x: float, y: float) -> bool:
        column, row = axes.transData.transform([x, y]).astype(int)
        row = dark.shape[0] - 1 - row
        return bool(dark[row - 1 : row + 2, column - 1 : column + 2].any())

    edges = [(1.3, 0.6), (-0.3, 0.6), (0.5, 0.8), (0.5, 0.4)]
    assert all(near(*edge) for edge in edges)
    assert not any(near(*spot) for spot in [(1.15, 0.6), (1.45, 0.6), (0.5, 0.7)])


def test_points_far_out_are_counted_and_not_drawn() -> None:
    points = np.zeros((5000, 2))
    points[:3] = 50.0
    drawn = latent_pictures.scatter(points, np.zeros(5000, int), ["z1", "z2"], "three")
    (axes,) = drawn.axes
    assert axes.get_xlim()[1] == 3.5
    assert "3 farther out" in [text.get_text() for text in axes.texts]


@pytest.mark.parametrize("size", [1, 2])
def test_no_label_of_a_figure_is_cut_off(size: int) -> None:
    found, names = some(size), ["z1 (2.40 nats)", "z2 (2.13 nats)"][:size]
    title = "a-name-as-long-as-they-get, 20 latent dimensions: q(z|y) of 10,000 images"
    dims = list(range(size))
    assert cut_off(latent_pictures.densities(found, dims, names, 3 * title))
    points = latent_pictures.scatter(
        found.mu, found.labels, names, title, sigma=found.sigma
    )
    assert not cut_off(points)
    assert not cut_off(latent_pictures.densities(found, dims, names, title))


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


def test_every_pixel_of_a_mosaic_is_a_square_of_whole_dots() -> None:
    random = np.random.default_rng(0)
    panels = [
        Panel("", random.integers(0, 256, (70, 110), dtype=np.uint8)) for _ in range(5)
    ]
    seen = dots(plates.mosaic(panels, columns=2))
    scale = plates.SHARP // 220
    high, wide = 70 * scale, 110 * scale
    over = (seen.shape[0] - 3 * high) // 3  # title and space; the last has no space
    for place, (_, picture, _) in enumerate(panels):
        row, column = divmod(place, 2)
        large = np.kron(picture, np.ones((scale, scale), np.uint8))[..., None]
        left = column * (seen.shape[1] - wide)
        tops = range(row * (high + over), row * (high + over) + 3 * over)
        assert any(
            (seen[top : top + high, left : left + wide] == large).all() for top in tops
        )


def test_the_titles_of_a_mosaic_are_whole() -> None:
    picture = np.zeros((28, 280), np.uint8)
    titled = [Panel(f"seed-notebook, digit {k}", picture) for k in range(3)]
    assert not cut_off(plates.mosaic(titled, columns=1))


def test_the_same_figure_gives_the_same_bytes_and_text_stays_text(
    tmp_path: Path,
) -> None:
    def draw(folder: Path) -> list[Path]:
        found = some()
        drawn = latent_pictures.scatter(
            found.mu, found.labels, ["z1", "z2"], "Who is where"
        )
        return plates.save(drawn, folder / "scatter", FORMATS)

    one, two = draw(tmp_path / "one"), draw(tmp_path / "two")
    assert [path.suffix for path in one] == [".png", ".svg", ".pdf"]
    for first, second in zip(one, two, strict=True):
        assert first.read_bytes() == second.read_bytes()
    assert ">Who is where<" in one[1].read_text()


def test_a_grey_figure_is_saved_in_grey_and_a_coloured_one_in_colour(
    tmp_path: Path,
) -> None:
    grey = plates.mosaic([Panel("grey", np.full((9, 9), 77, np.uint8))], 1)
    found = some()
    coloured = latent_pictures.scatter(found.mu, found.labels, ["z1", "z2"], "coloured")
    for drawn, mode in ((grey, "L"), (coloured, "RGB")):
        (path,) = plates.save(drawn, tmp_path / mode)
        with Image.open(path) as image:
            assert image.mode == mode
            if mode == "L":
                assert image.getpixel((0, image.height - 1)) == 77

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cvae import grids, mnist
from cvae.grids import GAP, Picture
from cvae.loading.loaded import LoadedRun, generate_conditional_samples
from cvae.model import CVAE
from tests.conftest import generator, untrained_run

SHAPE = (3, 4)


def model(*, conditional: bool = True, prior: str = "standard") -> CVAE:
    made = CVAE(
        latent_dim=2,
        hidden=(6,),
        conditional=conditional,
        prior=prior,
        shape=(3, 4),
        generator=generator(),
    )
    with torch.no_grad():
        for part in made.parameters():
            part.mul_(3)
    return made


def at(picture: Picture, row: int, column: int) -> Picture:
    """The tile at a place of a grid."""
    top, left = GAP + row * (SHAPE[0] + GAP), GAP + column * (SHAPE[1] + GAP)
    return picture[top : top + SHAPE[0], left : left + SHAPE[1]]


def size(rows: int, columns: int) -> tuple[int, int]:
    return (GAP + rows * (SHAPE[0] + GAP), GAP + columns * (SHAPE[1] + GAP))


def grey(pixels: Tensor) -> Picture:
    rounded = (pixels.detach() * 255).round().reshape(SHAPE)
    return rounded.numpy().astype(np.uint8)


def some_images(count: int = 10) -> mnist.Images:
    x = torch.randint(256, (count, 12), generator=generator(1), dtype=torch.uint8)
    return mnist.Images(x, torch.arange(count) % 10)


def test_tiles_stand_in_their_place_with_dark_gaps() -> None:
    images = torch.rand(2, 3, 12, generator=generator())
    picture = grids.tile(images, SHAPE)
    assert picture.shape == size(2, 3)
    assert picture.dtype == np.uint8
    seen = np.zeros_like(picture)
    for row in range(2):
        for column in range(3):
            wanted = grey(images[row, column])
            assert (at(picture, row, column) == wanted).all()
            at(seen, row, column)[:] = wanted
    assert (picture == seen).all()  # nothing else is lit


def test_shown_images_are_the_first_of_each_digit_in_order() -> None:
    labels = torch.tensor([3, 3, 0, 9, 1, 0, 2, 4, 5, 6, 7, 8, 9])
    images = torch.arange(13, dtype=torch.uint8)[:, None].expand(13, 12)
    shown = grids.shown_images(mnist.Images(images, labels))
    assert shown.labels.tolist() == list(range(10))
    assert shown.images[:, 0].tolist() == [2, 4, 6, 0, 7, 8, 9, 10, 11, 3]
    fewer = grids.shown_images(mnist.Images(images[:4], labels[:4]))
    assert fewer.labels.tolist() == [0, 3, 9]


def test_a_denoiser_shows_clean_noisy_and_restored() -> None:
    made, data = model(), some_images()
    picture = grids.reconstructions(
        made, data, SHAPE, corrupt=0.5, generator=generator(4)
    )
    assert picture.shape == size(3, 10)
    clean = data.images / 255
    noisy = mnist.salt_and_pepper(clean, 0.5, generator(4))
    mu, _ = made.encode(noisy, data.labels)
    restored = torch.sigmoid(made.decode(mu, data.labels))
    for row, images in enumerate((clean, noisy, restored)):
        for column in range(10):
            apart = at(picture, row, column) - 1.0 * grey(images[column])
            assert np.abs(apart).max() <= 1


@pytest.mark.parametrize("columns", [1, 7, 10])
def test_a_digit_grid_has_a_row_a_digit_and_one_z_a_column(columns: int) -> None:
    made, noise = model(), torch.randn(columns, 2, generator=generator(3))
    picture = grids.digit_grid(made, noise, SHAPE)
    assert picture.shape == size(10, columns)
    for digit in range(10):
        for column in range(columns):
            z, y = noise[column : column + 1], torch.tensor([digit])
            wanted = grey(torch.sigmoid(made.decode(z, y))[0])
            assert np.abs(at(picture, digit, column) - 1.0 * wanted).max() <= 1


@pytest.mark.parametrize("rows", [1, 3, 10])
def test_an_unconditional_grid_is_filled_row_by_row(rows: int) -> None:
    made = model(conditional=False)
    noise = torch.randn(10 * rows, 2, generator=generator(3))
    picture = grids.digit_grid(made, noise, SHAPE)
    assert picture.shape == size(rows, 10)
    for place in range(10 * rows):
        z = noise[place : place + 1]
        wanted = grey(torch.sigmoid(made.decode(z, torch.zeros(1).long()))[0])
        found = at(picture, place // 10, place % 10)
        assert np.abs(found - 1.0 * wanted).max() <= 1


def drawn(
    run: LoadedRun, monkeypatch: pytest.MonkeyPatch, temperature: float = 1.0
) -> Tensor:
    """The z (N, Z) that 4,000 samples of digit 3 were decoded from."""
    seen, decode = list[Tensor](), run.model.decode

    def spy(z: Tensor, y: Tensor) -> Tensor:
        assert set(y.tolist()) == {3}
        seen.append(z.detach())
        return decode(z, y)

    with monkeypatch.context() as patch:
        patch.setattr(run.model, "decode", spy)
        generate_conditional_samples(3, 4000, run, seed=5, temperature=temperature)
    return torch.cat(seen)


def test_z_is_standard_normal_and_one_for_each_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    z = drawn(untrained_run(tmp_path, model__latent_dim=2), monkeypatch).double()
    assert z.shape == (4000, 2)
    assert len(z.unique(dim=0)) == 4000
    error = 5 / 4000**0.5  # five standard errors of a mean of standard normals
    assert z.mean(0).abs().max() < error
    assert (z.var(0) - 1).abs().max() < error * 2**0.5
    assert (z.pow(4).mean(0) - 3).abs().max() < error * 96**0.5
    assert (z.prod(1).mean()).abs() < error


@pytest.mark.parametrize("temperature", [0.0, 0.5, 3.0])
def test_temperature_is_the_standard_deviation_in_units_of_the_priors(
    temperature: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = untrained_run(tmp_path, model__latent_dim=2, model__prior="learned")
    with torch.no_grad():
        table = run.model.state_dict()["prior_table"]
        table.normal_(generator=torch.Generator().manual_seed(1))
    mu, logvar = table[3].chunk(2)
    one = drawn(run, monkeypatch)
    noise = (one - mu) / torch.exp(logvar / 2)
    assert (noise.std(0) - 1).abs().max() < 0.06
    scaled = drawn(run, monkeypatch, temperature)
    expected = mu + temperature * torch.exp(logvar / 2) * noise
    torch.testing.assert_close(scaled, expected, rtol=1e-4, atol=1e-4)

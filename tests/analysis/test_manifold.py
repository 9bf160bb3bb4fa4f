"""`make manifold` on runs of every shape, and what it says where it cannot."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy.special import expit
from scipy.stats import norm

from analysis import explorer, manifold
from analysis.drawing import latent_plates, plates
from analysis.drawing.latent_plates import draw_latent
from analysis.reading import latent
from analysis.reading.latent import Array, Posterior
from cvae import mnist
from cvae.grids import Picture
from cvae.loading.loaded import LoadedRun
from cvae.model import CVAE
from cvae.priors import gaussian_kl_per_dim
from tests.conftest import data_set, generator, idx, linear, untrained_run, write


def drawn(root: Path, *, scale: float = 1.0, **dotted: Any) -> tuple[set[str], str]:
    """The names of the figures of an untrained run, and its page."""
    run = untrained_run(root, scale=scale, model__hidden=[16], **dotted)
    posterior = latent.encode(run)
    digit = 3 if run.model.classes else None
    shown = draw_latent(run, posterior, digit=digit)
    page = manifold.write_latent(run, posterior, shown, root)
    return {each.name for each in shown}, page.read_text()


def test_what_is_written_is_whole_and_twice_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plates, "SHARP", 600)  # small pictures are drawn faster
    run = untrained_run(tmp_path, model__hidden=[16], model__conditional=False)
    one, two = (manifold.manifold(run, tmp_path / name) for name in ("one", "two"))
    for first, second in zip(one, two, strict=True):
        assert first.read_bytes() == second.read_bytes(), first.name
    page = one[0].read_text()
    linked = set(re.findall(r"\((\w+\.png)\)", page))
    assert linked == {path.name for path in one if path.suffix == ".png"}


def test_latents_have_the_same_order_everywhere(tmp_path: Path) -> None:
    """The two dimensions with the most nats first: on planes, in tables, on pages."""
    run = untrained_run(tmp_path, model__hidden=[16], model__latent_dim=4, scale=3.0)
    with torch.no_grad():  # z4 varies most, then z2, then z3
        last = linear(run.model.encoder, -1)
        last.weight[:4] *= torch.tensor([[0.0], [3.0], [1.0], [9.0]])
    posterior = latent.encode(run)
    assert posterior.plane == [3, 1]
    names = [f"z{dim + 1}" for dim in posterior.order]
    assert list(manifold.dimensions(posterior)["dimension"]) == names
    facts = explorer.page_facts(run, posterior, "")
    assert facts["order"] == posterior.order.tolist()
    assert facts["axes"] == posterior.plane
    planes = {plate.name: plate for plate in draw_latent(run, posterior, digit=0)}
    assert re.search("z4 .* to the right, z2 .* upwards", planes["planes"].caption)
    figure = planes["posterior"].figure
    assert isinstance(figure, Figure)
    assert figure.axes[0].get_xlabel().startswith("z4")
    assert figure.axes[0].get_ylabel().startswith("z2")


@pytest.mark.parametrize(("count", "labels"), [(1, [7]), (3, [7, 7, 7])])
@pytest.mark.parametrize("conditional", [True, False])
def test_one_test_image_or_one_digit_is_drawn_without_what_needs_more(
    count: int, labels: list[int], conditional: bool, tmp_path: Path
) -> None:
    files = data_set(100, count)
    files["t10k-labels-idx1-ubyte"] = idx(np.array(labels, np.uint8))
    write(tmp_path / "data", files)
    names, page = drawn(tmp_path, model__conditional=conditional, model__latent_dim=3)
    assert ("transfer" in names) == conditional
    assert "a single digit" in page


def test_classes_may_be_fewer_than_ten(tmp_path: Path) -> None:
    files = data_set(100, 20)
    files["t10k-labels-idx1-ubyte"] = idx(np.arange(20, dtype=np.uint8) % 8)
    write(tmp_path / "data", files)
    run = untrained_run(tmp_path, model__hidden=[16])
    values = run.spec.model.model_dump()
    model = CVAE(**values, classes=8, generator=generator())
    run = dataclasses.replace(run, model=model)
    drawn = draw_latent(run, latent.encode(run), digit=3)
    assert "transfer" in {plate.name for plate in drawn}


def posterior(mu: Array, sigma: Array | float = 0.1) -> Posterior:
    """A posterior at `mu` (N, Z) whose labels go round 0 to 9."""
    spread = np.broadcast_to(sigma, mu.shape).astype(float)
    kl = 0.5 * (mu**2 + spread**2 - 1) - np.log(spread)
    return Posterior(mu, spread, kl, np.zeros((len(mu), 4)), np.arange(len(mu)) % 10)


def test_quantiles_stand_at_the_middles_of_equal_mass_and_are_symmetric() -> None:
    for count in (1, 2, 7, 20):
        at = latent.quantiles(count)
        assert at == pytest.approx(-at[::-1])
        assert norm.cdf(at) == pytest.approx([(k + 0.5) / count for k in range(count)])


def test_neighbours_name_separate_clusters_and_know_nothing_of_shuffled_ones() -> None:
    random = np.random.default_rng(0)
    labels = np.arange(2000) % 10
    centres = 10.0 * np.arange(10)[labels, None]
    points = centres + random.normal(size=(2000, 2))
    assert latent.neighbour_accuracy(points, labels) == 1.0
    mixed = latent.neighbour_accuracy(points, random.permutation(labels))
    assert mixed == pytest.approx(0.1, abs=0.03)


def test_the_most_informed_dimensions_come_first_and_still_ones_are_inactive() -> None:
    random = np.random.default_rng(4)
    mu = random.normal(size=(500, 4)) * [0.01, 1.0, 2.0, 0.2]
    found = posterior(mu, np.array([1.0, 0.1, 0.01, 0.9]))
    assert found.order.tolist() == [2, 1, 3, 0]
    assert found.active == [2, 1, 3]


def test_a_posterior_is_that_of_the_encoder(tmp_path: Path) -> None:
    run = untrained_run(tmp_path, model__latent_dim=3)
    found = latent.encode(run)
    test = mnist.load_mnist(tmp_path / "data").test
    mu, logvar = run.model.encode(test.images / 255, test.labels)
    assert found.mu == pytest.approx(mu.detach().numpy(), abs=1e-6)
    assert found.sigma == pytest.approx(np.exp(0.5 * logvar.detach().numpy()), abs=1e-6)
    assert found.labels.tolist() == test.labels.tolist()
    kl = gaussian_kl_per_dim((mu, logvar))
    assert found.kl == pytest.approx(kl.detach().numpy(), abs=1e-6)


def test_a_learned_priors_scale_is_taken_out_of_mean_and_width(tmp_path: Path) -> None:
    run = untrained_run(tmp_path, model__prior="learned", model__hidden=[])
    table = run.model.prior_table
    assert table is not None
    with torch.no_grad():  # q = N(5, 0.25), p = N(1, 4): u = N(2, 1/16)
        layer = linear(run.model.encoder, 0)
        layer.weight.zero_()
        layer.bias.copy_(torch.tensor([5.0, 5.0, math.log(0.25), math.log(0.25)]))
        table.copy_(torch.tensor([1.0, 1.0, math.log(4), math.log(4)]).expand(10, 4))
    found = latent.encode(run)
    assert found.mu == pytest.approx(2.0, abs=1e-5)
    assert found.sigma == pytest.approx(0.25, abs=1e-5)
    assert found.kl == pytest.approx(0.5 * (4 + 1 / 16 - 1 + math.log(16)), abs=1e-5)


def linear_run(root: Path, size: int = 2) -> LoadedRun:
    """Pixel k of the decoder is sigmoid(z_k), and pixel 100 + y of digit y is lit."""
    run = untrained_run(root, model__latent_dim=size, model__hidden=[])
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


def pixel(picture: Picture, row: int, column: int, k: int) -> int:
    """Pixel k of the tile at a place."""
    return int(picture[28 * row + k // 28, 28 * column + k % 28])


def lit(z: float) -> int:
    return round(255 * float(expit(z)))


def test_a_plane_has_the_first_axis_to_the_right_and_the_second_upwards(
    tmp_path: Path,
) -> None:
    run, count = linear_run(tmp_path), 5
    picture = latent_plates.plane(run, np.eye(2), count, digit=3)
    assert picture.shape == (5 * 28, 5 * 28)
    at = norm.ppf([0.1, 0.3, 0.5, 0.7, 0.9])
    for row in range(count):
        for column in range(count):
            assert pixel(picture, row, column, 0) == lit(at[column])
            assert pixel(picture, row, column, 1) == lit(at[count - 1 - row])
            digits = [pixel(picture, row, column, 100 + y) for y in range(10)]
            assert digits == [255 * (y == 3) for y in range(10)]

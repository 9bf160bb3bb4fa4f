"""`make manifold` on runs of every shape, and what it says where it cannot."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from analysis import explorer, manifold
from analysis.drawing import latent_pictures, latent_plates, plates
from analysis.drawing.latent_plates import draw_latent
from analysis.reading import latent
from cvae.model import CVAE
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


def test_the_columns_and_rows_of_every_sheet_are_labelled(tmp_path: Path) -> None:
    """The caption's ± is that of the sheet it stands under; z2 goes up."""
    run = untrained_run(tmp_path, model__hidden=[16], model__latent_dim=3, scale=3.0)
    posterior = latent.encode(run)
    drawn = {plate.name: plate for plate in draw_latent(run, posterior, digit=3)}

    def words(name: str) -> list[str]:
        figure = drawn[name].figure
        assert isinstance(figure, Figure)
        return [text.get_text() for text in figure.axes[0].texts][1:]

    digits = [str(digit) for digit in range(10)]
    assert words("transfer") == ["image", *digits, *digits]
    large = latent_plates.column_labels(latent_plates.LARGE)
    assert large[0] == "−1.96"
    assert words("plane_3") == [*large, *large[::-1]]
    assert words("planes")[0] == words("planes")[-1] == "−1.38"
    assert "−1.38 to 1.38" in drawn["planes"].caption
    steps = latent_plates.column_labels(latent_pictures.STEPS)
    rows = [f"z{dim + 1}" for dim in posterior.active]
    assert words("traversals_3") == [*steps, *rows]


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

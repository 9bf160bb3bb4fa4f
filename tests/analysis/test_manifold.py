"""`make manifold` on runs of every shape, and what it says where it cannot."""

from __future__ import annotations

import csv
import json
import re
import shutil
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
from cvae.run import runner
from cvae.run.folder import RunFolder
from tests.conftest import data_set, idx, linear, spec, untrained_run, write


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs: a conditional and a plain one, one epoch each."""
    root = tmp_path_factory.mktemp("manifold")
    write(root / "data", data_set(100, 100))
    for conditional in (True, False):
        wanted = spec(
            name="conditional" if conditional else "plain",
            data__root=str(root / "data"),
            data__validation_images=0,
            model__conditional=conditional,
            model__hidden=[16],
            training__epochs=1,
        )
        runner.run(wanted, runs=root / "runs", offline=True)
    return root / "runs"


def drawn(root: Path, *, scale: float = 1.0, **dotted: Any) -> tuple[set[str], str]:
    """The names of the figures of an untrained run, and its page."""
    run = untrained_run(root, scale=scale, model__hidden=[16], **dotted)
    posterior = latent.encode(run)
    digit = 3 if run.model.classes else None
    shown = draw_latent(run, posterior, digit=digit, ellipses=True)
    page = manifold.write_latent(run, posterior, shown, root)
    return {each.name for each in shown}, page.read_text()


ALWAYS = {"posterior", "densities", "interpolation"}


def test_two_dimensions_give_planes_positions_and_paths(tmp_path: Path) -> None:
    names, page = drawn(tmp_path)
    assert names == ALWAYS | {"planes", "plane_3", "transfer"}
    assert re.search("z1 .* to the right, z2 .* upwards", page)
    assert "the 1-σ contours of the first" in page


def test_more_dimensions_add_traversals_and_principal_axes(tmp_path: Path) -> None:
    names, page = drawn(tmp_path, model__latent_dim=5, scale=3.0)
    more = {"planes", "plane_3", "transfer", "pca", "traversals_3"}
    assert names == ALWAYS | more
    assert "all other dimensions at 0" in page


def test_a_plain_model_has_one_plane_and_no_label(tmp_path: Path) -> None:
    names, page = drawn(
        tmp_path, model__conditional=False, model__latent_dim=3, scale=3.0
    )
    assert names == ALWAYS | {"plane", "pca", "traversals"}
    assert "Plain VAE" in page


def test_a_sheet_says_how_many_of_its_digits_are_the_digit_asked_for(
    tmp_path: Path,
) -> None:
    """No caption says that the label decides the digit where it does not."""
    run = untrained_run(tmp_path, model__hidden=[16], model__latent_dim=3, scale=3.0)
    posterior = latent.encode(run)

    def captions() -> dict[str, str]:
        return {p.name: p.caption for p in draw_latent(run, posterior, digit=3)}

    sheets = ("planes", "traversals_3", "transfer")
    for name in sheets:
        assert "asked for was not measured" in captions()[name]
    measured = {"test/label_fidelity": 0.351, "test/transfer_fidelity": 0.982}
    measured |= {"test/judge_accuracy": 0.9948}
    run.folder.path.mkdir(exist_ok=True)
    record = {"epoch": 1, "step": 1, "time": 1, "seconds": {}, "metrics": measured}
    (run.folder.path / "records.jsonl").write_text(json.dumps(record) + "\n")
    found = captions()
    for name in sheets[:2]:
        assert "reads 35.10 % of samples as the digit asked for" in found[name]
        assert "Under 95 %" in found[name]
    assert "98.20 % of test images decoded as another digit" in found["transfer"]
    assert "Under" not in found["transfer"]
    assert "A CNN with 99.48 % test accuracy" in found["transfer"]


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


def test_the_tables_hold_every_posterior_and_dimension(tmp_path: Path) -> None:
    run = untrained_run(tmp_path, model__hidden=[16], model__latent_dim=3)
    posterior = latent.encode(run)
    files = manifold.write_tables(posterior, tmp_path)
    rows, dimensions = (
        list(csv.DictReader(path.read_text().splitlines())) for path in files
    )
    assert [int(row["label"]) for row in rows] == posterior.labels.tolist()
    for k in range(3):
        mu = [float(row[f"mu_{k + 1}"]) for row in rows]
        assert mu == pytest.approx(posterior.mu[:, k], rel=1e-4)
    kl = [float(row["kl"]) for row in dimensions]
    assert kl == pytest.approx(np.sort(posterior.kl.mean(0))[::-1], abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--run", "nothing"], 2, "no run 'nothing'"),
        (["--run", "plain", "--digit", "3"], 2, "is unconditional"),
        (["--run", "conditional", "--formats", "gif"], 2, "png, svg, pdf"),
    ],
)
def test_a_mistake_gets_one_clear_message_and_its_exit_code(
    arguments: list[str],
    code: int,
    words: str,
    trained: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    out = ["--runs", str(trained), "--out", str(tmp_path / "out")]
    assert manifold.main([*arguments, *out]) == code
    assert words in caplog.text
    assert not (tmp_path / "out").exists()


def test_missing_weights_and_data_are_said(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(trained, runs)
    arguments = ["--runs", str(runs), "--run", "conditional"]
    folder = next(runs.glob("conditional-*"))
    root = Path(RunFolder(folder).spec().data.root)
    root.rename(root.with_name("gone"))
    try:
        assert manifold.main(arguments) == 3
    finally:
        root.with_name("gone").rename(root)
    assert "no such folder" in caplog.text
    (folder / "model.safetensors").unlink()
    assert manifold.main(arguments) == 2
    assert "model.safetensors: cannot be read" in caplog.text


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
    for name in ("posterior", "densities"):
        figure = planes[name].figure
        assert isinstance(figure, Figure)
        across = figure.axes[0].get_xlabel() or figure.get_supxlabel()
        up = figure.axes[0].get_ylabel() or figure.get_supylabel()
        assert (across[:2], up[:2]) == ("z4", "z2")


@pytest.mark.parametrize(("count", "labels"), [(1, [7]), (3, [7, 7, 7])])
@pytest.mark.parametrize("conditional", [True, False])
def test_one_test_image_or_one_digit_is_drawn_without_what_needs_more(
    count: int, labels: list[int], conditional: bool, tmp_path: Path
) -> None:
    files = data_set(100, count)
    files["t10k-labels-idx1-ubyte"] = idx(np.array(labels, np.uint8))
    write(tmp_path / "data", files)
    names, page = drawn(tmp_path, model__conditional=conditional, model__latent_dim=3)
    assert ("interpolation" in names) == (count > 1)
    assert ("There is no interpolation: no digit has two" in page) == (count == 1)
    assert "a single digit" in page

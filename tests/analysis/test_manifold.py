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
from matplotlib.figure import Figure

from analysis import manifold
from analysis.drawing import latent_pictures, latent_plates, plates
from analysis.drawing.latent_plates import draw_latent
from analysis.reading import latent
from cvae.run import runner
from cvae.run.folder import RunFolder
from tests import children
from tests.conftest import data_set, spec, untrained_run, write
from tests.test_commands import make


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
    assert "z1 to the right, z2 upwards." in page
    assert "the 1-σ contours of the first" in page


def test_more_dimensions_add_traversals_and_principal_axes(tmp_path: Path) -> None:
    names, page = drawn(tmp_path, model__latent_dim=5, scale=3.0)
    more = {"planes", "plane_3", "transfer", "pca", "traversals_3"}
    assert names == ALWAYS | more
    assert "all other dimensions at 0" in page


def test_one_dimension_is_drawn_as_strips(tmp_path: Path) -> None:
    names, page = drawn(tmp_path, model__latent_dim=1)
    assert names == ALWAYS | {"planes", "transfer"}
    assert "z1 to the right." in page


def test_a_plain_model_has_one_plane_and_no_label(tmp_path: Path) -> None:
    names, page = drawn(
        tmp_path, model__conditional=False, model__latent_dim=3, scale=3.0
    )
    assert names == ALWAYS | {"plane", "pca", "traversals"}
    assert "Plain VAE" in page
    assert "given no label" in page


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
        assert "reads 35.1 % of samples as the digit asked for" in found[name]
        assert "Under 95 %" in found[name]
    assert "98.2 % of test images decoded as another digit" in found["transfer"]
    assert "Under" not in found["transfer"]
    assert "A CNN with 99.48 % test accuracy" in found["transfer"]


def test_the_columns_of_every_sheet_are_labelled(tmp_path: Path) -> None:
    run = untrained_run(tmp_path, model__hidden=[16], model__latent_dim=3, scale=3.0)
    drawn = draw_latent(run, latent.encode(run), digit=3)
    words = {
        plate.name: [text.get_text() for text in plate.figure.axes[0].texts]
        for plate in drawn
        if isinstance(plate.figure, Figure)
    }
    digits = [str(digit) for digit in range(10)]
    assert words["transfer"][1:] == ["image", *digits]
    assert words["plane_3"][1:] == latent_plates.column_labels(latent_plates.LARGE)
    assert words["plane_3"][1] == "−1.96"
    assert words["traversals_3"][1:] == latent_plates.column_labels(
        latent_pictures.STEPS
    )
    assert words["planes"][0] == "digit 0"
    assert [words["planes"][1], words["planes"][-1]] == ["−1.38", "1.38"]


def test_a_posterior_that_fell_onto_the_prior_is_drawn(tmp_path: Path) -> None:
    names, page = drawn(tmp_path, model__latent_dim=3, scale=0.0)
    assert "traversals_3" not in names  # no dimension is active
    assert "0 of them active" in page


def test_a_learned_prior_says_what_the_axes_mean(tmp_path: Path) -> None:
    _, page = drawn(tmp_path, model__prior="learned")
    assert "σ of p(z|y) from its mean" in page


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


def test_the_page_gives_the_numbers(tmp_path: Path) -> None:
    run = untrained_run(tmp_path, model__hidden=[16])
    posterior = latent.encode(run)
    _, page = drawn(tmp_path)
    found = 100 * latent.neighbour_accuracy(posterior.mu, posterior.labels)
    assert f"in z name the digit of {found:.1f} %" in page
    assert "the commonest would be right for 10.0 %" in page
    assert "colours should mix" in page
    kl = posterior.kl.mean(0)
    assert f"| z{kl.argmax() + 1} | {kl.max():.4f} |" in page


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


def test_the_command_prints_the_page_it_wrote(trained: Path, tmp_path: Path) -> None:
    done = children.python(
        *("-W", "error", "-m", "analysis.manifold"),
        *("--runs", str(trained), "--run", "plain", "--formats", "svg"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    page = tmp_path / done.stdout.partition(":")[0]
    assert page.name == "manifold.md"
    assert page.with_name("plane.svg").exists()
    assert page.with_name("plane.png").exists()


def test_make_manifold_hands_on_what_the_user_says_as_it_is(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    hostile = f"$(shell touch {trap})`touch {trap}`"
    done = make("-n", "manifold", f"RUN={hostile}", "DIGIT=3", "FORMATS=svg")
    assert done.returncode == 0, done.stderr
    for name in ("run", "digit", "formats"):
        assert f'--{name}="${name.upper()}"' in done.stdout
    assert not trap.exists()


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

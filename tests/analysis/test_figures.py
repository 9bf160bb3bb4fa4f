"""README's figures and numbers from runs whose figures are known."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import yaml
from PIL import Image

from analysis import figures
from analysis.comparing import readme_tables
from analysis.drawing import plates, readme_figures
from analysis.drawing.readme_figures import EXHIBITS
from analysis.reading import latent, needed
from analysis.reading.needed import SINGLE, SWEEPS, Needed
from cvae import __main__, engine, mnist
from cvae.errors import RunNotFound
from cvae.run.find import finished_run
from cvae.run.folder import RunFolder
from cvae.spec.document import split_overrides
from cvae.spec.fields import Spec, flatten, nested
from cvae.tracking import note
from tests import children
from tests.conftest import data_set, generator, write
from tests.test_commands import ROOT

MARKERS = "".join(
    f"about {name}\n<!-- figures:{name} -->\nold\n<!-- /figures:{name} -->\n"
    for name in readme_tables.TABLES
)
DRAWN_FROM = {"seed_notebook", "plain_vae", "denoising", "latent_size", "plain_latent"}


def bound(spec: Spec) -> float:
    """A test bound that tells the run: latent size, β and seed can be read from it."""
    known = spec.model.latent_dim + 10 * spec.objective.beta + spec.training.seed
    return 100 + known + 7 * (spec.name == "plain-vae")


@functools.cache
def digest_of(root: str) -> str:
    return mnist.load_mnist(root).digest


def pretend(spec: Spec, runs: Path, *, weights: bool) -> None:
    """The folder that a finished run of `spec` would leave, without the training."""
    folder = RunFolder(runs / f"{spec.name}-{spec.id}")
    folder.path.mkdir(parents=True)
    written = yaml.safe_dump(nested(flatten(spec)))
    (folder.path / "spec.yaml").write_text(written)
    images = {"training": 1000, "validation": 100, "test": 100}
    data = {"shape": [28, 28], "images": images, "digest": digest_of(spec.data.root)}
    info = {
        "status": "FINISHED",
        "facts": {"processor": "a processor", "version.torch": "2.0"},
        "data": data,
    }
    (folder.path / "run.json").write_text(
        json.dumps(info | {"id": spec.id, "uid": folder.name})
    )
    kl = 5 / (spec.objective.beta + 0.1)
    final = {"neg_elbo": bound(spec), "kl": kl, "recon": bound(spec) - kl}
    epochs = [
        {f"{part}/neg_elbo": bound(spec) + 9 / epoch for part in ("train", "val")}
        for epoch in (1, 2, 3)
    ]
    test = {f"test/{key}": value for key, value in final.items()}
    epochs.append(test | {"test/active_units": 2, "time/total": 1.0})
    lines = [
        json.dumps({"epoch": min(k, 3), "step": k, "time": 0, "metrics": metrics})
        for k, metrics in enumerate(epochs, start=1)
    ]
    (folder.path / "records.jsonl").write_text("\n".join([*lines, ""]))
    if weights:
        model = engine.build_model(spec, pixels=784, generator=generator())
        safetensors.torch.save_file(model.state_dict(), folder.weights)


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Needed:
    """All that is needed, as if it had been run."""
    root = tmp_path_factory.mktemp("figures")
    write(root / "data", data_set(100, 100))
    overrides = (f"data.root={root / 'data'}", "data.validation_images=0")
    all_runs = Needed(root / "runs", overrides, seeds=2)
    for name in (*SINGLE, *SWEEPS):
        for variant in all_runs.plan(name).variants:
            weights = name in DRAWN_FROM and variant.swept["training.seed"] == 0
            pretend(variant.spec, all_runs.runs, weights=weights)
    return all_runs


@pytest.fixture(scope="module")
def everything(there: Needed) -> Path:
    """The folder with all figures, and README.md in it."""
    out = there.runs.parent / "docs"
    out.mkdir()
    (out / "README.md").write_text(MARKERS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plates, "SHARP", 600)  # small pictures are drawn faster
        names = [*readme_tables.TABLES, *EXHIBITS]
        figures.make_figures(there, names, out=out, readme=out / "README.md")
    return out


def test_every_picture_that_readme_shows_is_drawn(everything: Path) -> None:
    text = (ROOT / "README.md").read_text()
    shown = set(re.findall(r"docs/(\w+\.png)", text))
    drawn = {path.name for path in everything.glob("*.png")}
    assert shown
    assert shown <= drawn
    page = (everything / "results.md").read_text()
    assert set(re.findall(r"\((\w+\.png)\)", page)) <= drawn
    assert {f"digit_{digit}.png" for digit in range(10)} <= drawn


def test_readme_has_a_place_for_every_table() -> None:
    text = (ROOT / "README.md").read_text()
    for name in readme_tables.TABLES:
        figures.replaced(text, name, "", Path("README.md"))


def test_the_single_specs_have_mean_and_deviation_over_seeds(everything: Path) -> None:
    text = (everything / "README.md").read_text()
    # seeds 0 and 1 apart by 1: the mean is half above the first, sd is 1/√2
    assert "| `quickstart` | 794-512-256-2, 15 epochs | 112.50 ± 0.71 | 4.55 ±" in text
    assert "| `pytorch_example` | 784-400-20, 10 epochs | 130.50 ± 0.71" in text
    assert "105.55 [2] |" in text
    assert "over 2 seeds; made on a processor with torch 2.0." in text
    assert "The label lowers the bound of the two-dimensional network by 7.0" in text
    assert "old" not in text


def test_a_sweep_of_two_fields_is_a_grid_and_fields_in_step_share_a_head(
    there: Needed, everything: Path
) -> None:
    text = (everything / "README.md").read_text()
    betas = dict.fromkeys(
        swept["objective.beta"] for swept, _ in there.children("beta")
    )
    head = " | ".join(f"**{beta}**" for beta in betas)
    assert f"| **`latent_beta`**, 3 seeds: latent_dim ↓ beta → | {head} |" in text
    bounds = (f"{121 + 10 * float(beta):.2f} ± 1.00" for beta in betas)
    assert f"| 20 | {' | '.join(bounds)} |" in text
    point = there.children("training_size")[0][0]
    first = f"{point['data.train_images']} · {point['training.epochs']}"
    assert f"3 seeds: train_images · epochs | **{first}** |" in text
    _, _, table = text.partition("about sweeps")
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows} == {7}


def test_the_digit_is_read_from_z_with_and_without_the_label(
    there: Needed, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = iter(
        (0.111, 0.777, 0.955)
    )  # conditional, plain, pixels: as they are asked
    monkeypatch.setattr(latent, "neighbour_accuracy", lambda *_: next(shares))
    text = readme_tables.latents(there)
    assert "name the digit of 11.1 % of the test images, without it of 77.7 %" in text
    assert "neighbours in the pixels are for 95.5 %" in text


def test_pivot_places_each_cell() -> None:
    cells: dict[tuple[str, ...], str] = {(a, b): a + b for a in "xy" for b in "pq"}
    grid = [["one ↓ two →", "p", "q"], ["x", "xp", "xq"], ["y", "yp", "yq"]]
    assert readme_tables.pivot(["one", "two"], cells) == grid
    in_step: dict[tuple[str, ...], str] = {("x", "p"): "1", ("y", "q"): "2"}
    row = [["one · two", "x · p", "y · q"], ["test/neg_elbo", "1", "2"]]
    assert readme_tables.pivot(["one", "two"], in_step) == row
    assert note.markdown(row) == (
        "| one · two | x · p | y · q |\n|---|---|---|\n| test/neg_elbo | 1 | 2 |"
    )


def test_made_again_from_the_same_runs_not_one_byte_differs(
    there: Needed, everything: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plates, "SHARP", 600)
    readme = tmp_path / "README.md"
    readme.write_bytes((everything / "README.md").read_bytes())
    names = [*readme_tables.TABLES, "digits", "denoising", "aevb_figure2", "beta"]
    files = figures.make_figures(there, names, out=tmp_path, readme=readme)
    assert len(files) > 15
    for path in files:
        assert path.read_bytes() == (everything / path.name).read_bytes(), path.name


def test_samples_of_a_digit_are_those_of_the_command(everything: Path) -> None:
    with (
        Image.open(everything / "digits.png") as sheet,
        Image.open(everything / "digit_3.png") as three,
    ):
        rows, square = np.asarray(sheet), np.asarray(three)
    assert rows.shape == (2 * (10 * 30 + 2), 2 * (16 * 30 + 2))
    assert square.shape == (2 * (4 * 30 + 2), 2 * (4 * 30 + 2))
    top = 2 * (2 + 3 * 30)
    for column in range(16):
        left = 2 * (2 + column * 30)
        row, place = divmod(column, 4)
        high, wide = 2 * (2 + row * 30), 2 * (2 + place * 30)
        wanted = rows[top : top + 56, left : left + 56]
        assert (square[high : high + 56, wide : wide + 56] == wanted).all()


def test_histories_count_images_and_turn_the_bound_upright(there: Needed) -> None:
    folders = [folder for _, folder in there.children("aevb_figure2")[:3]]
    seen, bounds = readme_figures.histories(folders, "val/neg_elbo")
    assert seen.tolist() == [1000, 2000, 3000]
    # latent size 3, β = 1: 113 + seed, and 9, 4.5 and 3 above it
    for seed in range(3):
        assert bounds[seed] == pytest.approx([-122 - seed, -117.5 - seed, -116 - seed])


def test_what_is_finished_is_not_run_again(
    there: Needed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(needed, "_command", lambda *words: pytest.fail(str(words)))
    for name in (*SINGLE, *SWEEPS):
        for once in (True, False):
            there.make(name, once=once, jobs=1, offline=True)


def test_what_is_missing_is_run_by_commands_that_parse(
    there: Needed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(needed, "_command", lambda *words: asked.append(words))
    missing = Needed(tmp_path, there.overrides, seeds=3)
    missing.make("quickstart", once=True, jobs=2, offline=True)
    missing.make("quickstart", once=False, jobs=2, offline=True)
    missing.make("beta", once=True, jobs=None, offline=False)
    options = [__main__._parser().parse_args(words) for words in asked]
    assert [words[0] for words in asked] == ["run", "sweep", "sweep"]
    assert [Path(o.config).stem for o in options] == ["quickstart"] * 2 + ["beta"]
    assert [o.offline for o in options] == [True, True, False]
    assert [o.jobs for o in options[1:]] == [2, None]
    assert {o.runs for o in options} == {tmp_path}
    plain = list(there.overrides)
    settings = [split_overrides(o.changes) for o in options]
    assert settings == [plain, [*plain, "seeds=3"], plain]


def test_the_command_trains_what_it_lacks_and_then_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write(tmp_path / "data", data_set(100, 50))
    readme = tmp_path / "README.md"
    readme.write_text("nothing to fill")
    words = ["--only", "digits", "--runs", str(tmp_path / "runs"), "--offline"]
    words += ["--out", str(tmp_path / "docs"), "--readme", str(readme), "--set"]
    words += [f"data.root={root} data.validation_images=0 training.epochs=1"]
    done = children.python("-W", "error", "-m", "analysis.figures", *words)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "docs" / "digit_9.png") in done.stdout
    (folder,) = (tmp_path / "runs").glob("*/run.json")
    assert RunFolder(folder.parent).status == "FINISHED"
    before = {p.name: p.read_bytes() for p in (tmp_path / "docs").iterdir()}
    assert figures.main(words) == 0
    assert {p.name: p.read_bytes() for p in (tmp_path / "docs").iterdir()} == before
    assert len(list((tmp_path / "runs").glob("*/run.json"))) == 1
    assert readme.read_text() == "nothing to fill"


def test_a_run_that_fails_ends_the_command_with_its_exit_code(tmp_path: Path) -> None:
    words = ["--only", "digits", "--runs", str(tmp_path), "--offline"]
    with pytest.raises(SystemExit) as ended:
        figures.main([*words, "--set", "data.root=/nowhere"])
    assert ended.value.code == 3


@pytest.mark.parametrize(
    ("text", "only", "words"),
    [
        ("no markers", "results", "each once"),
        (2 * MARKERS, "results", "each once"),
        ("<!-- /figures:results --><!-- figures:results -->", "results", "come after"),
        (MARKERS, "digits,nothing", "'nothing': there is"),
    ],
)
def test_a_mistake_is_said_before_anything_runs(
    text: str,
    only: str,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(needed, "_command", lambda *words: pytest.fail(str(words)))
    readme = tmp_path / "README.md"
    readme.write_text(text)
    arguments = ["--only", only, "--runs", str(tmp_path), "--readme", str(readme)]
    assert figures.main(arguments) == 2
    assert words in caplog.text
    assert readme.read_text() == text


def test_a_run_that_is_not_there_is_named(tmp_path: Path) -> None:
    lacking = Needed(tmp_path)
    with pytest.raises(RunNotFound, match="no finished run seed-notebook-") as error:
        lacking.run("seed_notebook")
    assert str(tmp_path) in str(error.value)
    assert finished_run(lacking.spec("seed_notebook"), tmp_path) is None

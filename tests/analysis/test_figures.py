"""README's figures and numbers from runs whose figures are known."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch

from analysis import figures
from analysis.comparing import readme_tables
from analysis.drawing import plates, readme_figures
from analysis.drawing.readme_figures import EXHIBITS
from analysis.reading.needed import SEEDED, SWEEPS, Needed
from cvae import __main__, mnist
from cvae.evaluation.metrics import FIDELITY
from cvae.model import CVAE
from cvae.run.folder import RunFolder
from cvae.spec.document import load_spec
from cvae.spec.fields import Spec
from cvae.spec.identity import flatten
from tests import children
from tests.conftest import data_set, generator, write
from tests.made import made_run
from tests.test_commands import ROOT

MARKERS = "".join(
    f"about {name}\n<!-- figures:{name} -->\nold\n<!-- /figures:{name} -->\n"
    for name in readme_tables.TABLES
    if name not in figures.IN_RESULTS
)
DRAWN_FROM = {"seed_notebook", "plain_vae", "latent_20", "denoising"}
DRAWN_FROM |= {"pytorch_example", "best_mlp"}
TAKEN_IN_A_BROWSER = {"explorer.png", "mlflow.png"}  # by hand


def bound(spec: Spec) -> float:
    """A test bound that tells the run: latent size, β and seed can be read from it."""
    known = spec.model.latent_dim + 10 * spec.objective.beta + spec.training.seed
    return 100 + known + 7 * (spec.name == "plain-vae")


@functools.cache
def digest_of(root: str) -> str:
    return mnist.load_mnist(root).digest


def pretend(spec: Spec, runs: Path, *, weights: bool) -> None:
    """The folder that a finished run of `spec` would leave, without the training."""
    images = {"training": 1000, "validation": 100, "test": 100}
    data = {"shape": [28, 28], "images": images, "digest": digest_of(spec.data.root)}
    kl = 5 / (spec.objective.beta + 0.1)
    fields = flatten(spec)
    folder = made_run(runs, bound(spec), kl=kl, info={"data": data}, **fields)
    final: dict[str, float] = {}
    if spec.model.conditional:
        seed = spec.training.seed
        final |= {"label_fidelity": 0.99 - 0.02 * seed, "transfer_fidelity": 0.95}
        final |= {"label_fidelity_worst": 0.9 - 0.1 * seed, "judge_accuracy": 0.9948}
    elif samples := spec.evaluation.importance_samples:
        final[f"nll_is{samples}"] = bound(spec) - 2
    line = {"epoch": 3, "step": 30, "time": 9, "seconds": {}}
    folder.append(line | {"metrics": {f"test/{key}": final[key] for key in final}})
    if weights:
        model = CVAE(**spec.model.model_dump(), generator=generator())
        safetensors.torch.save_file(model.state_dict(), folder.weights)


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Needed:
    """All that is needed, as if it had been run."""
    root = tmp_path_factory.mktemp("figures")
    write(root / "data", data_set(100, 100))
    overrides = (f"data.root={root / 'data'}", "data.validation_images=0")
    all_runs = Needed(root / "runs", overrides, seeds=2)
    for name in (*SEEDED, *SWEEPS):
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
    shown = set(re.findall(r"docs/(\w+\.png)", text)) - TAKEN_IN_A_BROWSER
    drawn = {path.name for path in everything.glob("*.png")}
    assert shown
    assert shown <= drawn
    page = (everything / "results.md").read_text()
    assert set(re.findall(r"\((\w+\.png)\)", page)) <= drawn
    assert {f"digit_{digit}.png" for digit in range(10)} <= drawn


def test_readme_and_results_have_a_place_for_every_table() -> None:
    for name in readme_tables.TABLES:
        page = "docs/results.md" if name in figures.IN_RESULTS else "README.md"
        figures.replace_section((ROOT / page).read_text(), name, "", Path(page))


def test_a_row_is_every_finished_seed_whoever_asked_for_it(
    there: Needed, tmp_path: Path
) -> None:
    some = Needed(tmp_path, there.overrides)
    for seed in (7, 3):
        spec = load_spec(
            some.path("quickstart"), (*there.overrides, f"training.seed={seed}")
        )
        pretend(spec, tmp_path, weights=False)
        (found,) = [f for f in some.over_seeds("quickstart") if f.spec() == spec]
        if seed == 7:  # alone: no deviation, no division by zero
            assert readme_tables.mean_sd([found], "test/neg_elbo") == "119.00"
            assert readme_tables.cited([found], FIDELITY) == "85.00 % (n = 1)"
    pretend(some.spec("latent_20"), tmp_path, weights=False)
    other = (*there.overrides, "model.latent_dim=5", "training.seed=1")
    pretend(load_spec(some.path("quickstart"), other), tmp_path, weights=False)
    seeds = [folder.spec().training.seed for folder in some.over_seeds("quickstart")]
    assert seeds == [3, 7]


def test_histories_count_images_and_turn_the_bound_upright(there: Needed) -> None:
    folders = [folder for _, folder in there.children("aevb_figure2")[:3]]
    seen, bounds = readme_figures.histories(folders, "val/neg_elbo")
    assert seen.tolist() == [1000, 2000, 3000]
    # latent size 3, β = 1: 113 + seed, and 53 ⅓, 8 ⅓ and 0 above it
    for seed in range(3):
        above = 113 + seed + np.array([53.3333333, 8.3333333, 0])
        assert bounds[seed] == pytest.approx(-above)


def test_the_command_trains_what_it_lacks_and_then_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write(tmp_path / "data", data_set(100, 50))
    readme = tmp_path / "README.md"
    readme.write_text("nothing to fill")
    words = ["--only", "digits", "--runs", str(tmp_path / "runs"), "--offline"]
    words += ["--out", str(tmp_path / "docs"), "--readme", str(readme), "--set"]
    words += [f"data.root={root} data.validation_images=0 training.epochs=1"]
    done = children.python("-m", "cvae", "figures", *words)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "docs" / "digit_9.png") in done.stdout
    (folder,) = (tmp_path / "runs").glob("*/run.json")
    assert RunFolder(folder.parent).status == "FINISHED"
    before = {p.name: p.read_bytes() for p in (tmp_path / "docs").iterdir()}
    assert __main__.main(["figures", *words]) == 0
    assert {p.name: p.read_bytes() for p in (tmp_path / "docs").iterdir()} == before
    assert len(list((tmp_path / "runs").glob("*/run.json"))) == 1
    assert readme.read_text() == "nothing to fill"


def cells(table: str) -> list[list[str]]:
    """A Markdown table's head and rows."""
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]


def test_readmes_table_has_bound_nll_control_and_the_published_number(
    there: Needed, everything: Path, tmp_path: Path
) -> None:
    text = (everything / "README.md").read_text()
    head, first, *rest = cells(text.partition("figures:latents")[0])
    assert head == [
        *("experiment", "bound (nats)", "NLL (nats)"),
        *("label fidelity", "published (nats)"),
    ]
    # seeds 0 and 1 apart by 1: the mean is half above the first, sd is 1/√2
    control = "98.00 ± 1.41 % (n = 2)"
    assert first == ["`quickstart` (n = 2)", "112.50 ± 0.71", "–", control, "–"]
    rows = {row[0].split("`")[1]: row for row in rest}
    assert rows["pytorch_example"][1:] == [
        *("130.50 ± 0.71", "–", "–", "bound 105.55 [2]")
    ]
    assert "binarised" in rows["best_mlp"][0]

    some = Needed(tmp_path, there.overrides)
    for name in ("seed_notebook", "plain_vae"):
        pretend(some.spec(name), tmp_path, weights=False)
    (found,) = some.over_seeds("seed_notebook")
    line = {"epoch": 9, "step": 9, "time": 9, "seconds": {}}
    metrics = {"test/nll_is100": 99.0, "test/nll_is5000": 98.765}
    metrics |= {"test/nll_is5000_se": 0.2, "test/label_accuracy_is20": 0.91}
    metrics |= {"test/label_fidelity_n10000": 0.975}
    metrics |= {"test/label_fidelity_n10000_se": 0.0016}
    found.append(line | {"metrics": metrics})
    row = cells(readme_tables.results(some))[1]
    assert row[2:4] == ["98.77 (K = 5,000)", "97.50 ± 0.16 %"]  # the most draws
    shares = ["90.00 %", "95.00 %", "–", "91.00 % (K = 20)"]
    assert ["`seed_notebook`", "4.55", "–", *shares] in cells(
        readme_tables.details(some)
    )

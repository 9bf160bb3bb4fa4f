"""Figures from published runs; what is made anew beside what was published."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from analysis import figures
from analysis.drawing import plates
from analysis.reading import needed
from analysis.reading.needed import SINGLE, Needed
from analysis.reproduce import Compared
from cvae import __main__
from cvae.publishing import results
from cvae.run.find import finished_run
from cvae.run.folder import RunFolder, SweepFolder
from tests.analysis.test_figures import MARKERS, pretend
from tests.conftest import data_set, write
from tests.made import GIT

NAMES = ("results", "aevb_figure2", "beta")
SWEPT = ("aevb_figure2", "beta", "latent_beta")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Needed:
    """What `NAMES` stand on, as if it had been run; the single specs with two seeds."""
    root = tmp_path_factory.mktemp("reproduce")
    write(root / "data", data_set(100, 50))
    overrides = (f"data.root={root / 'data'}", "data.validation_images=0")
    there = Needed(root / "runs", overrides, seeds=2)
    for name in (*SINGLE, *SWEPT):
        plan, listed = there.plan(name), []
        for variant in plan.variants:
            pretend(variant.spec, there.runs, weights=False)
            folder = finished_run(variant.spec, there.runs)
            assert folder is not None
            folder.update(git=GIT | {"dirty": "false"})
            swept = dict(variant.swept)
            listed.append(
                {"folder": folder.name, "id": variant.spec.id, "swept": swept}
            )
        sweep = SweepFolder(there.runs / "sweeps" / plan.name)
        sweep.path.mkdir(parents=True)
        (sweep.path / "sweep.yaml").write_text(plan.text)
        sweep.update(keys=list(plan.keys), runs=listed, status="FINISHED")
    return there


@pytest.fixture(scope="module")
def shown(own: Needed) -> Needed:
    """The same, published."""
    place = own.runs.parent / "results"
    results.publish([*SINGLE, *SWEPT], runs=own.runs, results=place)
    return Needed(place, own.overrides)


def drawn(from_: Needed, out: Path) -> dict[str, bytes]:
    out.mkdir()
    (out / "README.md").write_text(MARKERS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plates, "SHARP", 600)
        patch.setattr(needed, "_command", lambda *words: pytest.fail(str(words)))
        figures.make_figures(from_, NAMES, out=out, readme=out / "README.md")
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_published_runs_give_the_figures_of_ones_own_byte_for_byte(
    own: Needed, shown: Needed, tmp_path: Path
) -> None:
    files = drawn(own, tmp_path / "own")
    assert {"aevb_figure2.png", "beta_plane.png", "latent_beta_plane.png"} <= set(files)
    assert b"(n = 2) | 112.50" in files["README.md"]  # both seeds
    assert drawn(shown, tmp_path / "published") == files


# -- reproduce -------------------------------------------------------------------------


def words(own: Needed, shown: Needed, only: str) -> list[str]:
    places = ["--runs", str(own.runs), "--results", str(shown.runs)]
    return ["--only", only, "--set", " ".join(own.overrides), *places]


def test_the_same_runs_are_reproduced(
    own: Needed, shown: Needed, capsys: pytest.CaptureFixture[str]
) -> None:
    assert __main__.main(["reproduce", *words(own, shown, "quickstart, beta")]) == 0
    table = capsys.readouterr().out
    assert "| quickstart | test/neg_elbo | 112.50 ± 0.71 | 112.50 ± 0.71 |" in table
    for beta in ("0.25", "0.5", "1", "2", "4"):
        assert f"| beta beta={beta} | test/neg_elbo |" in table
    assert "| no |" not in table


def test_one_setting_that_is_far_off_is_named_and_the_exit_code_is_1(
    own: Needed,
    shown: Needed,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    for path in own.runs.glob("beta-*"):
        folder = RunFolder(shutil.copytree(path, tmp_path / "runs" / path.name))
        if folder.spec().objective.beta == 2:
            last = folder.records()[-1]
            worse = {"test/neg_elbo": folder.metrics["test/neg_elbo"] + 20}
            folder.append(last | {"metrics": worse})
    other = Needed(tmp_path / "runs", own.overrides)
    assert __main__.main(["reproduce", *words(other, shown, "beta")]) == 1
    assert "not reproduced: beta beta=2: test/neg_elbo" in caplog.text
    assert capsys.readouterr().out.count("| no |") == 1


@pytest.mark.parametrize(
    ("published", "own", "within"),
    [
        ([100.0, 101.0, 102.0], [104.0, 105.0, 106.0], "yes"),  # 4 of 9.92 √⅔ = 8.1
        ([100.0, 101.0, 102.0], [109.0, 109.2, 109.4], "no"),
        ([100.0, 101.0, 102.0], [107.0], "yes"),  # one seed: √(1 + ⅓), 11.5
        ([100.0, 100.0, 100.0], [100.009], "yes"),
        ([100.0, 100.0, 100.0], [100.02], "no"),
        ([100.0], [150.0], "one seed: no spread"),
    ],
)
def test_what_chance_allows(
    published: list[float], own: list[float], within: str
) -> None:
    assert Compared("any", "test/neg_elbo", published, own).within == within

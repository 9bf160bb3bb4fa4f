"""Comparisons against figures worked out by hand, and the command as it is typed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from safetensors.numpy import load_file

from analysis import compare
from analysis.comparing import tables
from analysis.drawing import plots
from analysis.reading.load import load_runs
from cvae.errors import RunNotFound
from cvae.run.folder import RunFolder, SweepFolder
from tests import children
from tests.children import Done
from tests.made import made_run, rewrite

BOUNDS = {  # by β and seed
    0.5: [100.0, 101.0, 102.0, 103.0, 104.0],
    1.0: [99.0, 100.5, 101.0, 102.5, 102.0],
    4.0: [120.0, 121.0, 122.0, 123.0, 124.0],
}


def sweep(runs: Path, seeds: int, **fields: Any) -> dict[tuple[float, int], str]:
    return {
        (beta, seed): made_run(
            runs,
            bound,
            **{"objective__beta": beta, "training__seed": seed} | fields,
        ).name
        for beta, bounds in BOUNDS.items()
        for seed, bound in enumerate(bounds[:seeds])
    }


def test_differences_are_paired_by_seed(tmp_path: Path) -> None:
    sweep(tmp_path, 5)
    result = compare.compare(load_runs(runs=tmp_path))
    found = result.comparison
    assert found.best.label == found.reference.label == "beta = 1"
    assert [s.mean for s in found.summaries] == [102.0, 101.0, 122.0]
    near, none, far = found.differences
    assert none is None
    assert near is not None
    assert far is not None
    # 1, 0.5, 1, 0.5, 2 and 21, 20.5, 21, 20.5, 22
    assert near.pairs == far.pairs == 5
    assert near.summary.mean == pytest.approx(1.0)
    assert near.summary.sd == pytest.approx(math.sqrt(1.5 / 4))
    assert far.summary.mean == pytest.approx(21.0)
    assert far.p == pytest.approx(2 / 252)
    assert far.adjusted == pytest.approx(4 / 252)
    assert near.adjusted == pytest.approx(near.p)
    assert 0.1 < near.p < 0.5  # the unpaired test does not see it
    assert near.summary.low > 0  # the pairs do
    assert "beta = 4" in result.sentences[2]
    assert "21.00 ± 0.61 worse than the best (5 pairs by seed" in result.sentences[2]
    assert "adjusted p = 0.016" in result.sentences[2]


def test_published_runs_are_compared_image_by_image() -> None:
    names = ["exact-two-992ad4e2", "seed-notebook-67d5e32f"]
    found = load_runs(ids=names, runs=Path("results"))
    (said,) = [
        note
        for note in compare.compare(found, metric="test/nll_quadrature").notes
        if note.startswith("Image by image")
    ]
    ours, theirs = (
        load_file(f"results/{name}/likelihood.safetensors")["log_p_x_given_y"]
        for name in names
    )
    apart = ours.astype(float) - theirs
    assert f"{apart.mean():+.2f} ± {apart.std(ddof=1) / 100:.2f} nats" in said
    bound = compare.compare(found, metric="test/neg_elbo").notes
    assert not any(note.startswith("Image by image") for note in bound)


def test_the_reference_can_be_chosen(tmp_path: Path) -> None:
    sweep(tmp_path, 2)
    runs = load_runs(runs=tmp_path)
    for wanted in ("beta=4", "objective.beta = 4"):
        found = compare.compare(runs, against=wanted).comparison
        assert found.reference.label == "beta = 4"
        assert found.differences[2] is None
    with pytest.raises(RunNotFound, match=r"there is beta = 0.5; beta = 1"):
        compare.compare(runs, against="beta=3")


def test_by_a_field_runs_are_paired_by_all_others(tmp_path: Path) -> None:
    sweep(tmp_path, 2)
    assert len(sweep(tmp_path, 2, model__latent_dim=8, name="b")) == 3 * 2
    for folder in tmp_path.glob("b-*"):  # eight dimensions: exactly 3 nats better
        run = RunFolder(folder)
        for key in ("test/neg_elbo", "val/neg_elbo"):
            rewrite(run, key, str(run.metrics[key] - 3))
    result = compare.compare(load_runs(runs=tmp_path), by=["latent_dim"])
    two, eight = result.comparison.settings
    assert (two.label, eight.label) == ("latent_dim = 2", "latent_dim = 8")
    assert two.pooled == ("objective.beta",)
    difference = result.comparison.differences[0]
    assert difference is not None
    assert difference.pairs == 6
    assert (difference.summary.mean, difference.summary.sd) == (3.0, 0.0)
    assert any("pools runs that differ in objective.beta" in n for n in result.notes)


def test_the_best_is_chosen_on_validation_and_reported_on_test(tmp_path: Path) -> None:
    lucky = made_run(tmp_path, 100.0)
    sound = made_run(tmp_path, 101.0, objective__beta=2.0)
    rewrite(lucky, "val/neg_elbo", "103.0")
    result = compare.compare(load_runs(runs=tmp_path))
    assert result.best.name == sound.name
    assert result.sentences[0].startswith("beta = 2: 101.00")
    assert any("chosen on val/neg_elbo, reported on test" in n for n in result.notes)


def test_the_same_spec_run_twice_is_one_observation(tmp_path: Path) -> None:
    sweep(tmp_path, 1)
    again = made_run(tmp_path, 90.0, objective__beta=1.0)
    assert again.name.endswith("-2")
    result = compare.compare(load_runs(runs=tmp_path))
    assert [whole.n for whole in result.comparison.summaries] == [1, 1, 1]
    assert result.best.name == again.name
    assert any("repeated" in note for note in result.notes)


def test_other_pixels_and_other_data_are_left_out_by_name(tmp_path: Path) -> None:
    sweep(tmp_path, 2)
    binary = made_run(tmp_path, 60.0, data__binarize="dynamic")
    other = made_run(
        tmp_path, 50.0, name="o", info={"data": {"digest": "f" * 32}}, data__root="o"
    )
    result = compare.compare(load_runs(runs=tmp_path))
    assert result.comparison.best.label == "beta = 1"
    (note,) = [note for note in result.notes if "other" in note]
    assert note.endswith(f" 2: {binary.name}, {other.spec().name}.")


def test_accuracy_is_better_when_higher(tmp_path: Path) -> None:
    for seed, accuracy in enumerate((0.9, 0.95)):
        folder = made_run(tmp_path, 100.0, objective__beta=1.0 + seed)
        rewrite(folder, "test/label_accuracy_is10", str(accuracy))
    found = compare.compare(load_runs(runs=tmp_path), metric="test/label_accuracy_is10")
    assert found.comparison.best.label == "beta = 2"
    assert "5.00 % worse" in found.sentences[1]


def analysis(command: str, *arguments: str) -> Done:
    return children.python("-m", "cvae", command, *arguments)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of all kinds: a sweep, one unfinished, one broken, one not finite."""
    runs = tmp_path_factory.mktemp("mixed")
    sweep(runs, 3, tracking__experiment="whole")
    made_run(runs, 99.0, status="FAILED", name="failed", tracking__experiment="failed")
    made_run(runs, 1.0, status="FAILED", name="half", tracking__experiment="whole")
    lost = made_run(runs, 1.0, name="lost", tracking__experiment="whole")
    (lost.path / "records.jsonl").unlink()
    diverged = made_run(runs, 1.0, name="diverged", tracking__experiment="whole")
    rewrite(diverged, "test/neg_elbo", "Infinity")
    return runs


def test_the_command_writes_page_tables_and_figures(
    mixed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "a folder"
    done = analysis(
        *("compare", "--experiment", "whole", "--runs", str(mixed)),
        *("--formats", "svg", "--out", str(out)),
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "beta = 1: 100.17 ± 1.04 nats per image (n = 3), the best." in done.stdout
    assert "not finished: 1: half (failed)" in done.stdout
    assert "1 unreadable: lost-" in done.stdout
    assert "(inf)" in done.stdout
    assert str(out) in done.stdout
    for name in ("curves", "plane", "swept"):
        assert "<text" in (out / f"{name}.svg").read_text()
    assert len(pd.read_csv(out / "runs.csv")) == 11
    found = pd.read_csv(out / "statistics.csv").set_index("objective.beta")
    assert found.loc[4.0, "difference_mean"] == pytest.approx(62.5 / 3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--experiment", "hole"], "did you mean whole"),
        (["--experiment", "whole", "--metric", "test/x"], "there is test/active_units"),
        (["--run", "diverged"], "no run's test/neg_elbo is finite"),
        ([], "say which"),
    ],
)
def test_a_mistake_gets_clear_words_and_exit_code_2(
    arguments: list[str], words: str, mixed: Path, tmp_path: Path
) -> None:
    out = ["--runs", str(mixed), "--out", str(tmp_path / "out")]
    done = analysis("compare", *arguments, *out)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_after_two_sweeps_at_once_each_compares_its_own(tmp_path: Path) -> None:
    for end, name in enumerate(["one", "other"]):
        made = made_run(tmp_path, 90.0 + end, name=name)
        folder = SweepFolder(tmp_path / "sweeps" / name)
        folder.path.mkdir(parents=True)
        entry = {"folder": made.name, "id": made.info["id"], "swept": {}}
        command = f"make sweep CONFIG={name}.yaml SET=training.epochs=2"
        folder.update(name=name, runs=[entry], command=command, ended=end)
    asked = ["--last-sweep=one.yaml", "--runs", str(tmp_path), "--out", str(tmp_path)]
    assert "90.00 nats" in analysis("compare", *asked).stdout


def test_n_counts_finished_runs_alone(tmp_path: Path) -> None:
    """A run that stopped has validation metrics, and may even have the test's."""
    sweep(tmp_path, 2)
    for status in ("FAILED", "KILLED", "RUNNING"):
        lost = made_run(
            tmp_path, 9.0, status=status, name=status.lower(), objective__beta=1.0
        )
        rewrite(lost, "test/neg_elbo", "9.0")
    result = compare.compare(load_runs(runs=tmp_path))
    assert [whole.n for whole in result.comparison.summaries] == [2, 2, 2]
    assert [row["n"] for row in tables.settings(result.comparison)] == ["2"] * 3
    assert result.comparison.summaries[1].mean == pytest.approx((99.0 + 100.5) / 2)
    assert any("not finished: 3: failed" in note for note in result.notes)


def test_every_p_value_stands_in_its_own_column(tmp_path: Path) -> None:
    sweep(tmp_path, 5)
    result = compare.compare(load_runs(runs=tmp_path))
    compare.write_tables(result, tmp_path)
    found = pd.read_csv(tmp_path / "statistics.csv").set_index("objective.beta")
    for setting, _, each in result.comparison.rows:
        row = found.loc[setting.values["objective.beta"]]
        numbers = [row[key] for key in ("p", "p_adjusted")]
        if each:
            assert numbers == pytest.approx([each.p, each.adjusted])
            assert setting.values != {"objective.beta": 4.0} or len({*numbers}) == 2
    assert pd.isna(found.loc[1.0, "p"])  # the reference itself
    assert found["seeds"].tolist() == [5, 5, 5]


def test_rate_goes_to_the_right_and_distortion_up(tmp_path: Path) -> None:
    made_run(tmp_path, 100.0, kl=10.0)
    made_run(tmp_path, 120.0, kl=40.0, objective__beta=4.0)
    plate = plots.rate_distortion(compare.compare(load_runs(runs=tmp_path)).comparison)
    assert plate is not None
    assert isinstance(plate.figure, Figure)
    (axes,) = plate.figure.axes
    assert axes.get_xlabel() == "rate, test/kl (nats per image)"
    assert axes.get_ylabel() == "distortion, test/recon (nats per image)"
    points = np.asarray(axes.collections[0].get_offsets())
    assert sorted(points.tolist()) == [[10.0, 90.0], [40.0, 80.0]]


def test_a_comparison_has_a_figure_for_each_thing_that_was_measured(
    tmp_path: Path,
) -> None:
    sweep(tmp_path, 2)
    for folder in tmp_path.glob("*-*"):
        rewrite(RunFolder(folder), "test/label_fidelity", "0.9")
    plates = compare.draw(compare.compare(load_runs(runs=tmp_path)))
    names = [plate.name for plate in plates]
    assert names == ["curves", "plane", "control", "swept"]

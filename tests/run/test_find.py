"""Which run is meant, and what a run is called."""

from __future__ import annotations

from pathlib import Path

import pytest

from cvae.errors import RunNotFound
from cvae.run.find import display_name, find_run
from tests.made import made_run


def test_a_run_is_named_by_what_it_changes(tmp_path: Path) -> None:
    made = made_run(
        tmp_path,
        100.0,
        name="quickstart",
        info={"changes": ["model.latent_dim=8", "training.seed=1", "tracking.x=1"]},
    )
    assert display_name(made) == "quickstart latent_dim=8 seed=1"
    assert find_run("quickstart latent_dim=8 seed=1", runs=tmp_path).path == made.path


def test_a_run_of_an_earlier_version_is_named_by_its_command(tmp_path: Path) -> None:
    command = "make experiment CONFIG=q.yaml SET='model.latent_dim=8 model.hidden=[4]'"
    made = made_run(tmp_path, 100.0, name="quickstart", info={"command": command})
    assert display_name(made) == "quickstart latent_dim=8 hidden=[4]"
    made.update(command="make 'unbalanced")
    assert display_name(made) == "quickstart"


def test_a_run_of_a_sweep_is_named_by_its_variant(tmp_path: Path) -> None:
    swept = {"objective.beta": 0.5, "training.seed": 2, "model.hidden": [8, 4]}
    made = made_run(tmp_path, 100.0, name="beta", info={"swept": swept})
    assert display_name(made) == "beta hidden=[8,4] beta=0.5 seed=2"


def test_two_fields_of_one_last_name_keep_their_section(tmp_path: Path) -> None:
    changes = ["objective.importance_samples=5", "evaluation.importance_samples=50"]
    made = made_run(tmp_path, 100.0, name="q", info={"changes": changes})
    assert display_name(made) == f"q {' '.join(changes)}"


def test_a_repeated_run_has_its_number_and_the_name_alone_means_the_newest(
    tmp_path: Path,
) -> None:
    first = made_run(tmp_path, 100.0, name="q", started=1.0, info={"changes": []})
    second = made_run(tmp_path, 100.0, name="q", started=9.0, info={"changes": []})
    assert [display_name(first), display_name(second)] == ["q", "q #2"]
    assert find_run("q", runs=tmp_path).path == second.path
    assert find_run("q #2", runs=tmp_path).path == second.path


def test_a_run_at_a_path_elsewhere_is_found(tmp_path: Path) -> None:
    made = made_run(tmp_path / "there", 100.0)
    assert find_run(made.path, runs=tmp_path / "empty").path == made.path


def test_a_mistyped_name_gets_the_nearest_one(tmp_path: Path) -> None:
    made_run(tmp_path, 100.0, name="quickstart")
    with pytest.raises(RunNotFound, match="did you mean 'quickstart'"):
        find_run("quickstrat", runs=tmp_path)

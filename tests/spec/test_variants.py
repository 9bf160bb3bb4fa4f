"""Sweep blocks expanded to plain specs."""

from __future__ import annotations

from pathlib import Path

import pytest

from cvae.errors import SpecError
from cvae.spec.document import load_spec
from cvae.spec.variants import Plan, read_plan


def plan(tmp_path: Path, block: str, *overrides: str, base: str = "") -> Plan:
    path = tmp_path / "many.yaml"
    path.write_text(f"# Question: what if?\nname: many\n{base}{block}")
    return read_plan(path, overrides)


def swept(found: Plan) -> list[dict[str, object]]:
    return [dict(variant.swept) for variant in found.variants]


def test_a_grid_is_every_value_with_every_other_in_written_order(
    tmp_path: Path,
) -> None:
    block = "sweep:\n  model.latent_dim: [2, 5]\n  objective.beta: [1, 4]\n"
    found = plan(tmp_path, block)
    assert found.keys == ("model.latent_dim", "objective.beta")
    assert swept(found) == [
        {"model.latent_dim": 2, "objective.beta": 1},
        {"model.latent_dim": 2, "objective.beta": 4},
        {"model.latent_dim": 5, "objective.beta": 1},
        {"model.latent_dim": 5, "objective.beta": 4},
    ]
    first = found.variants[0].spec
    assert (first.name, first.model.latent_dim, first.objective.beta) == ("many", 2, 1)
    assert found.variants[3].label == "latent_dim=5 beta=4"
    assert found.header == "Question: what if?"


def test_a_variant_has_the_id_of_the_same_run_asked_for_alone(tmp_path: Path) -> None:
    block = "sweep: {model.latent_dim: [2, 5], seeds: 2}\n"
    alone = tmp_path / "alone.yaml"
    alone.write_text("name: alone\nmodel: {latent_dim: 5}\ntraining: {seed: 1}\n")
    assert plan(tmp_path, block).variants[-1].spec.id == load_spec(alone).id


def test_zipped_keys_go_in_step_and_multiply_with_the_rest(tmp_path: Path) -> None:
    block = "sweep:\n  zip: {model.hidden: [[8], [9, 4]], training.epochs: [3, 1]}\n"
    found = plan(tmp_path, block + "  seeds: [7, 8]\n")
    assert swept(found) == [
        {"model.hidden": [8], "training.epochs": 3, "training.seed": 7},
        {"model.hidden": [8], "training.epochs": 3, "training.seed": 8},
        {"model.hidden": [9, 4], "training.epochs": 1, "training.seed": 7},
        {"model.hidden": [9, 4], "training.epochs": 1, "training.seed": 8},
    ]
    assert found.variants[2].spec.model.hidden == (9, 4)
    assert found.variants[2].label == "hidden=[9,4] epochs=1 seed=7"


def test_explicit_variants_set_only_what_they_name(tmp_path: Path) -> None:
    block = (
        "sweep:\n  variants:\n    - {objective.beta: 4, training.epochs: 2}\n    - {}\n"
    )
    found = plan(tmp_path, block)
    assert swept(found) == [{"objective.beta": 4, "training.epochs": 2}, {}]
    assert found.variants[1].label == "base"
    assert found.variants[1].spec.id == plan(tmp_path, block).variants[1].spec.id


def test_overrides_reach_every_variant_and_replace_swept_lists(tmp_path: Path) -> None:
    block = "sweep: {objective.beta: [1, 2], seeds: 3}"
    overrides = ["training.epochs=4", "objective.beta=[8]", "training.seed=[5, 6]"]
    found = plan(tmp_path, block, *overrides)
    assert swept(found) == [
        {"objective.beta": 8, "training.seed": 5},
        {"objective.beta": 8, "training.seed": 6},
    ]
    assert {variant.spec.training.epochs for variant in found.variants} == {4}
    assert len(plan(tmp_path, block, "seeds=1").variants) == 2
    assert len(plan(tmp_path, "", "seeds=3").variants) == 3  # of any spec
    with pytest.raises(SpecError, match=r"SET 'objective.beta=\[-1\]': objective.beta"):
        plan(tmp_path, block, "objective.beta=[-1]")


MISTAKES = {
    "sweep:\n  model.latent: [2]\n": "4: sweep: model.latent: unknown key.* model.l",
    "sweep:\n  tracking.experiment: [a]\n": "4: sweep: tracking.experiment: does not",
    "sweep:\n  model.latent_dim: 2\n": "4: sweep.model.latent_dim: must be a list",
    "sweep:\n  model.latent_dim:\n  - 2\n  - 0\n": "6: model.latent_dim: must be gr",
    "sweep: 3\n": "3: sweep: must be keys with lists of values; found 3",
    "sweep:\n  seeds: 0\n": "4: sweep.seeds: must be a list",
    "sweep:\n  seeds: 2\n  training.seed: [1]\n": "5: .*training.seed: swept twice",
    "sweep:\n  zip: {model.latent_dim: [1, 2], objective.beta: [1]}\n": "4: .*differ",
    "sweep:\n  variants: []\n": "4: sweep.variants: must be a list of blocks",
    "sweep:\n  objective.beta: [1, 1.0]\n": "two variants are the same run",
    "sweep:\n  seeds: 5000\n  objective.beta: [1, 2, 3]\n": "15000 variants",
    "": "sweep: missing; this file describes one run: make experiment CONFIG=",
}


@pytest.mark.parametrize("block", MISTAKES)
def test_a_mistake_is_named_with_its_line(block: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=MISTAKES[block]) as refused:
        plan(tmp_path, block)
    assert len(str(refused.value).splitlines()) == 1 + (not block)

"""Sweep blocks expanded to plain specs."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


def test_adding_a_value_leaves_the_ids_of_the_others(tmp_path: Path) -> None:
    few = plan(tmp_path, "sweep: {objective.beta: [1, 2]}")
    more = plan(tmp_path, "sweep: {objective.beta: [0.5, 1, 2]}")
    ids = [variant.spec.id for variant in few.variants]
    assert [variant.spec.id for variant in more.variants][1:] == ids


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


def test_two_zips_multiply(tmp_path: Path) -> None:
    zips = "[{model.latent_dim: [2, 3], training.epochs: [4, 5]}, "
    zips += "{objective.beta: [1, 2], data.corrupt: [0, 0.5]}]"
    assert len(plan(tmp_path, f"sweep: {{zip: {zips}}}").variants) == 4


def test_explicit_variants_set_only_what_they_name(tmp_path: Path) -> None:
    block = (
        "sweep:\n  variants:\n    - {objective.beta: 4, training.epochs: 2}\n    - {}\n"
    )
    found = plan(tmp_path, block)
    assert swept(found) == [{"objective.beta": 4, "training.epochs": 2}, {}]
    assert found.variants[1].label == "base"
    assert found.variants[1].spec.id == plan(tmp_path, block).variants[1].spec.id


def test_labels_name_the_section_where_two_fields_share_a_name(tmp_path: Path) -> None:
    block = "sweep: {objective.importance_samples: [1], "
    block += "evaluation.importance_samples: [5]}"
    label = plan(tmp_path, block).variants[0].label
    assert label == "objective.importance_samples=1 evaluation.importance_samples=5"


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


def test_seeds_make_a_sweep_of_any_spec(tmp_path: Path) -> None:
    found = plan(tmp_path, "model: {latent_dim: 3}\n", "seeds=3", "training.epochs=1")
    assert [variant.spec.training.seed for variant in found.variants] == [0, 1, 2]
    assert {variant.spec.model.latent_dim for variant in found.variants} == {3}


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (
            "sweep:\n  model.latent: [2]\n",
            "4: sweep: model.latent: unknown key.* model.l",
        ),
        (
            "sweep:\n  tracking.experiment: [a]\n",
            "4: sweep: tracking.experiment: does not",
        ),
        (
            "sweep:\n  model.latent_dim: 2\n",
            "4: sweep.model.latent_dim: must be a list",
        ),
        ("sweep:\n  model.latent_dim: []\n", "list of at least one value"),
        (
            "sweep:\n  model.latent_dim:\n  - 2\n  - 0\n",
            "6: model.latent_dim: must be gr",
        ),
        ("sweep:\n  model.latent_dim: [2, true]\n", "valid integer; found True"),
        ("sweep: 3\n", "3: sweep: must be keys with lists of values; found 3"),
        ("sweep: {}\n", "must be keys with lists"),
        ("sweep:\n  seeds: 0\n", "4: sweep.seeds: must be a list"),
        (
            "sweep:\n  seeds: 2\n  training.seed: [1]\n",
            "5: .*training.seed: swept twice",
        ),
        (
            "sweep:\n  zip: {model.latent_dim: [1, 2], objective.beta: [1]}\n",
            "4: sweep.zip: the lists differ in length",
        ),
        ("sweep:\n  zip: 4\n", "4: sweep.zip: must be keys"),
        ("sweep:\n  variants: [3]\n", "4: sweep.variants: must be a list of blocks"),
        ("sweep:\n  variants: []\n", "4: sweep.variants: must be a list of blocks"),
        ("sweep:\n  variants: [{beta: 1}]\n", "did you mean objective.beta?"),
        ("sweep:\n  objective.beta: [1, 1.0]\n", "two variants are the same run"),
        ("sweep:\n  seeds: 5000\n  objective.beta: [1, 2, 3]\n", "15000 variants"),
        ("", "sweep: missing; this file describes one run: make experiment CONFIG="),
    ],
)
def test_a_mistake_is_named_with_its_line(
    block: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match=message.replace("?", r"\?")):
        plan(tmp_path, block)


def test_every_mistake_is_reported_once(tmp_path: Path) -> None:
    block = "sweep:\n  model.latent_dim: [0, -1]\n  seeds: 3\n"
    with pytest.raises(SpecError) as error:
        plan(tmp_path, block)
    assert len(str(error.value).splitlines()) == 2


def test_a_wrong_override_is_placed_at_the_override(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"SET 'objective.beta=\[-1\]': objective.beta"):
        plan(tmp_path, "sweep: {objective.beta: [1]}", "objective.beta=[-1]")


def test_a_sweep_is_not_one_run(tmp_path: Path) -> None:
    path = tmp_path / "many.yaml"
    path.write_text("name: many\nsweep: {seeds: 2}\n")
    with pytest.raises(SpecError, match=r":2: sweep: .*make sweep CONFIG="):
        load_spec(path)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["model.latent_dim", "training.epochs", "training.batch_size"]),
        st.lists(st.integers(1, 4096), min_size=1, max_size=4, unique=True),
        min_size=1,
    )
)
def test_a_grid_has_as_many_distinct_variants_as_combinations(
    axes: dict[str, list[int]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "grid.yaml"
        path.write_text(json.dumps({"name": "grid", "sweep": axes}))
        found = read_plan(path)
    expected = math.prod(len(values) for values in axes.values())
    assert len({variant.spec.id for variant in found.variants}) == expected


SWEEPS = sorted(
    path
    for path in Path("experiments").rglob("*.yaml")
    if "\nsweep:" in path.read_text()
)
ONE_SEED = ("iwae_table1", "iwae_conditional")  # an hour each; the papers have one


def test_the_sweeps_are_here() -> None:
    names = {path.stem for path in SWEEPS}
    assert names >= {"latent_size", "width", "beta", "latent_beta"}
    assert names >= {"aevb_figure2", "training_size", "plain_latent"}


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_its_header_has_question_expectation_time_and_command(path: Path) -> None:
    found = read_plan(path)
    for word in ("Question: ", "Expected: ", "Time: about "):
        assert f"\n{word}" in f"\n{found.header}"
    assert f"Command: make sweep CONFIG={path} JOBS=2" in found.header
    assert found.name == path.stem.replace("_", "-")
    seeds = {variant.spec.training.seed for variant in found.variants}
    if path.stem in ONE_SEED:
        assert "one seed here" in found.header
    else:
        assert len(seeds) >= 3

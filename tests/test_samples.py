"""A finished run back as a model, and digits from it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import cvae
from cvae.errors import RunNotFound
from cvae.run import runner
from cvae.samples import generate_conditional_samples, load_run
from tests.conftest import data_set, spec, write
from tests.run.test_checkpoint import Bomb
from tests.test_commands import Done, the_run


@pytest.fixture
def here(finished: tuple[Path, Done]) -> Iterator[Path]:
    """The working folder whose runs/ holds the finished run, as the README's code."""
    before = Path.cwd()
    os.chdir(finished[0].parent)
    yield finished[0]
    os.chdir(before)


def test_the_python_of_the_readme_works(here: Path) -> None:
    samples = cvae.generate_conditional_samples(digit=5, num_samples=16)
    assert samples.shape == (16, 784)
    assert samples.min() >= 0
    assert samples.max() <= 1
    assert samples.view(16, 1, 28, 28).is_contiguous()


def test_the_same_seed_gives_the_same_digits_and_none_gives_new_ones(
    here: Path,
) -> None:
    one, two = (generate_conditional_samples(3, 4, seed=1) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, generate_conditional_samples(3, 4, seed=2))
    free = [generate_conditional_samples(3, 4) for _ in range(2)]
    assert not torch.equal(*free)


def test_temperature_zero_is_the_middle_of_the_prior(here: Path) -> None:
    samples = generate_conditional_samples(7, 3, temperature=0.0)
    assert torch.equal(samples[0], samples[1])
    model = load_run().model
    label = torch.tensor([7])
    middle = model.prior.sample(label, torch.zeros(1, 2))
    wanted = torch.sigmoid(model.decode(middle, label)).detach()
    torch.testing.assert_close(samples[:1], wanted)


def test_a_run_is_found_by_name_id_folder_and_mlflow_run_id(here: Path) -> None:
    folder = the_run(here)
    run_id = json.loads((folder.path / "tracking.json").read_text())["run_id"]
    for reference in (
        *(folder.name, "quickstart", folder.spec().id, folder.path, run_id, None),
    ):
        run = load_run(reference)
        assert run.folder.path.resolve() == folder.path.resolve()
        assert run.spec == folder.spec()
        assert run.shape == (28, 28)


@pytest.mark.parametrize(
    "reference", ["nothing", "../quickstart", "/etc", "\0", "x" * 10_000, "🙂", ""]
)
def test_a_run_that_is_not_there_is_said(here: Path, reference: str) -> None:
    with pytest.raises(RunNotFound, match="no run"):
        load_run(reference)


def test_without_a_run_the_command_to_type_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunNotFound, match="make experiment CONFIG="):
        load_run(runs=tmp_path)


def test_weights_that_are_a_pickle_are_refused_and_not_executed(
    here: Path, tmp_path: Path
) -> None:
    victim = tmp_path / "executed"
    weights = load_run().folder.weights
    whole = weights.read_bytes()
    torch.save({"weight": Bomb(victim)}, weights)
    try:
        with pytest.raises(RunNotFound, match="cannot be read"):
            load_run()
    finally:
        weights.write_bytes(whole)
    assert not victim.exists()


@pytest.mark.parametrize("digit", [-1, 10, 2.5, True, "5"])
def test_only_digits_are_taken(here: Path, digit: object) -> None:
    with pytest.raises(ValueError, match="digit must be 0 to 9"):
        generate_conditional_samples(digit)  # type: ignore[arg-type]


def test_an_unconditional_run_cannot_be_asked_for_a_digit(tmp_path: Path) -> None:
    root = write(tmp_path / "data", data_set(100, 50))
    wanted = spec(
        data__root=str(root),
        data__validation_images=0,
        model__conditional=False,
        training__epochs=1,
    )
    runner.run(wanted, runs=tmp_path / "runs", offline=True)
    run = load_run(runs=tmp_path / "runs")
    with pytest.raises(ValueError, match="unconditional"):
        generate_conditional_samples(5, run=run)

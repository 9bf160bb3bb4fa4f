"""A finished run back as a model, and digits from it."""

from __future__ import annotations

import json
import os
import pydoc
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cvae
from cvae.errors import RunNotFound, SpecError, UsageError
from cvae.loading.samples import generate_conditional_samples, load_run
from cvae.run import runner
from tests.conftest import data_set, spec, write
from tests.run.test_checkpoint import Bomb
from tests.test_commands import Done, the_run


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that is neither the repository nor a folder with runs."""
    place = tmp_path / "elsewhere"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


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
    with pytest.raises(UsageError, match="no label posterior"):
        cvae.evaluate(run, importance_samples=0, label_samples=2)


def test_a_run_is_trained_evaluated_and_sampled_from_python(
    tmp_path: Path, elsewhere: Path
) -> None:
    root = write(tmp_path / "data", data_set(100, 50))
    fields = {
        "name": "mine",
        "data": {"root": str(root), "validation_images": 0},
        "training": {"epochs": 9},
    }
    run = cvae.train(fields, "training.epochs=1 model.hidden=[4]", offline=True)
    assert run.spec == spec(
        name="mine",
        data__root=str(root),
        data__validation_images=0,
        training__epochs=1,
        model__hidden=[4],
    )
    assert fields["training"] == {"epochs": 9}
    assert run.folder.path.parent.resolve() == elsewhere / "runs"
    assert run.folder.info["changes"] == ["training.epochs=1", "model.hidden=[4]"]
    figures = cvae.evaluate(run, importance_samples=3, label_samples=2)
    assert {*figures} >= {"test/nll_is3", "test/label_accuracy_is2"}
    assert figures.items() <= run.folder.metrics.items()
    assert (
        cvae.evaluate("mine", importance_samples=3)["test/nll_is3"]
        == (figures["test/nll_is3"])
    )
    numpys: Any = np.int64(3)
    three = cvae.generate_conditional_samples(5, numpys, run=run, seed=numpys)
    assert three.shape == (3, 784)


def test_train_takes_a_file_and_a_spec_and_says_what_is_wrong_with_either(
    tmp_path: Path,
) -> None:
    root = write(tmp_path / "data", data_set(100, 50))
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"# Question: why?\nname: mine\ntraining: {{epochs: 1}}\n"
        f"data: {{root: {root}, validation_images: 0}}\nmodel: {{hidden: [4]}}\n"
    )
    first = cvae.train(path, runs=tmp_path / "a", offline=True)
    second = cvae.train(first.spec, runs=tmp_path / "b", offline=True)
    assert second.folder.weights.read_bytes() == first.folder.weights.read_bytes()
    assert first.folder.info["header"] == "Question: why?"
    assert first.folder.info["command"] == f"make experiment CONFIG={path}"
    for wrong in (path, first.spec, {"name": "mine"}):
        with pytest.raises(SpecError, match="did you mean latent_dim"):
            cvae.train(wrong, ["model.latent_dims=3"], runs=tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_run_is_loaded_and_evaluated_from_any_working_directory(
    finished: tuple[Path, Done], tmp_path: Path, elsewhere: Path
) -> None:
    """Its `data.root` is relative: the shipped images, beside the code."""
    path = shutil.copytree(the_run(finished[0]).path, tmp_path / "copied")
    (path / "tracking.json").unlink()
    assert not Path(load_run(path).spec.data.root).is_absolute()
    assert load_run(str(path)).folder.path == path
    figures = cvae.evaluate(path, importance_samples=1)
    assert 90 < figures["test/nll_is1"] < 300
    assert cvae.generate_conditional_samples(3, run=path).shape == (1, 784)
    assert not list(elsewhere.iterdir())


def test_samples_are_of_a_run_in_the_folder_that_is_named(
    finished: tuple[Path, Done], elsewhere: Path
) -> None:
    runs = finished[0]
    images = cvae.generate_conditional_samples(3, 2, seed=1, runs=runs)
    path = the_run(runs).path
    again = cvae.generate_conditional_samples(3, 2, path, seed=1)
    assert torch.equal(images, again)


@pytest.mark.parametrize("count", [-1, 1.5, True, 10**7, "5"])
def test_a_wrong_number_of_samples_is_a_value_error(count: object, here: Path) -> None:
    for name in ("importance_samples", "label_samples"):
        with pytest.raises(ValueError, match="must be an integer of 0 to"):
            cvae.evaluate(**{name: count})  # type: ignore[arg-type]


def test_help_shows_every_public_name_with_its_words() -> None:
    shown = pydoc.plain(pydoc.render_doc(cvae))
    for name in cvae.__all__:
        assert f"    {name}(" in shown
        assert (getattr(cvae, name).__doc__ or "").count("Raises:") == 1
    assert {*cvae.__all__} <= {*dir(cvae)}

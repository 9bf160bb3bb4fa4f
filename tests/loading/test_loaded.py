"""A finished run back as a model, and what a notebook asks of it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cvae
from cvae import likelihood, mnist
from cvae.loading.loaded import generate_conditional_samples, load_run
from tests import children
from tests.test_commands import Done, the_run

RAW = children.ROOT / "mnist_data" / "raw"


@pytest.fixture
def here(finished: tuple[Path, Done]) -> Iterator[Path]:
    """The working folder whose runs/ holds the finished run, as the README's code."""
    before = Path.cwd()
    os.chdir(finished[0].parent)
    yield finished[0]
    os.chdir(before)


def few() -> tuple[torch.Tensor, torch.Tensor]:
    """20 test images with their labels, as the loaders of the README return them."""
    images = cvae.load_mnist_images(RAW / "t10k-images-idx3-ubyte")[:20]
    return images, cvae.load_mnist_labels(RAW / "t10k-labels-idx1-ubyte")[:20]


def test_a_seed_gives_the_same_digits_and_none_gives_new_ones(here: Path) -> None:
    drawn = [
        generate_conditional_samples(3, 4, seed=seed)
        for seed in (1, 2, 2**63, 2**64 - 1, None, None)
    ]
    assert torch.equal(drawn[0], generate_conditional_samples(3, 4, seed=1))
    for at, one in enumerate(drawn):
        assert not any(torch.equal(one, other) for other in drawn[:at])


def test_a_run_is_found_by_name_id_folder_and_mlflow_run_id(here: Path) -> None:
    folder = the_run(here)
    run_id = json.loads((folder.path / "tracking.json").read_text())["run_id"]
    for reference in (
        *(folder.name, "quickstart", folder.spec().id, folder.path, run_id, None),
        *(folder, load_run()),
    ):
        run = load_run(reference)
        assert run.folder.path.resolve() == folder.path.resolve()
        assert (run.spec, run.shape) == (folder.spec(), (28, 28))


@pytest.mark.parametrize(
    "digit", [-1, 10, 2.5, True, "5", torch.tensor([5, 6]), np.array([5, 6])]
)
def test_only_digits_are_taken(here: Path, digit: Any) -> None:
    with pytest.raises(ValueError, match="digit must be an integer of 0 to 9"):
        generate_conditional_samples(digit)


def test_integers_of_numpy_and_tensors_are_taken(here: Path) -> None:
    wanted = generate_conditional_samples(5, 3, seed=3, temperature=0.5)
    for kind in (np.int64, np.uint8, torch.tensor):
        number: Any = kind
        heat: Any = torch.tensor(0.5)
        drawn = generate_conditional_samples(
            number(5), number(3), seed=number(3), temperature=heat
        )
        assert torch.equal(drawn, wanted)


def test_the_pieces_fit_together_in_a_notebook(here: Path) -> None:
    run, (images, labels) = load_run(), few()
    x, y = images.flatten(1) / 255, labels.long()
    mu, logvar = run.encode(images, labels)
    with torch.no_grad():
        torch.testing.assert_close((mu, logvar), run.model.encode(x, y))
        torch.testing.assert_close(run.model.encode(x, labels), run.model.encode(x, y))
        means = torch.sigmoid(run.model.decode(mu, y))
    torch.testing.assert_close(run.decode(mu, labels), means)
    torch.testing.assert_close(run.reconstruct(images, labels), means)
    torch.testing.assert_close(run.reconstruct(x, labels.tolist()), means)
    one: Any = images[:2].numpy()
    assert torch.equal(run.reconstruct(one, 7), run.reconstruct(images[:2], [7, 7]))
    drawn = run.sample(5, 2, seed=1)
    assert torch.equal(drawn, generate_conditional_samples(5, 2, run, seed=1))
    own = run.log_likelihood(images, labels, samples=7, seed=4)
    nll = likelihood.importance_nll(
        run.model,
        mnist.Images(images.flatten(1), y),
        torch.Generator().manual_seed(4),
        samples=7,
    )
    assert own.shape == (20,)
    assert -float(own.mean()) == pytest.approx(nll)
    assert len(run.data().test) == 10_000


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (torch.zeros(2, 27, 28), [1, 2], r"images must be \(N, 28, 28\)"),
        (torch.full((2, 784), 3.0), [1, 2], r"pixels in \[0, 1\]"),
        (torch.zeros(2, 784), [1, 10], "labels must be integers of 0 to 9"),
        (torch.zeros(2, 784), [1, 2, 3], "2 images cannot have 3 labels"),
        (torch.zeros(2, 784), None, "needs labels"),
    ],
)
def test_images_and_labels_that_do_not_fit_are_value_errors(
    here: Path, images: torch.Tensor, labels: Any, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        load_run().encode(images, labels)


def test_a_run_is_loaded_and_evaluated_from_any_working_directory(
    finished: tuple[Path, Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its `data.root` is relative: the shipped images, beside the code."""
    path = shutil.copytree(the_run(finished[0]).path, tmp_path / "copied")
    (path / "tracking.json").unlink()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert not Path(load_run(path).spec.data.root).is_absolute()
    assert 90 < cvae.evaluate(path, importance_samples=1)["test/nll_is1"] < 300
    assert cvae.generate_conditional_samples(3, run=path).shape == (1, 784)
    assert not list(elsewhere.iterdir())

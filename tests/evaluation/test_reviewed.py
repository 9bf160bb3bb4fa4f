"""The parts labels, samples and latents as `make evaluate` asks for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cvae import mnist
from cvae.errors import DataError
from cvae.evaluation import labels, latents, samples
from cvae.evaluation.estimator import Measured, Request
from cvae.evaluation.metrics import metric
from cvae.model import CVAE
from tests.conftest import data_set, generator, idx, write
from tests.evaluation.made import request


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny data set, and Fashion-MNIST of the same size beside it."""
    home = tmp_path_factory.mktemp("reviewed")
    write(home / "fashion", data_set(20, 30))
    return write(home / "raw", data_set())


@pytest.fixture(scope="module")
def asked(root: Path) -> Request:
    return request(10, 2, data=mnist.load_mnist(root, validation_images=90), root=root)


def model(*, latent_dim: int = 2, conditional: bool = True) -> CVAE:
    made = CVAE(
        latent_dim=latent_dim,
        hidden=(4,),
        conditional=conditional,
        generator=generator(),
    )
    with torch.no_grad():
        for part in made.encoder.parameters():
            part.mul_(3)
    return made


def all_known(found: Measured) -> None:
    for name, value in found.figures.items():
        known = metric(f"test/{name}")
        assert known.unit or known.share, name
        assert np.isfinite(value), name
    assert found.errors.keys() >= found.figures.keys() - {"active_units"}


def test_labels_are_measured_and_held_against_fashion(asked: Request) -> None:
    images = asked.data.test
    found = labels.labels(model(), images, asked)
    all_known(found)
    for name in ("noise", "inverted", "flipped", "rotated", "fashion"):
        assert {f"auroc_{name}_is2", f"auroc_ratio_{name}_is2"} <= found.figures.keys()
    right = found.per_image["label_named"] == images.labels
    share = float(right.double().mean())
    assert found.figures["label_accuracy_is2"] == pytest.approx(share)
    wrong = int(found.arrays["wrong_count"])
    assert wrong == int((~right).sum())


def test_fashion_of_another_size_is_refused_in_one_line(
    asked: Request, tmp_path: Path
) -> None:
    small = np.zeros((12, 5, 5), np.uint8)
    files = {}
    for split in ("train", "t10k"):
        files[f"{split}-images-idx3-ubyte"] = idx(small)
        files[f"{split}-labels-idx1-ubyte"] = idx(np.zeros(12, np.uint8))
    write(tmp_path / "fashion", files)
    other = request(1, 1, data=asked.data, root=tmp_path / "raw")
    with pytest.raises(DataError, match="25 pixels cannot stand beside digits of 784"):
        labels.labels(model(), asked.data.test, other)
    assert labels.fashion_mnist(request(root=tmp_path / "none" / "raw")) == {}


@pytest.mark.parametrize("latent_dim", [1, 8])
def test_latents_are_measured(asked: Request, latent_dim: int) -> None:
    found = latents.latents(model(latent_dim=latent_dim), asked.data.test, asked)
    all_known(found)
    assert found.per_image["information"].shape == (len(asked.data.test),)


def test_a_plain_vae_has_samples_and_latents(asked: Request) -> None:
    plain = model(conditional=False)
    found = samples.samples(plain, asked.data.test, asked)
    assert found.figures.keys() == {"nearest_train", "nearest_train_real", "copied"}
    all_known(latents.latents(plain, asked.data.test, asked))

"""The parts labels, samples and latents as `make evaluate` asks for them, and drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from analysis.drawing import information_plots, label_plots, sample_plots
from analysis.drawing.plates import Plate
from analysis.evaluation import rows
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
        assert metric(f"test/{name}").unit, name
        assert np.isfinite(value), name
    assert found.errors.keys() >= found.figures.keys() - {"active_units"}


def saved(plate: Plate, folder: Path) -> None:
    (path,) = plate.save(folder)
    with Image.open(path) as picture:
        assert picture.width > 800
        assert np.asarray(picture.convert("L")).std() > 10


def test_labels_are_measured_drawn_and_held_against_fashion(
    asked: Request, tmp_path: Path
) -> None:
    images = asked.data.test
    found = labels.labels(model(), images, asked)
    all_known(found)
    for name in ("noise", "inverted", "flipped", "rotated", "fashion"):
        assert {f"auroc_{name}_is2", f"auroc_ratio_{name}_is2"} <= found.figures.keys()
    right = found.per_image["label_named"] == images.labels
    share = float(right.double().mean())
    assert found.figures["label_accuracy_is2"] == pytest.approx(share)
    chart, mistakes = label_plots.draw_labels(found, {})
    saved(chart, tmp_path)
    saved(mistakes, tmp_path)
    wrong = int(found.arrays["wrong_count"])
    assert wrong == int((~right).sum())
    assert "runner-up" in mistakes.caption


def test_labels_without_a_mistake_have_no_picture_of_mistakes() -> None:
    y = torch.arange(20) % 10
    logs = 10 * torch.eye(10).double()[y]
    images = mnist.Images(torch.zeros(20, 4, dtype=torch.uint8), y)
    found = labels.classification(logs, images, generator(), samples=1)
    found |= Measured({}, arrays=labels.misclassified(logs, images, (2, 2)))
    assert [plate.name for plate in label_plots.draw_labels(found, {})] == ["labels"]


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


def test_samples_of_a_data_set_that_no_judge_knows_are_measured_without_it(
    asked: Request,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(samples, "EPOCHS", 1)
    found = samples.samples(model(), asked.data.test, asked)
    assert "no judge knows this data set" in caplog.text
    all_known(found)
    assert "frechet" not in found.figures
    for plate in sample_plots.draw_samples(found, {}):
        saved(plate, tmp_path)
    assert f"{100 * found.figures['copied']:.1f} ± " in plate.caption


def test_a_row_holds_a_figure_of_samples_and_all_that_it_stands_beside() -> None:
    found = Measured(
        {"recall": 0.5, "recall_real": 0.9, "copied": 0.5}, {"recall": 0.01}
    )
    first, second = rows(found)
    assert first["value ± standard error"] == "0.5000 ± 0.0100"
    assert (first["real"], second["real"]) == ("0.9000", "")


@pytest.mark.parametrize("latent_dim", [1, 8])
def test_latents_are_measured_and_drawn(
    asked: Request, tmp_path: Path, latent_dim: int
) -> None:
    found = latents.latents(model(latent_dim=latent_dim), asked.data.test, asked)
    all_known(found)
    assert found.per_image["information"].shape == (len(asked.data.test),)
    for plate in information_plots.draw_latents(found, {}):
        saved(plate, tmp_path)


def test_a_plain_vae_has_samples_and_latents(asked: Request, tmp_path: Path) -> None:
    plain = model(conditional=False)
    found = samples.samples(plain, asked.data.test, asked)
    assert found.figures.keys() == {"nearest_train", "nearest_train_real", "copied"}
    (picture,) = sample_plots.draw_samples(found, {})
    saved(picture, tmp_path)
    all_known(latents.latents(plain, asked.data.test, asked))


def test_two_labels_and_few_images_leave_out_what_they_cannot_tell(
    asked: Request, caplog: pytest.LogCaptureFixture
) -> None:
    rows_kept = [row for row in range(len(asked.data.test)) if row % 10 in (3, 7)][:8]
    data = asked.data.test
    few = mnist.Images(data.images[rows_kept], data.labels[rows_kept])
    assert "label_in_z_linear" not in latents.latents(model(), few, asked).figures
    assert "too few images" in caplog.text
    arrays = samples.memorisation(few, asked.data).arrays
    assert arrays["sample_labels"].tolist()[:2] == [3, 7]
    assert len(arrays["samples"]) == 4

from __future__ import annotations

import gzip
import hashlib
import math
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from cvae import mnist
from cvae.errors import DataError
from cvae.loading.loaded import unpack
from cvae.mnist import (
    Images,
    load_mnist,
    load_mnist_images,
    load_mnist_labels,
    salt_and_pepper,
)
from tests.conftest import data_set, generator, idx, write

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
# Two images of 2 × 3 pixels and three labels, written out by hand.
SMALL_IMAGES = (
    b"\0\0\x08\x03\0\0\0\x02\0\0\0\x02\0\0\0\x03" + bytes(range(250, 256)) * 2
)
SMALL_LABELS = b"\0\0\x08\x01\0\0\0\x03\x00\x09\x05"


def keys(part: Images) -> list[bytes]:
    return [row.numpy().tobytes() for row in part.images]


# -- reader ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "written"),
    [("file", "file"), ("file.gz", "file.gz"), ("file", "file.gz")],
)
def test_raw_and_gzip_files_read_the_same(
    tmp_path: Path, asked: str, written: str
) -> None:
    zipped = written.endswith(".gz")
    (tmp_path / written).write_bytes(
        gzip.compress(SMALL_IMAGES) if zipped else SMALL_IMAGES
    )
    images = load_mnist_images(tmp_path / asked)
    assert images.dtype == torch.uint8
    assert images.tolist() == 2 * [[[250, 251, 252], [253, 254, 255]]]
    (tmp_path / written).write_bytes(
        gzip.compress(SMALL_LABELS) if zipped else SMALL_LABELS
    )
    labels = load_mnist_labels(str(tmp_path / asked))
    assert labels.dtype == torch.uint8
    assert labels.tolist() == [0, 9, 5]


WRONG: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "truncated"),
    "header cut": (SMALL_IMAGES[:10], "truncated"),
    "magic of labels": (SMALL_LABELS + bytes(20), "magic number 2049, expected 2051"),
    "little-endian": (b"\x03\x08" + SMALL_IMAGES[2:], "magic"),
    "floats": (b"\0\0\x0d\x03" + SMALL_IMAGES[4:], "magic"),
    "text": (b"<html>not found</html>", "magic"),
    "truncated": (SMALL_IMAGES[:-1], "truncated"),
    "trailing": (SMALL_IMAGES + b"\0", "trailing|too long"),
    "four gigabytes": (
        struct.pack(">IIII", 2051, 5_500_000, 28, 28) + bytes(100),
        "truncated|more than",
    ),
    "largest sizes": (struct.pack(">IIII", 2051, *3 * [2**32 - 1]), "trunc|more than"),
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("case", WRONG)
def test_wrong_image_files_are_refused(tmp_path: Path, case: str, zipped: bool) -> None:
    content, problem = WRONG[case]
    path = tmp_path / ("file.gz" if zipped else "file")
    path.write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(DataError, match=problem) as refused:
        load_mnist_images(path)
    assert str(path) in str(refused.value)


def test_there_is_a_class_more_than_the_largest_label(tmp_path: Path) -> None:
    files = data_set(train=20, test=20)
    labels = np.array([0, 25, *18 * [3]], np.uint8)
    root = write(tmp_path, files | {"t10k-labels-idx1-ubyte": idx(labels)})
    assert mnist.load_mnist(root).classes == 26


# -- the shipped files ---------------------------------------------------------------


def test_shipped_counts_labels_and_mean_are_the_published_ones(
    shipped: mnist.MNIST,
) -> None:
    train = load_mnist_images(mnist.SHIPPED_ROOT / IMAGES)
    labels = load_mnist_labels(mnist.SHIPPED_ROOT / LABELS)
    assert train.shape == (60_000, 28, 28)
    assert float(train.double().mean()) == pytest.approx(33.318421, abs=5e-7)
    assert torch.bincount(labels.long()).tolist() == [
        *(5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
    ]
    assert torch.bincount(shipped.test.labels).tolist() == [
        *(980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
    ]
    assert (len(shipped.train), len(shipped.validation)) == (55_000, 5_000)
    assert (len(shipped.test), shipped.shape) == (10_000, (28, 28))


def test_pixel_entropy_of_the_shipped_test_images_is_the_published_floor(
    shipped: mnist.MNIST,
) -> None:
    x = mnist.pixels(shipped.test.images).double()
    entropy = -(torch.xlogy(x, x) + torch.xlogy(1 - x, 1 - x)).sum(1).mean()
    assert float(entropy) == pytest.approx(45.53, abs=0.005)


# -- a folder ------------------------------------------------------------------------


def test_missing_folders_and_files_and_counts_and_sizes_that_differ_are_refused(
    tmp_path: Path, tiny_root: Path
) -> None:
    with pytest.raises(DataError, match="no such folder"):
        load_mnist(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no such folder"):
        load_mnist("a\0b")
    write(tiny_root, {LABELS: idx(np.zeros(299, np.uint8))})
    with pytest.raises(DataError, match=r"holds 300 images .* holds 299 labels"):
        load_mnist(tiny_root)
    write(tiny_root, data_set() | {TEST_IMAGES: idx(np.zeros((100, 8, 8), np.uint8))})
    with pytest.raises(DataError, match="one size"):
        load_mnist(tiny_root)
    (tiny_root / TEST_LABELS).unlink()
    with pytest.raises(DataError, match=f"{TEST_LABELS}: no such file"):
        load_mnist(tiny_root)


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_dotted_names_are_found(tmp_path: Path, ending: str) -> None:
    files = {
        name.replace("-idx", ".idx") + ending: gzip.compress(raw) if ending else raw
        for name, raw in data_set().items()
    }
    assert len(load_mnist(write(tmp_path, files)).train) == 300


@pytest.mark.parametrize(
    ("name", "content", "advice"),
    [
        (
            IMAGES,
            gzip.compress(SMALL_IMAGES, mtime=0),
            f"gzip-compressed: rename it to {IMAGES}.gz",
        ),
        (IMAGES, b"<!DOCTYPE html><html>404 not found</html>", "a web page"),
        (f"{IMAGES}.gz", SMALL_IMAGES, f"not compressed: rename it to {IMAGES}"),
    ],
)
def test_a_file_under_a_wrong_name_is_named_for_what_it_is(
    tmp_path: Path, name: str, content: bytes, advice: str
) -> None:
    write(tmp_path, {name: content})
    with pytest.raises(DataError, match=advice):
        load_mnist_images(tmp_path / name)


# -- splits --------------------------------------------------------------------------


def test_the_split_of_the_shipped_data_is_pinned(shipped: mnist.MNIST) -> None:
    # results are compared across years: the held-back images must never change
    digest = hashlib.sha256(shipped.validation.images.numpy().tobytes()).hexdigest()
    assert digest[:16] == "8115dd85f3dcf88d"


def test_train_images_takes_a_prefix(tiny_root: Path) -> None:
    whole = load_mnist(tiny_root, validation_images=50)
    part = load_mnist(tiny_root, validation_images=50, train_images=20)
    assert keys(part.train) == keys(whole.train)[:20]
    assert keys(part.validation) == keys(whole.validation)


@pytest.mark.parametrize(
    ("train", "validation"), [(None, 300), (None, 10**9), (251, 50), (301, 0)]
)
def test_more_images_than_there_are_is_refused(
    tiny_root: Path, train: int | None, validation: int
) -> None:
    with pytest.raises(DataError, match="300 training images cannot give"):
        load_mnist(tiny_root, train_images=train, validation_images=validation)
    assert len(load_mnist(tiny_root, train_images=250, validation_images=50).train)


# -- pixels --------------------------------------------------------------------------


def test_threshold_splits_at_one_half(tiny_root: Path) -> None:
    grey = load_mnist(tiny_root, validation_images=50)
    found = load_mnist(tiny_root, validation_images=50, binarize="threshold")
    for part in ("train", "validation", "test"):
        wanted = mnist.pixels(getattr(grey, part).images) > 0.5
        assert torch.equal(mnist.pixels(getattr(found, part).images), wanted.float())


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 1.0])
def test_salt_and_pepper_replaces_at_its_rate(probability: float) -> None:
    x = torch.full((500, 400), 0.25)
    noisy = salt_and_pepper(x, probability, generator())
    n, half = x.numel(), probability / 2
    spread = 5 * (n * half * (1 - half)) ** 0.5

    def count(value: float) -> int:
        return int((noisy == value).sum())

    assert abs(count(0.0) - n * half) <= spread
    assert abs(count(1.0) - n * half) <= spread
    assert count(0.25) == n - count(0.0) - count(1.0)
    assert x.unique().tolist() == [0.25]


def test_a_share_of_the_images_is_shifted_by_a_pixel_and_rotated_by_5_degrees() -> None:
    image = torch.zeros(28, 28, dtype=torch.uint8)
    image[6:11, 16:21] = 200  # its middle is 7.1 pixels from that of the image
    images = image.view(1, -1).repeat(2000, 1)
    assert torch.equal(mnist.moved(images, (28, 28), 0.0, generator()), images)
    moved = mnist.moved(images, (28, 28), 0.5, generator())
    apart = (moved != images).any(1)
    assert 0.4 < float(apart.double().mean()) < 0.6
    seen = moved[apart].double()
    ink = seen.sum(1)
    assert (ink / image.sum() - 1).abs().max() < 0.03
    line = torch.arange(28.0).double()
    grid = seen.view(-1, 28, 28) / ink[:, None, None]
    for middle, at in ((8, grid.sum(2) @ line), (18, grid.sum(1) @ line)):
        far = at - middle
        assert far.abs().max() < 1 + 7.1 * math.sin(math.radians(5)) + 0.1
        assert far.abs().mean() > 0.5
        assert far.mean().abs() < 0.1


def test_each_shipped_gz_gets_its_raw_twin_and_a_damaged_one_is_a_data_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = data_set(train=3000)
    zipped = {f"{name}.gz": gzip.compress(raw) for name, raw in files.items()}
    write(tmp_path, zipped)
    sums = {name: hashlib.sha256(raw).hexdigest() for name, raw in files.items()}
    monkeypatch.setattr(mnist, "SHIPPED_ROOT", tmp_path)
    monkeypatch.setattr(mnist, "SHA256", sums)
    unpack(tmp_path)
    found = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert found == files | zipped
    (tmp_path / IMAGES).unlink()
    write(tmp_path, {f"{IMAGES}.gz": zipped[f"{IMAGES}.gz"][:-2000]})
    unpack(tmp_path)
    with pytest.raises(DataError, match=IMAGES):
        load_mnist(tmp_path)
    assert not list(tmp_path.glob("*.part"))

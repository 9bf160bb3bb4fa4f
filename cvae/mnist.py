"""Raw MNIST: checksums, splits, and tensors that stay on the device."""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from cvae.errors import DataError
from cvae.idx import read_idx

SHIPPED_ROOT = Path(__file__).resolve().parent.parent / "mnist_data" / "raw"
# SHA-256 of the decompressed files, as their authors published them.
SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738"
    "ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5"
    "333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77"
    "db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351"
    "222c34898ecbeaf847f06e48f7ec33f2",
}
SPLIT_SEED = 20140214  # fixed for every run: splits do not depend on training.seed
BINARIZE_SEED = 20150901  # fixed likewise: one binarised test set for all runs


@dataclass(frozen=True)
class Images:
    """Images (N, D) uint8 in 0…255 with labels (N,) int64 in 0…C − 1."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return self.images.shape[0]

    def __getitem__(self, rows: slice | list[int] | Tensor) -> Images:
        return Images(self.images[rows], self.labels[rows])

    def split(self, size: int) -> list[Images]:
        """Parts of `size` images; the last may be smaller."""
        return [self[at : at + size] for at in range(0, len(self), size)]

    def to(self, device: torch.device) -> Images:
        return Images(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class MNIST:
    """The three splits, the shape of one image and the checksum of each file."""

    train: Images
    validation: Images
    test: Images
    shape: tuple[int, int]
    sha256: dict[str, str]
    classes: int = 10  # C: one more than the largest label of the four files

    @property
    def digest(self) -> str:
        """32 hex digits that change with any byte of any of the four files."""
        joined = "".join(self.sha256[name] for name in sorted(self.sha256))
        return hashlib.sha256(joined.encode()).hexdigest()[:32]


def load_mnist_images(path: str | os.PathLike[str]) -> Tensor:
    """Read an IDX file of images, raw or gzip-compressed.

    Returns:
        (N, rows, columns) uint8, 0 is background and 255 is ink.

    Raises:
        DataError: wrong magic, type or dimensions, truncated or trailing bytes.
    """
    return read_idx(Path(path), dimensions=3)[0]


def load_mnist_labels(path: str | os.PathLike[str]) -> Tensor:
    """Read an IDX file of labels, raw or gzip-compressed.

    Returns:
        (N,) uint8, 0…9 for MNIST.

    Raises:
        DataError: as `load_mnist_images`.
    """
    return read_idx(Path(path), dimensions=1)[0]


def load_mnist(
    root: str | os.PathLike[str],
    *,
    train_images: int | None = None,
    validation_images: int = 0,
    binarize: str = "none",
) -> MNIST:
    """Load the four files of `root` and split them.

    The training file is shuffled once with a fixed seed; its last `validation_images`
    are held back and the first `train_images` of the rest are trained on (all by
    default). `threshold` sets pixels to x > 0.5; `dynamic` draws the validation and
    test pixels from Bernoulli(x) once with a fixed seed and leaves the training images
    grey, to be drawn anew in every epoch (Burda et al. 2016; Salakhutdinov & Murray
    2008).

    Raises:
        DataError: a file is missing or wrong, counts differ, or too few images.
    """
    root = Path(root).expanduser()
    files = {name: locate(root, name) for name in SHA256}
    sha256: dict[str, str] = {}
    everything, shape = _read_pair(root, files, "train", sha256)
    test, test_shape = _read_pair(root, files, "t10k", sha256)
    if root.resolve() == SHIPPED_ROOT:
        _check_sums(root, sha256)
    if shape != test_shape:
        raise DataError(
            f"{root}: training images are {shape} and test images {test_shape} "
            "pixels; both must have one size"
        )
    classes = 1 + max(
        int(part.labels.max()) for part in (everything, test) if len(part)
    )
    train, validation = _split(root, everything, train_images, validation_images)
    if binarize == "threshold":
        train, validation, test = map(threshold, (train, validation, test))
    elif binarize == "dynamic":
        generator = torch.Generator().manual_seed(BINARIZE_SEED)
        validation, test = (draw_pixels(part, generator) for part in (validation, test))
    return MNIST(train, validation, test, shape, sha256, classes)


def pixels(images: Tensor, out: Tensor | None = None) -> Tensor:
    """Bytes 0…255 as float32 pixels in [0, 1], same shape."""
    return torch.div(images, 255, out=out)


def salt_and_pepper(
    x: Tensor, probability: float, generator: torch.Generator
) -> Tensor:
    """Replace each pixel of `x` (B, D), with `probability`, by 0 or 1 at equal odds."""
    u = torch.rand(x.shape, generator=generator, device=x.device)
    salted = torch.where(u < probability / 2, 1.0, x)
    return torch.where(u >= 1 - probability / 2, 0.0, salted)


def moved(
    images: Tensor, shape: tuple[int, int], share: float, generator: torch.Generator
) -> Tensor:
    """A copy of `images` (N, D) uint8 with a share of them shifted and rotated.

    Shifts are −1, 0 or 1 pixel along each axis, angles uniform within ±5°; pixels
    between those of the original are interpolated bilinearly.
    """
    device = images.device
    at = torch.rand(len(images), generator=generator, device=device) < share
    which = at.nonzero().squeeze(1)
    draws = torch.rand((3, len(which)), generator=generator, device=device)
    angle = (2 * draws[0] - 1) * math.radians(5)
    dy, dx = (3 * draws[1:]).floor() - 1
    height, width = shape
    sin, cos = angle.sin(), angle.cos()
    # Output to input coordinates, in [−1, 1] along each axis: (n, 2, 3).
    theta = torch.stack([cos, -sin, 2 * dx / width, sin, cos, 2 * dy / height], 1)
    result = images.clone()
    if not len(which):
        return result
    for rows, matrix in zip(
        which.split(1000), theta.view(-1, 2, 3).split(1000), strict=True
    ):
        some = images[rows].view(-1, 1, height, width).float()
        grid = F.affine_grid(matrix, list(some.shape), align_corners=False)
        seen = F.grid_sample(some, grid, align_corners=False)
        result[rows] = seen.round().to(torch.uint8).flatten(1)
    return result


def locate(root: Path, name: str) -> Path:
    """The file of that name in `root`, raw or .gz.

    Raises:
        DataError: there is none.
    """
    dotted = name.replace("-idx", ".idx")  # as some mirrors write it
    for stem in (name, dotted):
        for path in (root / stem, root / f"{stem}.gz"):
            if path.is_file():
                return path
    if not root.is_dir():
        raise DataError(
            f"{root}: no such folder; data.root must hold {', '.join(SHA256)} "
            "(each raw or .gz)"
        )
    raise DataError(f"{root / name}: no such file, nor {name}.gz beside it")


def _read_pair(
    root: Path, files: dict[str, Path], split: str, sha256: dict[str, str]
) -> tuple[Images, tuple[int, int]]:
    # A file of images with its labels, and their size; the digests go to `sha256`.
    of_images, of_labels = f"{split}-images-idx3-ubyte", f"{split}-labels-idx1-ubyte"
    images, sha256[of_images] = read_idx(files[of_images], dimensions=3)
    labels, sha256[of_labels] = read_idx(files[of_labels], dimensions=1)
    if len(images) != len(labels):
        raise DataError(
            f"{root}: {of_images} holds {len(images)} images but {of_labels} "
            f"holds {len(labels)} labels; the two counts must be equal"
        )
    _, height, width = images.shape
    return Images(images.flatten(1), labels.long()), (height, width)


def _check_sums(root: Path, sha256: dict[str, str]) -> None:
    for name in (name for name in SHA256 if sha256[name] != SHA256[name]):
        raise DataError(
            f"{root / name}: SHA-256 is {sha256[name]}, expected {SHA256[name]}; "
            "delete the file and take it from the repository again (git checkout)"
        )


def _split(
    root: Path, images: Images, wanted: int | None, held_back: int
) -> tuple[Images, Images]:
    available = len(images) - held_back
    if available < 1 or (wanted is not None and wanted > available):
        raise DataError(
            f"{root}: {len(images)} training images cannot give {held_back} to "
            f"validation and {wanted or 'at least 1'} to training"
        )
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    order = torch.randperm(len(images), generator=generator)
    return images[order[: wanted or available]], images[order[available:]]


def threshold(part: Images) -> Images:
    """Black and white images: ink where x > 0.5."""
    return Images((part.images > 127).to(torch.uint8) * 255, part.labels)


def draw_pixels(part: Images, generator: torch.Generator) -> Images:
    """Black and white images, each pixel drawn from Bernoulli(its grey)."""
    drawn = torch.bernoulli(pixels(part.images), generator=generator)
    return Images((drawn * 255).to(torch.uint8), part.labels)

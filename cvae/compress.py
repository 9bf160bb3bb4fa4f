"""A run's test images as a file of as many bits as its −ELBO says, and back.

The file: a line with the SHA-256 of all that follows; a line of JSON with the run, its
weights' SHA-256, the buckets of z and the SHA-256 of the images; then the code.
"""

from __future__ import annotations

import json
import logging
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvae.errors import DataError
from cvae.files import digest, write_atomic

# Imports inside the functions: torch takes seconds, `--help` must not wait.
if TYPE_CHECKING:
    from cvae import mnist
    from cvae.samples import Run

MAGIC = b"cvae bits-back 1 "
SUFFIX = ".bits"
log = logging.getLogger("cvae")


def compress(*, runs: Path, run: str | None, out: Path | None) -> None:
    """Write the black and white test images, read them back, and say what they took."""
    from cvae import likelihood
    from cvae.mnist import threshold
    from cvae.run.data import load_data
    from cvae.run.evaluation import check_weights
    from cvae.run.measurements import REPORTS
    from cvae.run.state import stream
    from cvae.samples import load_run

    known = load_run(run, runs=runs)
    name = known.folder.name
    path = out or REPORTS / name / f"test{SUFFIX}"
    check_weights(known.folder, known.model)
    images = threshold(load_data(known.spec, known.folder).test)
    began = time.monotonic()
    data = packed(known, images)
    middle = time.monotonic()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, data)
    unpacked(path, known)
    ended = time.monotonic()
    noise = stream(known.spec.training.seed, "evaluate")
    nats = likelihood.bound(known.model, images, noise)["neg_elbo"]
    labels = math.log2(10)
    bits, expected = 8 * len(data) / len(images), nats / math.log(2) + labels
    print(
        f"{path}: {len(data):,} bytes, {len(images)} black and white test images and "
        f"labels, read back bit for bit\n"
        f"  bits per image          {bits:.2f} of {images.images.shape[1]} pixels\n"
        f"  −ELBO and log2 10       {expected:.2f} = {expected - labels:.2f} + "
        f"{labels:.2f}\n"
        f"  the file is larger by   {100 * (bits / expected - 1):.2f} %\n"
        f"  seconds                 {middle - began:.0f} to write, "
        f"{ended - middle:.0f} to read"
    )


def decompress(*, runs: Path, file: Path, run: str | None, out: Path | None) -> None:
    """The images and labels of a file, as the two IDX files of a test set."""
    from cvae.samples import load_run

    header, _ = read(file)
    known = load_run(run or header["run"], runs=runs)
    images = unpacked(file, known)
    folder = out or file.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    rows, columns = known.shape
    for name, tensor, sizes in (
        ("t10k-images-idx3-ubyte", images.images, (len(images), rows, columns)),
        ("t10k-labels-idx1-ubyte", images.labels.byte(), (len(images),)),
    ):
        head = (0x800 + len(sizes), *sizes)
        data = b"".join(size.to_bytes(4, "big") for size in head)
        write_atomic(folder / name, data + tensor.numpy().tobytes())
    print(f"{folder}: {len(images)} images and labels")


def packed(run: Run, images: mnist.Images) -> bytes:
    """The file's bytes."""
    from cvae.evaluation import bits_back
    from cvae.run.progress import item_progress

    grid = bits_back.buckets(run.model, images)
    code = bits_back.encode(run.model, images, grid, item_progress("write"))
    header = {
        "run": run.folder.name,
        "weights": digest(run.folder.read_weights()),
        "images": len(images),
        "content": _digest_of(images),
        "grid": grid._asdict(),
        "made_by": _machine(),
    }
    body = json.dumps(header).encode() + b"\n" + code
    return MAGIC + digest(body).encode() + b"\n" + body


def read(path: Path) -> tuple[dict[str, Any], bytes]:
    """Header and code of a file.

    Raises:
        DataError: the file is none of `make compress`, truncated or altered.
    """
    try:
        first, _, body = path.read_bytes().partition(b"\n")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    if not first.startswith(MAGIC):
        raise DataError(f"{path}: not a file of make compress")
    if first != MAGIC + digest(body).encode():
        raise DataError(
            f"{path}: truncated or altered: its SHA-256 is not the one in its first "
            "line; make compress writes it anew"
        )
    header, _, code = body.partition(b"\n")
    return json.loads(header), code


def unpacked(path: Path, run: Run) -> mnist.Images:
    """The images in a file.

    Raises:
        DataError: as `read`; or the run has other weights than the file was made with,
            or its networks answer with other bits here.
    """
    from cvae.evaluation import bits_back
    from cvae.run.progress import item_progress

    header, code = read(path)
    if header["weights"] != digest(run.folder.read_weights()):
        raise DataError(
            f"{path}: made with other weights of {header['run']} than those of "
            f"{run.folder.path}"
        )
    grid = bits_back.Buckets(**header["grid"])
    try:
        images = bits_back.decode(
            run.model, code, header["images"], grid, item_progress("read")
        )
        content = _digest_of(images)
    except (IndexError, ValueError):
        content = ""
    if content != header["content"]:
        raise DataError(
            f"{path}: other images come out than were put in: the file can be read "
            f"where floats are rounded alike, on {header['made_by']}; here is "
            f"{_machine()}"
        )
    return images


def _digest_of(images: mnist.Images) -> str:
    return digest(images.images.numpy().tobytes() + images.labels.numpy().tobytes())


def _machine() -> str:
    import torch

    from cvae.run.provenance import processor

    return f"{processor()} with torch {torch.__version__}"

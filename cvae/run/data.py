"""The data set of a run: loaded as its spec says, compared with what it recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cvae import mnist
from cvae.errors import DataError
from cvae.run.folder import RunFolder
from cvae.spec.fields import Spec

REPOSITORY = Path(__file__).resolve().parents[2]


def load_data(spec: Spec, folder: RunFolder | None = None) -> mnist.MNIST:
    """The spec's data; with `folder`, only if that run was made with the same.

    A relative `data.root` of a run is looked for in the working directory, then beside
    the code: a run can be evaluated from anywhere.

    Raises:
        DataError: a file is missing or wrong, or the digest is not the recorded one.
    """
    root = Path(spec.data.root)
    if folder is not None and not root.exists():
        root = REPOSITORY / root
    data = mnist.load_mnist(root, **split_options(spec))
    if folder is not None:
        check_data(folder, data)
    return data


def check_data(folder: RunFolder, data: mnist.MNIST) -> None:
    """Compare the data with the digest that the run recorded at its start.

    Raises:
        DataError: they differ; the message names both digests.
    """
    recorded = folder.info.get("data", {})
    if recorded.get("digest", data.digest) != data.digest:
        raise DataError(
            f"{folder.path}: made with data of digest {recorded['digest']}, but "
            f"{recorded['root']} now holds data of digest {data.digest}; put the "
            "former files back, or move this folder away to begin again"
        )


def split_options(spec: Spec) -> dict[str, Any]:
    options = {"train_images", "validation_images", "binarize"}
    return spec.data.model_dump(include=options)

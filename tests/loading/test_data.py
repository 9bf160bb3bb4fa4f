"""The shipped .gz files are unpacked beside themselves, once."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pytest

from cvae import mnist
from cvae.errors import DataError
from cvae.loading.loaded import unpack
from cvae.mnist import load_mnist
from tests.conftest import data_set, write

IMAGES = "train-images-idx3-ubyte"


def pretend_shipped(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """`root` as the shipped folder: four .gz files and their true checksums."""
    files = data_set(train=3000)
    write(root, {f"{name}.gz": gzip.compress(raw) for name, raw in files.items()})
    sums = {name: hashlib.sha256(raw).hexdigest() for name, raw in files.items()}
    monkeypatch.setattr(mnist, "SHIPPED_ROOT", root)
    monkeypatch.setattr(mnist, "SHA256", sums)
    return files


def test_each_gz_gets_its_raw_twin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = pretend_shipped(tmp_path, monkeypatch)
    unpack(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        *files,
        *(f"{name}.gz" for name in files),
    }
    assert all((tmp_path / name).read_bytes() == raw for name, raw in files.items())


def test_a_damaged_shipped_gz_is_a_data_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_shipped(tmp_path, monkeypatch)
    path = tmp_path / f"{IMAGES}.gz"
    path.write_bytes(path.read_bytes()[:-2000])
    unpack(tmp_path)
    with pytest.raises(DataError, match=IMAGES):
        load_mnist(tmp_path)
    assert not list(tmp_path.glob("*.part"))

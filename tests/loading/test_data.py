"""The shipped .gz files are unpacked beside themselves, once."""

from __future__ import annotations

import gzip
import hashlib
import os
import threading
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


def test_processes_that_decompress_at_once_leave_whole_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = pretend_shipped(tmp_path, monkeypatch)
    monkeypatch.setattr(os, "getpid", threading.get_ident)  # a process each, so to say
    start, counts = threading.Barrier(4), list[int]()

    def load() -> None:
        start.wait()
        unpack(tmp_path)
        counts.append(len(load_mnist(tmp_path).train))

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [3000] * 4
    assert {path.name for path in tmp_path.iterdir()} == {
        *files,
        *(f"{name}.gz" for name in files),
    }
    assert all((tmp_path / name).read_bytes() == raw for name, raw in files.items())


def test_a_full_disk_keeps_the_gz_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = pretend_shipped(tmp_path, monkeypatch)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    unpack(tmp_path)
    assert len(load_mnist(tmp_path).train) == 3000
    assert {path.name for path in tmp_path.iterdir()} == {f"{k}.gz" for k in files}


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

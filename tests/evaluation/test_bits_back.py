"""The bound as a file: as long as −ELBO says, and the same bits back."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cvae import __main__, compress, mnist
from cvae.errors import DataError, UsageError
from cvae.evaluation import bits_back
from cvae.evaluation.ans import Coder
from cvae.model import CVAE
from cvae.objective import terms
from cvae.samples import Run
from tests.conftest import generator
from tests.evaluation import made
from tests.run.test_measured import trained

track = made.request().track


def test_symbols_take_the_bits_of_their_probabilities_and_come_back() -> None:
    random = np.random.default_rng(0)
    count, lanes, bits = 4000, 7, 12
    shares = np.array([1, 20, 75, 4000 - 96, 96])  # of 2^12
    begins = np.concatenate([[0], shares.cumsum()])
    symbols = random.choice(5, (count, lanes), p=shares / 2**bits)
    coder = Coder(np.full(lanes, 2**31))
    for row in symbols:
        coder.push(begins[row], shares[row], bits)
    coded = coder.tobytes()
    entropy = -np.log2(shares[symbols] / 2**bits).sum()
    assert 8 * len(coded) - lanes * 64 <= entropy <= 8 * len(coded) - lanes * 31
    back = Coder.of(coded, lanes)
    for row in symbols[::-1]:
        found = np.searchsorted(begins, back.peek(lanes, bits), side="right") - 1
        assert (found == row).all()
        back.drop(begins[found], shares[found], bits)
    assert (back.heads == 2**31).all()
    with pytest.raises(IndexError):
        back.drop(np.zeros(7), np.ones(7), bits)


def black_and_white(model: CVAE, count: int) -> mnist.Images:
    """Images that the model draws itself, the last one's label 9."""
    random = generator(5)
    y = torch.randint(10, (count,), generator=random)
    y[-1] = 9
    noise = torch.randn(count, model.latent_dim, generator=random)
    with torch.no_grad():
        p = model.decode(model.prior.sample(y, noise), y).sigmoid()
    drawn = torch.bernoulli(p, generator=random)
    return mnist.Images((255 * drawn).to(torch.uint8), y)


@pytest.mark.parametrize(
    "options",
    [
        {"prior": "standard"},
        {"prior": "learned"},
        {"prior": "mixture"},
        {"conditional": False},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_the_code_is_as_long_as_the_bound_and_read_back(
    options: dict[str, Any],
) -> None:
    # 3 latents: the mixture's coordinates depend on one another
    model = made.model(3, **options)
    images = black_and_white(model, 1003)  # the last batch is a small one
    grid = bits_back.buckets(model, images)
    code = bits_back.encode(model, images, grid, track)
    back = bits_back.decode(model, code, len(images), grid, track)
    assert torch.equal(back.images, images.images)
    assert torch.equal(back.labels, images.labels)

    noise = torch.randn(50, len(images), 3, generator=generator())
    with torch.no_grad():
        x = mnist.pixels(images.images)
        found = terms(model, x, images.labels, noise, 1.0, x)
    bound = float((found.recon + found.kl).mean())
    bits = len(images) * (bound / math.log(2) + math.log2(10))
    # a lane's head has 64 bits, its first z at most 3 × 16; the z of an image is one
    # draw, the bound has 50 (3 standard deviations are 700 bits)
    start = bits_back.LANES * (64 + 3 * 16)
    assert -700 < 8 * len(code) - bits < start + 700


def test_a_prior_without_densities_of_its_coordinates_is_refused() -> None:
    with pytest.raises(UsageError, match="compress another run"):
        bits_back.components(made.model(2, prior="flow"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(tmp_path_factory.mktemp("compressed"))


def command(*words: object) -> int:
    return __main__.main([str(word) for word in words])


def test_the_test_images_go_into_a_file_and_come_back_as_idx_files(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, file = run.folder.path.parent, tmp_path / "new" / "test.bits"
    assert command("compress", "--runs", runs, "--out", file) == 0
    said = capsys.readouterr().out
    assert f"{file.stat().st_size:,} bytes, 50 black and white" in said
    bits, bound = (
        float(re.findall(rf"{words} +([\d.]+)", said)[0])
        for words in ("bits per image", "−ELBO and log2 10")
    )
    assert bits == pytest.approx(8 * file.stat().st_size / 50, abs=0.01)
    start = 8 * 1000 / 50  # the header, and the first batch's z
    assert 0 < bits - bound < start + 0.02 * bound
    assert command("decompress", file, "--runs", runs, "--out", tmp_path / "idx") == 0
    images = mnist.load_mnist_images(tmp_path / "idx" / "t10k-images-idx3-ubyte")
    labels = mnist.load_mnist_labels(tmp_path / "idx" / "t10k-labels-idx1-ubyte")
    test = mnist.load_mnist(run.spec.data.root).test
    assert torch.equal(images.flatten(1), (test.images > 127).byte() * 255)
    assert torch.equal(labels.long(), test.labels)


def test_a_file_that_was_changed_or_is_of_other_weights_is_said_in_one_line(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runs, file = run.folder.path.parent, tmp_path / "test.bits"
    assert command("compress", "--runs", runs, "--out", file) == 0
    whole = file.read_bytes()
    changed = bytearray(whole)
    changed[-100] ^= 1
    for data, words in (
        (whole[:-1], "truncated or altered"),
        (whole[:300], "truncated or altered"),
        (bytes(changed), "truncated or altered"),
        (b"", "not a file of make compress"),
        (b"\n" + whole, "not a file of make compress"),
    ):
        file.write_bytes(data)
        caplog.clear()
        out = tmp_path / "idx"
        assert command("decompress", file, "--runs", runs, "--out", out) == 3
        (line,) = caplog.messages
        assert words in line
        assert str(file) in line
        assert not out.exists()
    assert command("decompress", tmp_path / "none", "--runs", runs) == 3
    file.write_bytes(whole)
    other = trained(tmp_path, training__seed=1)
    caplog.clear()
    assert command("decompress", file, "--runs", runs, "--run", other.folder.path) == 3
    assert "made with other weights" in caplog.messages[-1]


def test_where_floats_are_rounded_otherwise_it_is_said(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = mnist.threshold(mnist.load_mnist(run.spec.data.root).test)
    file = tmp_path / "test.bits"
    file.write_bytes(compress.packed(run, images))
    decoded = CVAE.decode
    monkeypatch.setattr(CVAE, "decode", lambda *a: decoded(*a) + 1e-2)
    with pytest.raises(DataError, match="can be read where floats are rounded alike"):
        compress.unpacked(file, run)

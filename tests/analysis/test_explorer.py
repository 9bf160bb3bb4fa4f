"""The explorer's page: one file that holds the model; which runs it cannot show."""

from __future__ import annotations

import base64
import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import nn

from analysis import explorer
from analysis.reading import packed
from cvae.errors import UsageError
from cvae.loading.loaded import LoadedRun, load_run
from tests.conftest import untrained_run

MOST = 3_000_000  # bytes of the default network's page, a plain twin beside it
DOCS = Path("docs/explorer.html")
AGAIN = f"make explorer RUN=seed-notebook AGAINST=plain-vae OUT={DOCS}"


def unpacked(text: str, block: str) -> bytes:
    found = re.search(rf'<script type="text/plain" id="{block}">(.*?)</script>', text)
    assert found, f"no block {block}"
    return zlib.decompress(base64.b64decode(found[1]), -15)


def facts(text: str) -> dict[str, Any]:
    found = re.search(
        r'<script type="application/json" id="facts">(.*?)</script>', text
    )
    assert found
    content: dict[str, Any] = json.loads(found[1])
    return content


def weights(data: bytes, part: nn.Sequential) -> list[NDArray[np.float32]]:
    """Matrices (outputs, inputs) and biases of a block, as `parameters` has them."""
    each = [layer for layer in part if isinstance(layer, nn.Linear)]
    total = sum(layer.weight.numel() for layer in each)
    halves = np.frombuffer(data[: 2 * total], np.uint8).reshape(2, total).T.copy()
    numbers = halves.view("<f2")[:, 0].astype(np.float32)
    biases = np.frombuffer(data[2 * total :], "<f4")
    found = []
    for layer in each:
        outputs, inputs = layer.weight.shape
        matrix, numbers = np.split(numbers, [inputs * outputs])
        bias, biases = np.split(biases, [outputs])
        found += [matrix.reshape(inputs, outputs).T, bias]
    return found


@pytest.fixture(scope="module")
def published() -> LoadedRun:
    return load_run("seed-notebook")


def test_the_page_in_docs_holds_the_published_weights_to_the_bit(
    published: LoadedRun,
) -> None:
    text = DOCS.read_text()
    assert len(text.encode()) <= MOST
    assert facts(text)["model"] == packed.model_facts(published.model, "relu")
    for name in ("encoder", "decoder"):
        part = getattr(published.model, name)
        found = weights(unpacked(text, name), part)
        for own, there in zip(part.parameters(), found, strict=True):
            assert np.array_equal(own.detach().numpy(), there), AGAIN
    twin = load_run("plain-vae").model.decoder
    for own, there in zip(
        twin.parameters(), weights(unpacked(text, "twin-decoder"), twin), strict=True
    ):
        assert np.abs(own.detach().numpy() - there).max() < 0.1, AGAIN
    assert len(facts(text)["images"]["twin"]) == len(facts(text)["images"]["labels"])


def test_the_page_in_docs_is_written_by_todays_parts() -> None:
    text = DOCS.read_text()
    for name in explorer.SCRIPTS:
        assert (explorer.PARTS / f"{name}.js").read_text() in text, AGAIN
    assert (explorer.PARTS / "style.css").read_text() in text, AGAIN


def test_nothing_is_loaded_from_elsewhere(tmp_path: Path) -> None:
    text = explorer.page(untrained_run(tmp_path, model__hidden=[16]))
    assert "default-src 'none'" in text
    assert not re.findall(
        r"""https?:|url\(|@import|\bimport\(|\bfetch\(|\bsrc=["']""", text
    )
    assert not re.findall(
        r"localStorage|sessionStorage|indexedDB|document\.cookie", text
    )


def test_text_of_a_run_cannot_end_the_script(tmp_path: Path) -> None:
    run = untrained_run(tmp_path, model__hidden=[16])
    text = explorer.page(run, again="</script><script>alert(1)</script>")
    assert "<script>alert" not in text
    assert facts(text)["footer"].endswith("</script><script>alert(1)</script>")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"run": "plain"}, "is unconditional: .* AGAINST="),
        ({"run": "own", "against": "own"}, "AGAINST=.* is conditional"),
        ({"run": "small"}, "its images are .14, 14."),
        ({"run": "conv"}, "decodes with linear layers"),
        ({"run": "flow"}, "not from model.prior: flow"),
    ],
)
def test_a_run_of_the_wrong_kind_is_refused(
    asked: dict[str, str], words: str, tmp_path: Path
) -> None:
    own = untrained_run(tmp_path, model__hidden=[16])
    kinds = {
        "conv": untrained_run(tmp_path, model__architecture="conv"),
        "flow": untrained_run(tmp_path, model__hidden=[16], model__prior="flow"),
        "own": own,
        "plain": untrained_run(tmp_path, model__conditional=False),
        "small": LoadedRun(own.model, own.spec, own.folder, (14, 14)),
    }
    with pytest.raises(UsageError, match=words):
        explorer.page(kinds[asked["run"]], kinds.get(asked.get("against", "")))

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
import torch
from numpy.typing import NDArray
from torch import nn

from analysis import explorer
from analysis.reading import packed
from cvae import mixture
from cvae.errors import UsageError
from cvae.loading.loaded import LoadedRun, load_run
from cvae.mixture import Mixture
from cvae.model import CVAE
from cvae.priors import Prior
from tests.conftest import generator, linear, untrained_run

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


def test_rounding_keeps_seven_bits_and_changes_nothing_twice() -> None:
    weight = torch.randn(100, 50, generator=generator())
    once = torch.from_numpy(packed.rounded(weight)).float()
    assert float(((once - weight) / weight).abs().max()) <= 2**-8
    assert torch.equal(torch.from_numpy(packed.rounded(once)).float(), once)
    assert not (packed.rounded(weight).view(np.int16) & 0b111).any()


def test_a_weight_beyond_half_precision_is_refused() -> None:
    for value in (1e5, float("nan")):
        with pytest.raises(ValueError, match="half precision"):
            packed.rounded(torch.tensor([[value]]))


@pytest.mark.parametrize("prior", ["standard", "learned", "mixture"])
def test_every_prior_is_a_mixture_with_an_affine_map(prior: str) -> None:
    """Read back by the table's own formulas, it is the prior of the model."""
    model = CVAE(latent_dim=3, hidden=(8,), prior=prior, generator=generator())
    labels = torch.arange(10)
    if prior == "learned":
        assert isinstance(model.prior_table, nn.Parameter)
        nn.init.normal_(model.prior_table, generator=generator(1))
    if prior == "mixture":
        z = torch.randn(400, 3, generator=generator(2)).cumsum(1)
        model.set_mixture(mixture.fit(z, torch.arange(400) % 10, generator(3)))
    data, shape = packed.prior(model)
    rows, components = shape["rows"], shape["components"]
    assert (rows, components) == {
        "standard": (1, 1),
        "learned": (10, 1),
        "mixture": (10, 10),
    }[prior]
    numbers = torch.frombuffer(bytearray(data), dtype=torch.float32)
    table, affine = numbers.split([rows * components * 13, rows * 12])
    there: Prior = Mixture(table.view(rows, components, 13).expand(10, -1, -1))
    z = torch.randn(10, 3, generator=generator(4))
    with torch.no_grad():
        torch.testing.assert_close(
            there.log_density(z, labels), model.prior.log_density(z, labels)
        )
        shift, factor = affine.view(rows, 12).expand(10, -1).split([3, 9], -1)
        made = shift + (factor.view(10, 3, 3) @ z[..., None]).squeeze(-1)
        torch.testing.assert_close(made, model.prior.unwhiten(z, labels))
    assert not factor.reshape(10, 3, 3).triu(1).any()


def test_dimensions_are_ordered_by_their_nats(tmp_path: Path) -> None:
    run = untrained_run(tmp_path, model__hidden=[16], model__latent_dim=4)
    with torch.no_grad():  # the fourth dimension alone tells the images apart
        last = linear(run.model.encoder, -1)
        last.weight[:3] = 0
        last.bias[:3] = 0
        last.weight[4:7] = 0
        last.bias[4:7] = 0
    found = facts(explorer.page(run))
    assert found["order"][0] == 3
    assert found["axes"] == found["order"][:2]
    assert found["kl"][1:] == ["0.00"] * 3


def test_text_of_a_run_cannot_end_the_script(tmp_path: Path) -> None:
    run = untrained_run(tmp_path, model__hidden=[16])
    text = explorer.page(run, again="</script><script>alert(1)</script>")
    assert "<script>alert" not in text
    assert facts(text)["footer"].endswith("</script><script>alert(1)</script>")


@pytest.mark.parametrize("method", ["encode", "decode"])
@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu", "silu"])
def test_a_model_whose_own_encode_or_decode_differs_is_refused(
    method: str, activation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = untrained_run(tmp_path, model__hidden=[16], model__activation=activation)
    assert "<canvas" in explorer.page(run)
    usual = getattr(CVAE, method)

    def edited(self: CVAE, values: torch.Tensor, y: torch.Tensor) -> Any:
        found = usual(self, values, y)
        return found + 0.1 if method == "decode" else (found[0] * 1.1, found[1])

    monkeypatch.setattr(CVAE, method, edited)
    with pytest.raises(UsageError, match="own encode or decode gives other values"):
        explorer.page(run)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"run": "plain"}, "is unconditional: .* AGAINST="),
        ({"run": "own", "against": "own"}, "AGAINST=.* is conditional"),
        ({"run": "small"}, "its images are 14 × 14; .* 28 × 28"),
        ({"run": "own", "against": "small plain"}, "its images are 14 × 14"),
        ({"run": "conv"}, "decodes with linear layers .* architecture: mlp"),
        ({"run": "deep"}, "decodes with linear layers .* normalisation: none"),
        ({"run": "flow"}, "not from a flow .* name another run"),
        ({"run": "own", "against": "plain flow"}, "not from a flow"),
    ],
)
def test_a_run_of_the_wrong_kind_is_refused(
    asked: dict[str, str], words: str, tmp_path: Path
) -> None:
    own = untrained_run(tmp_path, model__hidden=[16])
    plain = untrained_run(tmp_path, model__hidden=[16], model__conditional=False)
    small = (14, 14)
    kinds = {
        "conv": untrained_run(tmp_path, model__architecture="conv"),
        "deep": untrained_run(tmp_path, model__normalisation="layer"),
        "flow": untrained_run(tmp_path, model__hidden=[16], model__prior="flow"),
        "own": own,
        "plain": plain,
        "plain flow": untrained_run(
            tmp_path, model__conditional=False, model__prior="flow"
        ),
        "small": LoadedRun(own.model, own.spec, own.folder, small),
        "small plain": LoadedRun(plain.model, plain.spec, plain.folder, small),
    }
    with pytest.raises(UsageError, match=words):
        explorer.page(kinds[asked["run"]], kinds.get(asked.get("against", "")))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--run", "nothing"], "no run 'nothing'"),
        (["--run", "seed-notebook", "--against", "nothing"], "no run 'nothing'"),
        (["--run", "seed-notebook", "--out", "page.pdf"], "end the name in .html"),
    ],
)
def test_a_mistake_gets_one_message_and_exit_code_2(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert explorer.main(arguments) == 2
    assert words in caplog.text
    assert not list(tmp_path.iterdir())

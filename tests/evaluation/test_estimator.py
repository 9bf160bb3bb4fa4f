"""Finished batches, the table of estimators, and the data that they must respect."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cvae import classifier, likelihood, mnist
from cvae.evaluation import fidelity, gaps, latents, nll, samples
from cvae.evaluation.estimator import Measured
from tests.conftest import generator
from tests.evaluation.made import images, model, request


def test_an_interrupted_estimate_resumes_with_the_same_bits(tmp_path: Path) -> None:
    """Half of the batches, an interrupt, the other half: the numbers of one go."""
    items, calls = list(range(6)), list[int]()

    def run(stop: int, fingerprint: str = "a") -> list[Tensor]:
        random = generator(4)
        asked = request(kept=tmp_path / "nll", fingerprint=fingerprint)

        def work(item: int) -> Tensor:
            calls.append(item)
            draw = torch.randn(3, generator=random)
            if item == stop:
                raise KeyboardInterrupt
            return draw

        return asked.batches("nll", items, work, random)

    whole = run(-1)
    (tmp_path / "nll.nll.unfinished").unlink()
    with pytest.raises(KeyboardInterrupt):
        run(3)
    calls.clear()
    resumed = run(-1)
    assert calls == [3, 4, 5]
    assert torch.equal(torch.stack(resumed), torch.stack(whole))
    calls.clear()
    run(-1, fingerprint="b")  # of another model: from the beginning
    assert calls == items
    request(kept=tmp_path / "nll").remove_batches()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("estimator", [nll.nll, gaps.gaps])
def test_a_noisy_input_is_what_the_encoder_sees(
    estimator: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """data.corrupt: with other input noise the encoder's proposals are others."""
    assert callable(estimator)
    monkeypatch.setattr(gaps, "STEPS", 2)
    made, data = model(3), images(30)
    clean, noisy = (estimator(made, data, request(30, corrupt=c)) for c in (0.0, 0.9))
    name = "nll_is1" if "nll_is1" in clean.figures else "neg_elbo_encoder"
    assert noisy.figures[name] > clean.figures[name] + 0.01


def test_samples_of_binarised_pixels_stand_beside_binarised_training_images(
    shipped: mnist.MNIST, monkeypatch: pytest.MonkeyPatch
) -> None:
    """data.binarize: the ceiling and the neighbours are black and white, too."""
    seen: list[Tensor] = []

    def spy(made: object, data: mnist.MNIST, *rest: object) -> Measured:
        seen.append(data.train.images)
        return Measured({})

    monkeypatch.setattr(samples, "sample_figures", spy)
    few = mnist.Images(shipped.train.images[:50], shipped.train.labels[:50])
    data = mnist.MNIST(few, few, few, shipped.shape, {})
    for pixels in ("none", "dynamic"):
        samples.samples(model(), few, request(data=data, pixels=pixels))
    assert ((seen[0] > 0) & (seen[0] < 255)).any()
    assert set(seen[1].unique().tolist()) == {0, 255}


def test_images_of_32_by_32_do_not_overflow() -> None:
    """Logits of 0 are factors of 2: 2¹⁰²⁴ has no float."""
    made = model(3, shape=(32, 32), scale=0.0)
    data = images(2, pixels=1024)
    with torch.no_grad():
        log_p = likelihood.given_z(made, data.images / 255, data.labels)
        found = log_p(torch.zeros(1, 2, 3))
    torch.testing.assert_close(found, torch.full((1, 2), -1024 * math.log(2)))


def test_transfer_with_z_as_it_is_fails_where_z_says_the_digit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """z alone says the digit: whitening moves it there, z as it is stays."""
    made = model(1, prior="learned")
    assert made.prior_table is not None
    with torch.no_grad():
        made.prior_table[:, 0], made.prior_table[:, 1] = 10.0 * torch.arange(10), -9.0
    monkeypatch.setattr(
        made, "encode", lambda x, y: (10.0 * y[:, None], torch.zeros(len(y), 1))
    )
    monkeypatch.setattr(
        fidelity, "_read", lambda made, reader, z, y: (z[:, 0] / 10).round().long()
    )
    found = fidelity.fidelity(made, images(50), request(judge=classifier.Classifier()))
    assert found.figures["transfer_fidelity_n450"] == 1
    assert found.figures["transfer_fidelity_same_z"] == 0
    assert found.figures["label_fidelity_n10000"] == 1
    share = fidelity._binomial("x", 0.9, 10_000)
    assert share.errors["x"] == pytest.approx(0.003)


def test_p_of_z_weighs_each_label_by_its_share_of_the_images() -> None:
    made, data = model(1, prior="learned"), images(40)
    data.labels.copy_((torch.arange(40) < 10).long())  # a quarter of them are ones
    encoded = latents.encode(made, data, generator())
    z = encoded.z.float()
    each = [made.prior.log_density(z, torch.full((40,), y)).exp() for y in (0, 1)]
    wanted = (0.75 * each[0] + 0.25 * each[1]).log()
    torch.testing.assert_close(encoded.log_any.float(), wanted, rtol=1e-4, atol=1e-4)

"""A shortcut is used where it gives what the model itself gives, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from cvae import likelihood, mnist, objective, proof, training
from cvae.fast import steps
from cvae.fast.gradient import AnalyticGradient
from cvae.fast.steps import fastest
from cvae.model import CVAE
from cvae.optimizer import Adam, Hyperparameters
from cvae.run.state import STREAMS, stream
from cvae.training import Steps, autograd
from tests.conftest import generator, linear

CPU = torch.device("cpu")
QUICK = Hyperparameters(epochs=2, batch_size=64, learning_rate=1e-2)


def network(**options: Any) -> CVAE:
    sizes: dict[str, Any] = {"latent_dim": 2, "hidden": (16, 8)} | options
    return CVAE(**sizes, generator=generator())


def trained(
    data: mnist.MNIST, way: Steps, wanted: Hyperparameters = QUICK, **options: Any
) -> tuple[CVAE, list[dict[str, float]]]:
    model = network(**options)
    optimizer = Adam(model, wanted)
    streams = {name: stream(0, name) for name in STREAMS}
    epochs = training.train_epochs(
        model, optimizer, data.train, wanted, streams, steps=way
    )
    return model, [epoch.metrics for epoch in epochs]


plain_decode, plain_encode, plain_terms = CVAE.decode, CVAE.encode, objective.terms


def doubled(self: CVAE, z: Tensor, y: Tensor) -> Tensor:
    return 2 * plain_decode(self, z, y)


def shifted(self: CVAE, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    mu, logvar = plain_encode(self, x, y)
    return mu + 1, logvar


def costly(*arguments: Any, **options: Any) -> objective.Terms:
    result = plain_terms(*arguments, **options)
    return result._replace(loss=result.loss + result.mu.square().sum(1))


EDITS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "decode": lambda patch: patch.setattr(CVAE, "decode", doubled),
    "encode": lambda patch: patch.setattr(CVAE, "encode", shifted),
    "objective": lambda patch: patch.setattr(training, "terms", costly),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_definition_is_what_is_trained(
    tiny: mnist.MNIST,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    edit: str,
) -> None:
    unedited, before = trained(tiny, fastest)
    assert not caplog.records
    EDITS[edit](monkeypatch)
    model, records = trained(tiny, fastest)
    assert "is not used" in caplog.text
    plain, wanted = trained(tiny, autograd)
    assert records == wanted
    assert all(map(torch.equal, model.parameters(), plain.parameters()))
    assert abs(records[-1]["neg_elbo"] - before[-1]["neg_elbo"]) > 0.1
    assert not torch.equal(
        linear(model.encoder, 0).bias, linear(unedited.encoder, 0).bias
    )


def test_an_edited_decode_is_what_is_evaluated(
    tiny: mnist.MNIST, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, twice = network(), network()
    with torch.no_grad():
        for part in linear(twice.decoder, -1).parameters():
            part.mul_(2)

    def measure(one: CVAE) -> list[float]:
        nll = likelihood.importance_nll(one, tiny.test, generator(), samples=20)
        return [nll, likelihood.bound(one, tiny.test, generator())["recon"]]

    before, wanted = measure(model), measure(twice)
    monkeypatch.setattr(CVAE, "decode", doubled)  # the same object is compared again
    assert measure(model) == pytest.approx(wanted, rel=1e-5)
    assert measure(model) != pytest.approx(before, rel=1e-3)


@pytest.mark.parametrize("hidden", [(), (7,), (5, 8, 5, 8)])
@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_the_gradient_by_hand_is_autograds(
    tiny: mnist.MNIST, hidden: tuple[int, ...], conditional: bool, activation: str
) -> None:
    options = {"conditional": conditional, "activation": activation}
    model = network(hidden=hidden, **options, label_scale=4.0)
    assert AnalyticGradient.covers(model, samples=1)
    for wanted in (QUICK, Hyperparameters(epochs=1, binarize="dynamic", corrupt=0.3)):
        assert steps.agrees(steps.analytic, model, tiny.train, wanted)


def test_the_comparison_changes_no_bit(
    tiny: mnist.MNIST, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = Hyperparameters(epochs=2, batch_size=64, binarize="dynamic", ema=0.9)
    before = torch.get_rng_state()
    model, records = trained(tiny, fastest, wanted)
    assert torch.equal(torch.get_rng_state(), before)
    monkeypatch.setattr(steps, "agrees", lambda *_: True)
    unchecked, expected = trained(tiny, fastest, wanted)
    assert records == expected
    for part, other in zip(model.parameters(), unchecked.parameters(), strict=True):
        assert torch.equal(part, other)
        assert torch.equal(part.grad, other.grad)  # type: ignore[arg-type]


def test_a_shortcut_is_compared_on_a_copy_of_the_model() -> None:
    model = network(conditional=False)

    def plain(twin: CVAE, probe: proof.Probe) -> list[Tensor]:
        return [twin.decode(probe.z, probe.y)]

    assert proof.agrees(model, lambda twin, p: [twin.decoder(p.z)], plain)
    assert not proof.agrees(model, lambda twin, p: [model.decoder(p.z)], plain)
    assert not proof.agrees(model, lambda twin, p: [twin.decoder(p.z[:5])], plain)

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from cvae.fast.gradient import AnalyticGradient
from cvae.model import CVAE
from cvae.objective import terms
from cvae.optimizer import Adam, Hyperparameters
from cvae.training import AutogradGradient
from tests.conftest import generator, linear

BATCH, PIXELS = 16, 30


def batch(n: int, latent_dim: int, *, seed: int = 0) -> tuple[Tensor, ...]:
    random = generator(seed)
    x = torch.rand(n, PIXELS, generator=random).double()
    y = torch.randint(10, (n,), generator=random)
    noise = torch.randn(1, n, latent_dim, generator=random).double()
    return x, y, noise, x.round()  # what the encoder sees is not what is explained


def twins(**options: Any) -> tuple[CVAE, CVAE]:
    """Two models of the same weights, with gradients to be filled."""
    default: dict[str, Any] = {"latent_dim": 3, "hidden": (7, 5), "activation": "relu"}
    options = default | options
    made = [
        CVAE(**options, shape=(5, 6), generator=generator()).double() for _ in range(2)
    ]
    for model in made:
        Adam(model, Hyperparameters(epochs=1))
    return made[0], made[1]


def call(
    way: AnalyticGradient | AutogradGradient, beta: float, *arguments: Tensor
) -> Tensor:
    """The sums of one call, (3 + 2Z,)."""
    x, y, noise, target = arguments
    weight = torch.tensor(beta).to(x)
    row = way(x, y, noise, weight, target)
    if isinstance(way, AnalyticGradient):
        row = way.sums(row[None], weight[None])[0]
    return row


def check(
    model: CVAE,
    reference: CVAE,
    n: int,
    *,
    beta: float,
    seed: int = 0,
    by_hand: AnalyticGradient | None = None,
) -> None:
    given = batch(n, model.latent_dim, seed=seed)
    sums = call(by_hand or AnalyticGradient(model, n), beta, *given)
    torch.testing.assert_close(sums, call(AutogradGradient(reference), beta, *given))
    for part, other in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(part.grad, other.grad)


def test_autograds_sums_are_those_of_the_terms() -> None:
    model, _ = twins()
    x, y, noise, target = batch(BATCH, 3)
    found = terms(model, x, y, noise, 0.7, target)
    scalars = torch.stack([found.recon.sum(), found.kl.sum(), found.loss.sum()])
    wanted = torch.cat([scalars, found.mu.sum(0), found.mu.square().sum(0)])
    sums = call(AutogradGradient(model), 0.7, x, y, noise, target)
    torch.testing.assert_close(sums, wanted.detach())
    slopes = torch.autograd.grad(found.loss.mean(), list(model.parameters()))
    for part, slope in zip(model.parameters(), slopes, strict=True):
        torch.testing.assert_close(part.grad, slope)


def test_by_hand_says_what_it_is_written_for() -> None:
    model, _ = twins(activation="tanh", hidden=())
    assert AnalyticGradient.covers(model, samples=1)
    assert not AnalyticGradient.covers(model, samples=2)
    assert not AnalyticGradient.covers(model, samples=1, doubly=True)
    assert not AnalyticGradient.covers(twins(prior="learned")[0], samples=1)
    assert not AnalyticGradient.covers(twins(activation="gelu")[0], samples=1)


@pytest.mark.parametrize("hidden", [(), (7,), (7, 5), (5, 8, 5, 8)])
@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_by_hand_equals_autograd(
    hidden: tuple[int, ...], conditional: bool, activation: str
) -> None:
    made = twins(hidden=hidden, conditional=conditional, activation=activation)
    check(*made, BATCH, beta=0.7)


@pytest.mark.parametrize("beta", [0.0, 0.7, 1.0, 4.0])
@pytest.mark.parametrize("latent_dim", [1, 2, 20])
def test_by_hand_equals_autograd_at_any_beta(beta: float, latent_dim: int) -> None:
    check(*twins(latent_dim=latent_dim), BATCH, beta=beta)


def test_nothing_is_left_over_from_the_call_before() -> None:
    model, reference = twins()
    made: dict[int, AnalyticGradient] = {}  # one a batch size
    for seed, n in enumerate((BATCH, 3, 1, BATCH, 7)):
        by_hand = made.setdefault(n, AnalyticGradient(model, n))
        check(model, reference, n, beta=1.0, seed=seed, by_hand=by_hand)


def test_by_hand_equals_autograd_with_a_scaled_label() -> None:
    check(*twins(label_scale=4.0), BATCH, beta=0.5)


@pytest.mark.parametrize("scale", [10.0, 100.0])
def test_by_hand_equals_autograd_at_large_logits(scale: float) -> None:
    made = twins(hidden=())
    for part in made:
        with torch.no_grad():
            linear(part.decoder, 0).bias.copy_(
                torch.linspace(-scale, scale, PIXELS) * 0.8
            )
    check(*made, BATCH, beta=1.0)


@pytest.mark.parametrize("logit", [-200.0, -90.0, 90.0, 200.0])
def test_a_pixel_that_is_certain_has_a_finite_cost(logit: float) -> None:
    # else a run that is all but perfect is said to have diverged
    single = twins(hidden=())[0].float()
    linear(single.decoder, 0).weight.data.zero_()
    linear(single.decoder, 0).bias.data.fill_(logit)
    Adam(single, Hyperparameters(epochs=1))
    x, y, noise, _ = batch(BATCH, 3)
    for target, cost in ((0.0, max(logit, 0.0)), (1.0, max(-logit, 0.0))):
        explained = torch.full_like(x, target).float()
        sums = call(
            AnalyticGradient(single, BATCH), 1.0, x.float(), y, noise.float(), explained
        )
        assert float(sums[0]) == pytest.approx(cost * x.numel(), rel=1e-5, abs=1e-3)


def test_single_precision_agrees_to_single_precision() -> None:
    model, reference = twins(latent_dim=2, hidden=(64, 32))
    x, y, noise, target = batch(BATCH, 2)
    exact = call(AnalyticGradient(model, BATCH), 1.0, x, y, noise, target)
    single = reference.float()
    Adam(single, Hyperparameters(epochs=1))
    found = call(
        AnalyticGradient(single, BATCH),
        1.0,
        x.float(),
        y,
        noise.float(),
        target.float(),
    )
    torch.testing.assert_close(found, exact.float(), rtol=1e-5, atol=1e-4)
    for part, other in zip(single.parameters(), model.parameters(), strict=True):
        assert part.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(part.grad, other.grad.float(), rtol=1e-4, atol=1e-6)


def test_inputs_and_weights_are_left_alone() -> None:
    model, reference = twins()
    x, y, noise, target = batch(BATCH, 3)
    call(AnalyticGradient(model, BATCH), 1.0, x, y, noise, target)
    again = batch(BATCH, 3)
    assert all(map(torch.equal, (x, y, noise, target), again))
    assert all(map(torch.equal, model.parameters(), reference.parameters()))

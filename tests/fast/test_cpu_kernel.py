"""Compiled steps compute what autograd and torch's Adam do; torch's own stand in.

Only where there is a C compiler: conftest leaves this file out elsewhere, and says so.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from cvae import mnist, training
from cvae.fast import cpu_kernel
from cvae.fast.steps import fastest
from cvae.run import state
from cvae.spec.fields import Spec
from tests.conftest import linear, spec

PIXELS = 70  # not a multiple of the lanes
IMAGES = 40
CPU = torch.device("cpu")
Streams = dict[str, torch.Generator]


def library() -> cpu_kernel.Library:
    found = cpu_kernel.library()
    assert found
    return found


def images(pixels: int = PIXELS, inked: float = 1.0) -> mnist.Images:
    random = torch.Generator().manual_seed(1)
    grey = torch.randint(256, (IMAGES, pixels), generator=random, dtype=torch.uint8)
    grey[torch.rand(grey.shape, generator=random) > inked] = 0
    return mnist.Images(grey, torch.randint(10, (IMAGES,), generator=random))


def assembled(wanted: Spec, pixels: int) -> state.State:
    part = images(pixels)
    data = mnist.MNIST(part, part, part, (1, pixels), {})
    return state.assemble(wanted, data, CPU)


class Case:
    """The same weights twice: for compiled steps, and as torch's reference."""

    def __init__(
        self,
        threads: int = 1,
        pixels: int = PIXELS,
        inked: float = 1.0,
        **dotted: Any,
    ) -> None:
        small = {"model__hidden": [19, 7], "model__latent_dim": 3, "name": "fused"}
        self.spec = spec(**(small | {"training__batch_size": 16} | dotted))
        self.data = images(pixels, inked)
        self.ours, self.other = (assembled(self.spec, pixels) for _ in range(2))
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        self.fused = cpu_kernel.Fused(
            library(),
            *(self.ours.model, self.ours.optimizer, self.data),
            state.hyperparameters(self.spec),
            self.ours.streams,
        )
        torch.set_num_threads(before)

    @property
    def grad(self) -> Tensor:
        """The summed gradient, in the order of the model's weights."""
        grad = self.fused.grads[0].clone()
        if self.fused.sparse:
            (shape,) = {weights.shape for weights in self.fused.first}
            first = grad[: shape.numel()]
            first.copy_(first.view(shape[::-1]).t().flatten())
        return grad

    def reference(self, rows: Tensor, beta: float) -> Tensor:
        """The sums of a step as autograd has them; the gradient is left in `other`."""
        n, streams = len(rows), self.other.streams
        target = mnist.pixels(self.data.images[rows])
        if self.spec.data.binarize == "dynamic":
            target = torch.bernoulli(target, generator=streams["binarize"])
        x = target
        if self.spec.training.input_noise == "bernoulli":
            x = torch.bernoulli(target, generator=streams["binarize"])
        if self.spec.data.corrupt:
            x = mnist.salt_and_pepper(x, self.spec.data.corrupt, streams["corrupt"])
        noise = torch.randn(
            1, n, self.ours.model.latent_dim, generator=streams["noise"]
        )
        gradient = training.AutogradGradient(self.other.model)
        labels = self.data.labels[rows]
        return gradient(x, labels, noise, torch.tensor(beta), target)


KINDS: dict[str, dict[str, Any]] = {
    "default": {},
    "plain": {"model__conditional": False},
    "tanh": {"model__activation": "tanh"},
    "no hidden layer": {"model__hidden": []},
    "four hidden layers": {"model__hidden": [9, 33, 17, 5]},
    "label of size 4": {"model__label_scale": 4.0},
    "one latent": {"model__latent_dim": 1},
    "drawn pixels": {"data__binarize": "dynamic"},
    "corrupted": {"data__corrupt": 0.3},
    "noisy input": {"training__input_noise": "bernoulli"},
    "drawn and corrupted": {"data__binarize": "dynamic", "data__corrupt": 0.3},
    "many pixels": {"pixels": 2500},  # more than one product of factors a lane
    "mostly 0": {"inked": 0.2},
    "mostly 0, plain": {"inked": 0.1, "model__conditional": False},
    "mostly 0, corrupted": {"inked": 0.1, "data__corrupt": 0.1},
    "mostly 0, drawn": {"inked": 0.2, "data__binarize": "dynamic"},
    "mostly 0, wide": {"inked": 0.2, "model__hidden": [147, 9]},  # 128 + 16 + 3
    "all 0": {"inked": 0.0},
}


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_and_sums_are_autograds(kind: str, threads: int) -> None:
    case = Case(threads, **KINDS[kind])
    assert case.fused.sparse == ("0" in kind)
    for beta, rows in ((0.7, torch.arange(16)), (4.0, torch.arange(37, 40))):
        control = torch.tensor([[0.0, beta]])  # at rate 0 the weights stay
        (sums,) = case.fused([rows], control)
        wanted = case.reference(rows, beta)
        torch.testing.assert_close(sums, wanted.double(), rtol=1e-4, atol=1e-4)
        grad, reference = case.grad, case.other.optimizer.grad
        torch.testing.assert_close(grad, reference, rtol=1e-4, atol=1e-6)


def test_more_threads_than_images_are_no_fault() -> None:
    case = Case(threads=5)
    rows = torch.tensor([3, 1])
    (sums,) = case.fused([rows], torch.tensor([[0.0, 1.0]]))
    wanted = case.reference(rows, 1.0)
    torch.testing.assert_close(sums, wanted.double(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(case.grad, case.other.optimizer.grad)


def test_large_logits_lose_nothing() -> None:
    case = Case(model__hidden=[])
    for one in (case.ours, case.other):
        with torch.no_grad():
            linear(one.model.decoder, 0).bias.copy_(torch.linspace(-80, 80, PIXELS))
    rows = torch.arange(16)
    (sums,) = case.fused([rows], torch.tensor([[0.0, 1.0]]))
    wanted = case.reference(rows, 1.0)
    torch.testing.assert_close(sums, wanted.double(), rtol=1e-5, atol=1e-4)


def test_what_is_not_finite_stays_so() -> None:
    for bad in (torch.nan, torch.inf):
        case = Case()
        with torch.no_grad():
            linear(case.ours.model.encoder, 0).weight[0, 0] = bad
        (sums,) = case.fused([torch.arange(16)], torch.tensor([[1e-3, 1.0]]))
        assert not torch.isfinite(sums[2])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"training__optimizer": "adamw"},
        {"training__optimizer": "adamw", "training__weight_decay": 3.0},
        {"training__ema": 0.7},
        {"training__adam_betas": [0.8, 0.95]},
        {"inked": 0.2, "training__ema": 0.7},
    ],
)
def test_the_update_is_that_of_torch(options: dict[str, Any], threads: int) -> None:
    case = Case(threads, **options)
    for step, rows in enumerate((torch.arange(16), torch.arange(16, 32))):
        rate = torch.tensor(0.01 + 0.01 * step)
        case.fused([rows], torch.tensor([[float(rate), 1.0]]))
        optimizer = case.other.optimizer
        optimizer.grad.copy_(case.grad)
        optimizer.step(rate)
        for name, value in case.ours.optimizer.state.items():
            torch.testing.assert_close(value, optimizer.state[name])
        torch.testing.assert_close(case.ours.optimizer.flat, optimizer.flat)


def epochs(wanted: Spec, monkeypatch: pytest.MonkeyPatch, *, compiled: bool) -> Any:
    """State and records after training with compiled steps, or with torch's."""
    if not compiled:
        monkeypatch.setattr(cpu_kernel, "library", lambda: None)
    now = assembled(wanted, PIXELS)
    known = now.trained, now.optimizer, images(), state.hyperparameters(wanted)
    done = training.train_epochs(*known, now.streams, steps=fastest)
    return now, [epoch.metrics for epoch in done]


def test_an_interrupt_leaves_the_weights_in_their_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = Case(inked=0.2)
    before = case.ours.optimizer.flat.clone()

    def stop(*arguments: Any) -> None:
        assert not torch.equal(case.ours.optimizer.flat, before)
        raise KeyboardInterrupt

    monkeypatch.setattr(case.fused, "_run", stop)
    with pytest.raises(KeyboardInterrupt):
        case.fused([torch.arange(16)], torch.tensor([[1e-3, 1.0]]))
    assert torch.equal(case.ours.optimizer.flat, before)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"data__corrupt": 0.2, "data__binarize": "dynamic"},
        {"objective__beta": 2.0, "objective__warmup_epochs": 2},
    ],
)
def test_training_is_the_same_with_torchs_steps(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = spec(
        model__hidden=[19],
        model__activation="tanh",  # relu's kinks magnify the last digits
        training__epochs=3,
        training__batch_size=16,  # and a last one of 8
        **options,
    )
    ours, records = epochs(wanted, monkeypatch, compiled=True)
    other, expected = epochs(wanted, monkeypatch, compiled=False)
    for one, known in zip(records, expected, strict=True):
        assert one == pytest.approx(known, rel=1e-4)
    for name, generator in ours.streams.items():  # the same noise was drawn
        assert torch.equal(generator.get_state(), other.streams[name].get_state())
    assert ours.optimizer.state["step"] == other.optimizer.state["step"]


def test_an_epoch_in_several_calls_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    flats = []
    for at_once in (8192, 16):
        monkeypatch.setattr(cpu_kernel, "AT_ONCE", at_once)
        case = Case(training__batch_size=8)
        batches, control = torch.arange(40).split(8), torch.tensor([[1e-2, 1.0]])
        case.fused(batches, control.repeat(5, 1))
        flats.append(case.ours.optimizer.flat.clone())
    assert torch.equal(*flats)

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cvae import mnist, training
from cvae.errors import Diverged
from cvae.fast import steps as ways
from cvae.fast.steps import fastest
from cvae.objective import terms
from cvae.optimizer import SCHEDULES, cosine, one_cycle, schedule
from cvae.optimizer import linear as linear_schedule
from cvae.run.folder import RunFolder
from cvae.run.state import (
    State,
    assemble,
    hyperparameters,
    resume,
    save,
)
from cvae.spec.fields import Spec
from cvae.training import Epoch
from tests.conftest import spec

CPU = torch.device("cpu")


DOUBLY = "doubly_reparameterised"
SMALL_CONV = {"model.architecture": "conv", "model.hidden": [8, 8, 16]}


def quick(**dotted: Any) -> Spec:
    """A small network for the 300 images of `tiny`: three steps an epoch, the last
    one smaller than the others."""
    options = {
        "model.hidden": [16],
        "training.epochs": 2,
        "training.batch_size": 128,
        "training.device": "cpu",
    }
    dotted = {key.replace("__", "."): value for key, value in dotted.items()}
    return spec(**options | dotted)


def train(made: Spec, data: mnist.MNIST) -> tuple[State, list[Epoch]]:
    state = assemble(made, data, CPU)
    return state, list(epochs_of(state, data.train, made))


def epochs_of(
    state: State, images: mnist.Images, made: Spec, *, start: int = 0
) -> Iterator[Epoch]:
    known = state.trained, state.optimizer, images, hyperparameters(made)
    return training.train_epochs(*known, state.streams, start=start, steps=fastest)


def weights(state: State) -> list[Tensor]:
    return [part.detach() for part in state.model.parameters()]


# -- schedules -------------------------------------------------------------------------


@pytest.mark.parametrize("total", [2, 3, 4, 7, 10, 100, 469])
def test_one_cycle_is_torchs_at_every_step(total: int) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    oracle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=4e-3, total_steps=total, cycle_momentum=False
    )
    for step in range(total):
        (wanted,) = oracle.get_last_lr()
        found = one_cycle(step, total=total, peak=4e-3)
        assert found == pytest.approx(wanted, rel=1e-9), step
        optimizer.step()
        if step < total - 1:
            oracle.step()


@pytest.mark.parametrize("total", [1, 2, 3, 10, 1000])
def test_linear_rises_for_15_percent_and_falls_to_zero(total: int) -> None:
    found = [linear_schedule(step, total=total, peak=2.0) for step in range(total)]
    turn = max(0.15 * total, 1)
    wanted = np.interp(range(total), [0, turn, total + 1e-12], [0.2, 2.0, 0.0])
    assert found == pytest.approx(wanted.tolist())


@pytest.mark.parametrize("total", [1, 2, 20, 39, 40, 1000])
def test_cosine_is_torchs_linear_warm_up_and_annealing(total: int) -> None:
    turn = total // 20
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    schedules = torch.optim.lr_scheduler
    fall = schedules.CosineAnnealingLR(optimizer, T_max=total - turn)
    oracle: Any = fall
    if turn:
        optimizer.param_groups[0]["lr"] = 0.3  # fall has set its own first rate
        rise = schedules.LinearLR(optimizer, 1 / (turn + 1), total_iters=turn)
        oracle = schedules.SequentialLR(optimizer, [rise, fall], [turn])
    for step in range(total):
        (wanted,) = oracle.get_last_lr()
        assert cosine(step, total=total, peak=0.3) == pytest.approx(wanted, rel=1e-9)
        optimizer.step()
        with warnings.catch_warnings():  # torch's own step within SequentialLR warns
            warnings.simplefilter("ignore", UserWarning)
            oracle.step()


# -- the loop against its textbook form ------------------------------------------------


def textbook(made: Spec, data: mnist.MNIST) -> tuple[list[Tensor], list[list[float]]]:
    """The same training as anyone would write it: autograd, torch's Adam over separate
    parameters, no buffers. Weights at the end and recon, kl, loss of every epoch."""
    state = assemble(made, data, CPU)
    model, streams, images = state.model, state.streams, data.train.images
    for part in model.parameters():
        part.data, part.grad = part.data.clone(), None  # views no longer
    options: dict[str, Any] = {"lr": 1.0, "betas": made.training.adam_betas}
    optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), **options)
    if made.training.optimizer == "adamw":
        options["weight_decay"] = made.training.weight_decay
        optimizer = torch.optim.AdamW(model.parameters(), **options)
    size, doubly = made.training.batch_size, made.objective.gradient != "standard"
    count = math.ceil(len(images) / size)
    table = schedule(hyperparameters(made), count).tolist()
    history = []
    for _ in range(made.training.epochs):
        sums = torch.zeros(3, dtype=torch.float64)
        order = torch.randperm(len(images), generator=streams["shuffle"])
        for first in range(0, len(images), size):
            rows = order[first : first + size]
            rate, beta = table.pop(0)
            target, y = images[rows] / 255, data.train.labels[rows]
            if made.data.binarize == "dynamic":
                target = torch.bernoulli(target, generator=streams["binarize"])
            x = target
            if made.training.input_noise == "bernoulli":
                x = torch.bernoulli(target, generator=streams["binarize"])
            if made.data.corrupt:
                x = mnist.salt_and_pepper(x, made.data.corrupt, streams["corrupt"])
            noise = torch.randn(
                made.objective.importance_samples,
                len(rows),
                made.model.latent_dim,
                generator=streams["noise"],
            )
            found = terms(model, x, y, noise, beta, target, doubly=doubly)
            optimizer.zero_grad()
            found.loss.mean().backward()
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
            sums += torch.stack([part.detach().double().sum() for part in found[:3]])
        history.append((sums / len(images)).tolist())
    return weights(state), history


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"training.optimizer": "adamw", "training.learning_rate": 0.05},
        {"training.optimizer": "adamw", "training.weight_decay": 2.0},
        {"training.adam_betas": [0.5, 0.999]},
        {"data.binarize": "dynamic", "data.corrupt": 0.3, "model.activation": "tanh"},
        {"training.input_noise": "bernoulli", "data.corrupt": 0.1},
        {"objective.importance_samples": 5, "objective.beta": 0.5},
        {"objective.importance_samples": 3, "objective.gradient": DOUBLY},
        {"model.prior": "learned", "objective.warmup_epochs": 2},
        {"model.activation": "gelu", "model.conditional": False, "model.hidden": []},
    ],
    ids=lambda options: " ".join(options) or "default",
)
def test_training_is_its_textbook_form(
    tiny: mnist.MNIST, options: dict[str, Any]
) -> None:
    made = quick(**{"training.learning_rate": 1e-3} | options)
    state, epochs = train(made, tiny)
    wanted, history = textbook(made, tiny)
    for found, other in zip(weights(state), wanted, strict=True):
        torch.testing.assert_close(found, other, rtol=2e-3, atol=2e-5)
    for epoch, means in zip(epochs, history, strict=True):
        found_means = [epoch.metrics[key] for key in ("recon", "kl", "loss")]
        assert found_means == pytest.approx(means, rel=1e-4)


@pytest.mark.parametrize("activation", ["relu", "gelu"])  # compiled steps, and torch's
def test_ema_is_the_mean_of_the_weights_of_all_steps(
    tiny: mnist.MNIST, activation: str
) -> None:
    decay, options = 0.8, {"model.activation": activation, "training.batch_size": 1000}
    made = quick(training__ema=decay, training__epochs=5, **options)
    state = assemble(made, tiny, CPU)
    every: list[list[Tensor]] = []  # a step an epoch
    for _ in epochs_of(state, tiny.train, made):
        every.append([part.detach().clone() for part in state.trained.parameters()])
    shares = torch.tensor([decay**4, decay**3, decay**2, decay, 1.0])
    for found, *steps in zip(weights(state), *every, strict=True):
        mean = torch.einsum("s,s...->...", shares / shares.sum(), torch.stack(steps))
        torch.testing.assert_close(found, mean, rtol=1e-5, atol=1e-6)
        assert not torch.equal(found, steps[-1])
    unchanged, _ = train(quick(training__epochs=5, **options), tiny)
    assert all(map(torch.equal, weights(unchanged), state.trained.parameters()))


# -- divergence ------------------------------------------------------------------------


def test_divergence_in_the_last_step_is_seen_in_the_weights(
    tiny: mnist.MNIST, monkeypatch: pytest.MonkeyPatch
) -> None:
    def planted(step: int, *, total: int, peak: float) -> float:
        return math.inf if step == total - 1 else peak

    monkeypatch.setitem(SCHEDULES, "constant", planted)
    with pytest.raises(Diverged, match=r"not finite at step 6$"):
        train(quick(training__schedule="constant"), tiny)


# -- going on --------------------------------------------------------------------------

EVERY_STREAM = {
    "data.binarize": "dynamic",
    "data.corrupt": 0.2,
    "training.epochs": 4,
    "objective.warmup_epochs": 3,
}


def interrupted(
    tmp_path: Path, made: Spec, data: mnist.MNIST, device: torch.device = CPU
) -> RunFolder:
    """A run folder whose run was killed after two epochs."""
    folder = RunFolder(tmp_path)
    state = assemble(made, data, device)
    for epoch in islice(epochs_of(state, data.train.to(device), made), 2):
        save(folder, state, epoch=epoch.epoch)
    return folder


@pytest.mark.parametrize(
    "options",
    [
        {"data.augment": 1.0},
        {"training.ema": 0.9, "model.prior": "learned"},
        {"model.prior": "flow", "objective.importance_samples": 3},
        SMALL_CONV,
    ],
)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    tmp_path: Path, tiny: mnist.MNIST, options: dict[str, Any]
) -> None:
    made = quick(**EVERY_STREAM | options)
    whole, epochs = train(made, tiny)
    folder = interrupted(tmp_path, made, tiny)
    state = assemble(made, tiny, CPU)
    assert resume(folder, state) == 2
    rest = list(epochs_of(state, tiny.train, made, start=2))
    assert all(map(torch.equal, weights(state), weights(whole)))
    assert all(map(torch.equal, state.trained.parameters(), whole.trained.parameters()))
    for slot, value in whole.optimizer.state.items():
        assert torch.equal(state.optimizer.state[slot], value), slot
    for name, random in whole.streams.items():
        assert torch.equal(state.streams[name].get_state(), random.get_state()), name
    assert [(e.epoch, e.step, e.metrics) for e in rest] == [
        (e.epoch, e.step, e.metrics) for e in epochs[2:]
    ]


# -- on a GPU --------------------------------------------------------------------------


def on_cuda(made: Spec, data: mnist.MNIST) -> tuple[State, list[Epoch]]:
    device = torch.device("cuda")
    state = assemble(made, data, device)
    return state, list(epochs_of(state, data.train.to(device), made))


def gpu_spec(**options: Any) -> Spec:
    sizes = {"training.batch_size": 32, "training.epochs": 3}
    return quick(**{"training.device": "cuda"} | sizes | options)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"data.binarize": "dynamic", "data.corrupt": 0.2, "objective.warmup_epochs": 2},
        {"model.activation": "gelu"},
        {"model.prior": "learned", "objective.importance_samples": 3},
        {"model.prior": "flow", "objective.gradient": "doubly_reparameterised"},
        {"training.batch_size": 300},
        {"training.batch_size": 1000},
    ],
    ids=lambda options: " ".join(options) or "default",
)
def test_replayed_graphs_are_the_eager_steps(
    tiny: mnist.MNIST, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    made = gpu_spec(**options)
    replayed, epochs = on_cuda(made, tiny)
    monkeypatch.setattr(ways, "Replay", lambda *_: training.one_by_one)
    eager, wanted = on_cuda(made, tiny)
    for found, other in zip(weights(replayed), weights(eager), strict=True):
        torch.testing.assert_close(found, other, rtol=1e-4, atol=1e-4)
    for epoch, means in zip(epochs, wanted, strict=True):
        assert epoch.metrics == pytest.approx(means.metrics, rel=1e-4)


@pytest.mark.gpu
def test_a_run_resumed_on_the_gpu_is_the_uninterrupted_one(
    tmp_path: Path, tiny: mnist.MNIST
) -> None:
    made, device = gpu_spec(**EVERY_STREAM), torch.device("cuda")
    whole, _ = on_cuda(made, tiny)
    folder = interrupted(tmp_path, made, tiny, device)
    state = assemble(made, tiny, device)
    done = resume(folder, state)
    assert len(list(epochs_of(state, tiny.train.to(device), made, start=done))) == 2
    for found, other in zip(weights(state), weights(whole), strict=True):
        torch.testing.assert_close(found, other, rtol=1e-4, atol=1e-4)

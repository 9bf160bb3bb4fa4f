"""The training loop: one record an epoch, exact to the bit on the CPU.

An epoch is shuffled, cut into batches, and each batch makes one step: draw its pixels
and its noise, differentiate the loss, update the weights. Faster ways to the same steps
(`cvae.fast`) are passed in as `steps`. No state hides here: all that a run needs to be
resumed is in the model, the optimiser and the streams.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from cvae import mnist
from cvae.errors import Diverged
from cvae.likelihood import bound_figures
from cvae.model import CVAE
from cvae.networks import seeded
from cvae.objective import terms
from cvae.optimizer import Adam, Hyperparameters, schedule

Streams = dict[str, torch.Generator]
# Indices of n images (n,), [rate, β] (2,) → sums over the images, see AutogradGradient
Step = Callable[[Tensor, Tensor], Tensor]
StepFor = Callable[[int], Step]  # of n
# Batches of indices, rates and βs (S, 2) → sums of each step (S, 3 + 2Z), float64, CPU
RunSteps = Callable[[Sequence[Tensor], Tensor], Tensor]


class Job(NamedTuple):
    """All that the steps of a training are computed from."""

    model: CVAE
    optimizer: Adam
    data: mnist.Images
    wanted: Hyperparameters
    streams: Streams


Steps = Callable[[Job], RunSteps]  # a way to compute the steps of an epoch


class Gradient(Protocol):
    """Fills every `.grad` and returns sums over the images, which `sums` converts."""

    def __call__(
        self, x: Tensor, y: Tensor, noise: Tensor, beta: Tensor, target: Tensor
    ) -> Tensor:
        """Arguments as `objective.terms`."""


@dataclass(frozen=True)
class Epoch:
    """Results of one epoch: means over its images, nats per image."""

    epoch: int  # counted from 1
    step: int  # optimiser steps so far
    metrics: dict[str, float]
    seconds: float


class AutogradGradient:
    """A call returns the sums of recon, kl, loss, then of mu and mu², (3 + 2Z,)."""

    def __init__(self, model: CVAE, *, doubly: bool = False) -> None:
        self.terms = functools.partial(terms, model, doubly=doubly)
        grads = (part.grad for part in model.parameters())
        self.grads = [grad for grad in grads if grad is not None]

    def __call__(
        self, x: Tensor, y: Tensor, noise: Tensor, beta: Tensor, target: Tensor
    ) -> Tensor:
        """Arguments as `objective.terms`."""
        torch._foreach_zero_(self.grads)
        result = self.terms(x, y, noise, beta, target)
        result.loss.mean().backward()
        scalars = torch.stack([part.sum() for part in result[:3]])  # recon, kl, loss
        mu = result.mu  # (n, Z)
        return torch.cat([scalars, mu.sum(0), mu.square().sum(0)]).detach()


class Inputs:
    """Draws the pixels of one step, in the same order on every path of training.

    The encoder's view may be noisier than the target, which the decoder has to explain.
    """

    def __init__(self, wanted: Hyperparameters, streams: Streams) -> None:
        self.dynamic = wanted.binarize == "dynamic"
        self.noisy = wanted.input_noise == "bernoulli"
        self.corrupt, self.streams = wanted.corrupt, streams

    @property
    def plain(self) -> bool:
        """Whether both are the images themselves."""
        return not (self.dynamic or self.noisy or self.corrupt)

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Grey pixels (n, D) in [0, 1] → encoder input, target; one tensor if equal."""
        target = self._drawn(images) if self.dynamic else images
        x = self._drawn(images) if self.noisy else target
        if self.corrupt:
            x = mnist.salt_and_pepper(x, self.corrupt, self.streams["corrupt"])
        return x, target

    def _drawn(self, images: Tensor) -> Tensor:
        return torch.bernoulli(images, generator=self.streams["binarize"])


def one_by_one(
    step_for: StepFor, batches: Sequence[Tensor], controls: Tensor
) -> Tensor:
    pairs = zip(batches, controls, strict=True)
    return torch.stack([step_for(len(rows))(rows, control) for rows, control in pairs])


def autograd(
    job: Job,
    *,
    run: Callable[[StepFor, Sequence[Tensor], Tensor], Tensor] = one_by_one,
) -> RunSteps:
    """Steps by torch's operators, one by one, differentiated by autograd.

    This is the definition: all others are compared with it.
    """
    gradient = AutogradGradient(job.model, doubly=job.wanted.doubly)
    device = job.data.images.device

    @functools.cache
    def step_for(n: int) -> Step:
        return build_step(gradient, job, n)

    return lambda batches, controls: (
        run(step_for, batches, controls.to(device)).cpu().double()
    )


def build_step(gradient: Gradient, job: Job, n: int) -> Step:
    """The step of n images; its buffers are allocated once."""
    model, optimizer, data, wanted, streams = job
    inputs = Inputs(wanted, streams)
    device, pixels = data.images.device, data.images.shape[1]
    raw = torch.empty((n, pixels), dtype=torch.uint8, device=device)
    grey = torch.empty((n, pixels), device=device)
    samples, latent = wanted.importance_samples, model.latent_dim
    noise = torch.empty((samples, n, latent), device=device)  # (K, n, Z)

    def step(rows: Tensor, control: Tensor) -> Tensor:
        rate, beta = control.unbind()
        torch.index_select(data.images, 0, rows, out=raw)
        x, target = inputs(mnist.pixels(raw, out=grey))  # (n, D) each
        y = data.labels.index_select(0, rows)
        noise.normal_(generator=streams["noise"])
        row = gradient(x, y, noise, beta, target)
        optimizer.step(rate)
        return row

    return step


def train_epochs(
    model: CVAE,
    optimizer: Adam,
    data: mnist.Images,
    wanted: Hyperparameters,
    streams: Streams,
    *,
    start: int = 0,
    steps: Steps = autograd,
) -> Iterator[Epoch]:
    """Train from epoch `start` to the last one, yielding after each epoch.

    `data` lives on the model's device and stays there; every image is used once an
    epoch, the last batch may be smaller. Between two yields nothing waits for the GPU.

    Args:
        streams: generators "shuffle", "noise", "binarize", "corrupt", and "layers" for
            what torch's own layers draw, such as dropout.

    Raises:
        Diverged: naming the first step whose loss, gradient or weights are not finite.
    """
    count = math.ceil(len(data) / wanted.batch_size)  # steps an epoch
    original = data.images
    if wanted.augment:
        data = mnist.Images(original.clone(), data.labels)
    run_steps = steps(Job(model, optimizer, data, wanted, streams))
    layers_draw = True  # known after an epoch; the global generator is then left alone
    for epoch in range(start, wanted.epochs):
        began = time.perf_counter()
        device, layers = data.images.device, streams["layers"]
        order = torch.randperm(len(data), generator=streams["shuffle"], device=device)
        controls = schedule(wanted, count, epoch)
        if share := wanted.augment * (1 - epoch / wanted.epochs):
            random = streams["corrupt"]
            data.images.copy_(mnist.moved(original, model.shape, share, random))
        before = layers.get_state()
        model.train()
        with seeded(layers) if layers_draw else contextlib.nullcontext():
            history = run_steps(order.split(wanted.batch_size), controls)
        model.eval()
        layers_draw = not torch.equal(before, layers.get_state())
        _check_finite(model, history, first=epoch * count + 1)
        metrics = _means(history.sum(0) / len(data))
        rate, beta = controls[-1].tolist()
        metrics |= {"learning_rate": rate, "beta": beta}
        seconds = time.perf_counter() - began
        yield Epoch(epoch + 1, (epoch + 1) * count, metrics, seconds)


def _means(row: Tensor) -> dict[str, float]:
    # Sums of `AutogradGradient` divided by the number of images, as metrics.
    mean, square = row[3:].chunk(2)  # of mu, (Z,) each: Var mu = E mu² − (E mu)²
    return bound_figures(row[:3], square - mean.square())


def _check_finite(model: CVAE, history: Tensor, *, first: int) -> None:
    bad = (~torch.isfinite(history[:, :3])).any(1).nonzero()
    if len(bad):
        raise Diverged(f"the loss is not finite at step {first + int(bad[0])}")
    for name, weight in model.named_parameters():
        if not torch.isfinite(weight.sum()):  # a sum keeps any inf or NaN, in one pass
            last = first + len(history) - 1
            raise Diverged(f"{name} is not finite at step {last}")

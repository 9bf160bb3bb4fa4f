"""The training loop: one record an epoch, exact to the bit on the CPU.

Steps run compiled on the CPU, or by torch's operators: one by one there, as a replayed
CUDA graph on a GPU. No state hides here: all a run needs to go on is in the model, the
optimiser, the streams.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cvae import mnist
from cvae.errors import Diverged
from cvae.fast import cpu_kernel
from cvae.fast.cuda_graph import Replay, Step, StepFor
from cvae.fast.gradient import ByAutograd, ByHand
from cvae.inputs import Inputs, Streams
from cvae.likelihood import bound_figures
from cvae.model import CVAE
from cvae.optimizer import Adam, schedule
from cvae.spec.fields import Spec


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave: means over its images, nats per image."""

    epoch: int  # counted from 1
    step: int  # optimiser steps so far
    metrics: dict[str, float]
    seconds: float


def build_model(
    spec: Spec, shape: tuple[int, int], generator: torch.Generator | None = None
) -> CVAE:
    """The spec's model of images of that shape, on the CPU.

    Without a generator its weights are to be loaded.
    """
    return CVAE(**spec.model.model_dump(), shape=shape, generator=generator)


def train(
    model: CVAE,
    optimizer: Adam,
    data: mnist.Images,
    spec: Spec,
    streams: Streams,
    *,
    start: int = 0,
) -> Iterator[Epoch]:
    """Train from epoch `start` to the spec's last, yielding after each epoch.

    `data` lives on the model's device and stays there; every image is used once an
    epoch, the last batch may be smaller. Between two yields nothing waits for the GPU.

    Raises:
        Diverged: naming the first step whose loss, gradient or weights are not finite.
    """
    batch = spec.training.batch_size
    steps = math.ceil(len(data) / batch)
    run_epoch = _runner(model, optimizer, data, spec, streams)
    for epoch in range(start, spec.training.epochs):
        began = time.perf_counter()
        device = data.images.device
        order = torch.randperm(len(data), generator=streams["shuffle"], device=device)
        controls = schedule(spec, steps, epoch)
        history = run_epoch(order.split(batch), controls)
        _check_finite(model, history, first=epoch * steps + 1)
        metrics = _means(history.sum(0) / len(data))
        rate, beta = controls[-1].tolist()
        metrics |= {"learning_rate": rate, "beta": beta}
        seconds = time.perf_counter() - began
        yield Epoch(epoch + 1, (epoch + 1) * steps, metrics, seconds)


def _runner(
    model: CVAE, optimizer: Adam, data: mnist.Images, spec: Spec, streams: Streams
) -> Callable[[tuple[Tensor, ...], Tensor], Tensor]:
    """What runs the steps of an epoch: compiled, by torch's operators, or on a GPU.

    It takes batches of image numbers (n,) and rate and β (steps, 2), and returns the
    sums of each step as of `ByAutograd`, (steps, 3 + 2Z), in float64 on the CPU.
    """
    cpu = data.images.device.type == "cpu"
    objective = spec.objective
    doubly = objective.gradient == "doubly_reparameterised"
    samples = objective.importance_samples
    covered = ByHand.covers(model, samples=samples, doubly=doubly)
    library = (
        cpu_kernel.library() if cpu and covered and cpu_kernel.covers(model) else None
    )
    if library:
        return cpu_kernel.Fused(library, model, optimizer, data, spec, streams)
    way = ByHand if covered else ByAutograd

    @functools.cache
    def step_for(n: int) -> Step:
        gradient = ByHand(model, n) if covered else ByAutograd(model, n, doubly=doubly)
        return _build_step(gradient, model, optimizer, data, spec, streams, n)

    plain = cpu and covered  # autograd has no part
    run_steps = _eager if cpu else Replay(spec.training.batch_size, streams)

    def run_epoch(batches: tuple[Tensor, ...], controls: Tensor) -> Tensor:
        with torch.inference_mode(plain):  # less work around each call
            rows = run_steps(step_for, batches, controls.to(data.images.device))
        return way.sums(rows.cpu().double(), controls[:, 1])

    return run_epoch


def _build_step(
    gradient: ByHand | ByAutograd,
    model: CVAE,
    optimizer: Adam,
    data: mnist.Images,
    spec: Spec,
    streams: Streams,
    n: int,
) -> Step:
    """The step: indices of n images (n,) and [rate, β] (2,) → the gradient's row."""
    inputs = Inputs(spec, streams)
    device, pixels = data.images.device, data.images.shape[1]
    raw = torch.empty((n, pixels), dtype=torch.uint8, device=device)
    grey = torch.empty((n, pixels), device=device)
    samples, latent = spec.objective.importance_samples, model.latent_dim
    noise = torch.empty((samples, n, latent), device=device)

    def step(rows: Tensor, control: Tensor) -> Tensor:
        rate, beta = control.unbind()
        torch.index_select(data.images, 0, rows, out=raw)
        x, target = inputs(mnist.pixels(raw, out=grey))
        y = data.labels.index_select(0, rows)
        noise.normal_(generator=streams["noise"])
        row = gradient(x, y, noise, beta, target)
        optimizer.step(rate)
        return row

    return step


def _means(row: Tensor) -> dict[str, float]:
    """Sums of `ByAutograd` divided by the number of images, as metrics."""
    mean, square = row[3:].chunk(2)
    return bound_figures(row[:3], square - mean.square())


def _check_finite(model: CVAE, history: Tensor, *, first: int) -> None:
    bad = (~torch.isfinite(history[:, :3])).any(1).nonzero()
    if len(bad):
        raise Diverged(f"the loss is not finite at step {first + int(bad[0])}")
    for name, weight in model.named_parameters():
        if not torch.isfinite(weight.sum()):  # a sum keeps any inf or NaN, in one pass
            last = first + len(history) - 1
            raise Diverged(f"{name} is not finite at step {last}")


def _eager(step_for: StepFor, batches: tuple[Tensor, ...], controls: Tensor) -> Tensor:
    pairs = zip(batches, controls, strict=True)
    return torch.stack([step_for(len(rows))(rows, control) for rows, control in pairs])

"""The training loop: one record an epoch, exact to the bit on the CPU.

The same `step` runs eagerly on the CPU and as a replayed CUDA graph on the GPU. No
state hides here: all a run needs to go on is in the model, the optimiser, the streams.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cvae import mnist
from cvae.errors import Diverged
from cvae.gradient import ByAutograd, ByHand
from cvae.graph import Replay, Step, StepFor
from cvae.likelihood import bound_figures
from cvae.model import CVAE
from cvae.optimizer import Adam, schedule
from cvae.spec.fields import Spec

Streams = dict[str, torch.Generator]


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave: means over its images, nats per image."""

    epoch: int  # counted from 1
    step: int  # optimiser steps so far
    metrics: dict[str, float]
    seconds: float


def build_model(
    spec: Spec, *, pixels: int, generator: torch.Generator | None = None
) -> CVAE:
    """The spec's model on the CPU; without a generator its weights are to be loaded."""
    return CVAE(**spec.model.model_dump(), pixels=pixels, generator=generator)


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
    device, batch = data.images.device, spec.training.batch_size
    steps = math.ceil(len(data) / batch)
    covered = ByHand.covers(model, samples=spec.objective.importance_samples)
    way = ByHand if covered else ByAutograd

    @functools.cache
    def step_for(n: int) -> Step:
        return _build_step(way(model, n), model, optimizer, data, spec, streams, n)

    cpu = device.type == "cpu"
    plain = cpu and covered and model.prior_table is None  # autograd has no part
    run_epoch = _eager if cpu else Replay(batch, streams)
    for epoch in range(start, spec.training.epochs):
        began = time.perf_counter()
        order = torch.randperm(len(data), generator=streams["shuffle"], device=device)
        controls = schedule(spec, steps, epoch)
        with torch.inference_mode(plain):  # less work around each call
            rows = run_epoch(step_for, order.split(batch), controls.to(device))
        history = way.sums(rows.cpu().double(), controls[:, 1])
        _check_finite(model, history, first=epoch * steps + 1)
        metrics = _means(history.sum(0) / len(data))
        rate, beta = controls[-1].tolist()
        metrics |= {"learning_rate": rate, "beta": beta}
        seconds = time.perf_counter() - began
        yield Epoch(epoch + 1, (epoch + 1) * steps, metrics, seconds)


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
    corrupt, clip = spec.data.corrupt, spec.training.grad_clip
    dynamic, parameters = spec.data.binarize == "dynamic", list(model.parameters())
    device, pixels = data.images.device, data.images.shape[1]
    raw = torch.empty((n, pixels), dtype=torch.uint8, device=device)
    grey = torch.empty((n, pixels), device=device)
    samples, latent = spec.objective.importance_samples, model.latent_dim
    noise = torch.empty((samples, n, latent), device=device)

    def step(rows: Tensor, control: Tensor) -> Tensor:
        rate, beta = control.unbind()
        torch.index_select(data.images, 0, rows, out=raw)
        target = mnist.pixels(raw, out=grey)
        y = data.labels.index_select(0, rows)
        if dynamic:
            target = torch.bernoulli(target, generator=streams["binarize"])
        x = target
        if corrupt:
            x = mnist.salt_and_pepper(x, corrupt, streams["corrupt"])
        noise.normal_(generator=streams["noise"])
        row = gradient(x, y, noise, beta, target)
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters, clip)
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

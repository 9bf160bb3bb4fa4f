"""The training loop: one record an epoch, exact to the bit on the CPU.

The same `step` runs eagerly on the CPU and as a replayed CUDA graph on the GPU. No
state hides here: all a run needs to go on is in the model, the optimiser, the streams.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cvae import mnist
from cvae.errors import Diverged
from cvae.evaluate import ACTIVE_VARIANCE
from cvae.gradient import ByAutograd, ByHand
from cvae.model import CVAE
from cvae.objective import beta_at
from cvae.spec.fields import Spec

Streams = dict[str, torch.Generator]
WEIGHT_DECAY = {"adam": 0.0, "adamw": 0.01}  # torch's defaults
EAGER_STEPS = 3  # first steps on a GPU, before the graph is captured


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


class Adam:
    """torch's fused Adam over all parameters as one flat tensor: one pass a step.

    Parameters and gradients of the model become views into it. torch's class of this
    name ends in the same call, but costs 2 s of imports and 0.2 ms a step around it.
    """

    def __init__(self, model: CVAE, spec: Spec) -> None:
        parameters = list(model.parameters())
        self.flat = torch.cat([part.detach().flatten() for part in parameters])
        self.grad = torch.zeros_like(self.flat)
        sizes = [part.numel() for part in parameters]
        for part, value, slope in zip(
            parameters, self.flat.split(sizes), self.grad.split(sizes), strict=True
        ):
            part.data = value.view_as(part)
            part.grad = slope.view_as(part)
        self.state = {
            "mean": torch.zeros_like(self.flat),
            "square": torch.zeros_like(self.flat),
            "step": torch.zeros((), device=self.flat.device),
        }
        beta1, beta2 = spec.training.adam_betas
        decay = WEIGHT_DECAY[spec.training.optimizer]
        self.update = torch._fused_adamw_ if decay else torch._fused_adam_
        self.lists = [[self.flat], [self.grad], [self.state["mean"]]]
        self.lists += [[self.state["square"]], [], [self.state["step"]]]
        self.options: dict[str, Any] = {"beta1": beta1, "beta2": beta2, "eps": 1e-8}
        self.options |= {"weight_decay": decay, "amsgrad": False, "maximize": False}

    def step(self, rate: Tensor) -> None:
        """Update all weights from their gradients; `rate` (), read on the GPU there."""
        self.state["step"].add_(1)
        lr = rate if rate.is_cuda else float(rate)
        self.update(*self.lists, lr=lr, **self.options)


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
    run_epoch = _eager if cpu else _Replay(batch, streams)
    for epoch in range(start, spec.training.epochs):
        began = time.perf_counter()
        order = torch.randperm(len(data), generator=streams["shuffle"], device=device)
        controls = schedule(spec, steps, epoch)
        with torch.inference_mode(cpu and covered):  # less work around each call
            rows = run_epoch(step_for, order.split(batch), controls.to(device))
        history = way.sums(rows.cpu().double(), controls[:, 1])
        _check_finite(model, history, first=epoch * steps + 1)
        metrics = _means(history.sum(0) / len(data))
        rate, beta = controls[-1].tolist()
        metrics |= {"learning_rate": rate, "beta": beta}
        seconds = time.perf_counter() - began
        yield Epoch(epoch + 1, (epoch + 1) * steps, metrics, seconds)


def schedule(spec: Spec, steps: int, epoch: int | None = None) -> Tensor:
    """Learning rate and β of each step, (steps, 2) float32; without `epoch` of all."""
    training, objective = spec.training, spec.objective
    total, warmup = training.epochs * steps, objective.warmup_epochs * steps
    rate = SCHEDULES[training.schedule]
    places = range(total)
    if epoch is not None:  # a million epochs do not fit into memory
        places = places[epoch * steps : (epoch + 1) * steps]
    return torch.tensor(
        [
            (
                rate(step, total=total, peak=training.learning_rate),
                beta_at(step, beta=objective.beta, warmup_steps=warmup),
            )
            for step in places
        ]
    )


def constant(step: int, *, total: int, peak: float) -> float:
    return peak


def one_cycle(step: int, *, total: int, peak: float) -> float:
    """Cosine from peak/25 up to peak over 30 % of the steps, then down to peak/250,000.

    Smith & Topin 2018, with the constants of torch's OneCycleLR.
    """
    turn, last = 0.3 * total - 1, total - 1
    low, lowest = peak / 25, peak / 25e4
    if step < turn:
        start, end, progress = low, peak, step / turn
    else:
        start, end, progress = peak, lowest, (step - turn) / (last - turn)
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))


def linear(step: int, *, total: int, peak: float) -> float:
    """Straight from peak/10 up to peak over 15 % of the steps, then straight to 0."""
    turn = max(0.15 * total, 1)
    if step < turn:
        return peak * (0.1 + 0.9 * step / turn)
    return peak * (total - step) / (total - turn)


SCHEDULES = {"constant": constant, "one_cycle": one_cycle, "linear": linear}
Step = Callable[[Tensor, Tensor], Tensor]
StepFor = Callable[[int], Step]


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
    recon, kl, loss = row[:3].tolist()
    mean, square = row[3:].chunk(2)
    active = int((square - mean.square() > ACTIVE_VARIANCE).sum())
    return {
        "recon": recon,
        "kl": kl,
        "neg_elbo": recon + kl,
        "loss": loss,
        "active_units": active,
    }


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


class _Replay:
    """An epoch of replayed CUDA graphs: one launch a step instead of a hundred.

    The first steps run eagerly, as capture demands; then one step is recorded that
    reads its place from a counter on the device. A smaller last batch runs eagerly.
    """

    def __init__(self, batch: int, streams: Streams) -> None:
        self.batch, self.streams = batch, streams
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(
        self, step_for: StepFor, batches: tuple[Tensor, ...], controls: Tensor
    ) -> Tensor:
        whole = [rows for rows in batches if len(rows) == self.batch]
        rest = batches[len(whole) :]
        done: list[Tensor] = []
        if whole and self.graph is None:
            step = step_for(self.batch)
            with _side_stream():
                done = [
                    step(*pair)
                    for pair in zip(whole[:EAGER_STEPS], controls, strict=False)
                ]
            self._capture(step, whole[0], controls, done[0])
        if self.graph is not None:
            self.order[: len(whole)] = torch.stack(whole)
            self.controls.copy_(controls)
            self.at.fill_(len(done))
            for _ in range(len(whole) - len(done)):
                self.graph.replay()
            done += list(self.history[len(done) : len(whole)].clone())
        done += [step_for(len(rows))(rows, controls[-1]) for rows in rest]
        return torch.stack(done)

    def _capture(self, step: Step, rows: Tensor, controls: Tensor, row: Tensor) -> None:
        self.order = torch.zeros_like(rows).repeat(len(controls), 1)
        self.controls = torch.zeros_like(controls)
        self.history = torch.zeros_like(row).repeat(len(controls), 1)
        self.at = torch.zeros(1, dtype=torch.long, device=rows.device)
        self.graph = torch.cuda.CUDAGraph()
        for generator in self.streams.values():
            if generator.device.type == "cuda":
                self.graph.register_generator_state(generator)
        with torch.cuda.graph(self.graph):
            rows = self.order.index_select(0, self.at)[0]
            control = self.controls.index_select(0, self.at)[0]
            self.history.index_copy_(0, self.at, step(rows, control)[None])
            self.at += 1


@contextmanager
def _side_stream() -> Iterator[None]:
    """Capture demands that what it records has run before, on another stream."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        yield
    torch.cuda.current_stream().wait_stream(side)

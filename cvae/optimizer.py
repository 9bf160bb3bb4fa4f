"""Adam on one flat tensor, with an exponential moving average of the weights.

Beside it: the hyperparameters of training, and the schedules of learning rate and β.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cvae.model import CVAE


@dataclass(frozen=True)
class Hyperparameters:
    """How a model is trained; a spec's fields of the same names say what they mean."""

    epochs: int
    batch_size: int = 256
    importance_samples: int = 1  # K
    gradient: str = "standard"
    grid: int = 0
    beta: float = 1.0
    warmup_epochs: int = 0
    optimizer: str = "adam"
    weight_decay: float = 0.01
    adam_betas: tuple[float, float] = (0.9, 0.99)
    learning_rate: float = 4e-3
    schedule: str = "one_cycle"
    ema: float = 0.0
    binarize: str = "none"
    input_noise: str = "none"
    corrupt: float = 0.0
    augment: float = 0.0

    @property
    def doubly(self) -> bool:
        """Whether the gradient is doubly reparameterised."""
        return self.gradient == "doubly_reparameterised"


class Adam:
    """torch's fused Adam over all parameters as one flat tensor: one pass a step."""

    # Parameters and gradients of the model become views into it. torch's class of this
    # name ends in the same call, but costs 2 s of imports and 0.2 ms a step around it.
    #
    # With ema = d, a running mean of the weights w is kept. After t steps it is
    # Σ d^(t−i) w_i / Σ d^(t−i) over i = 1…t: the first weights have no part in it.

    def __init__(self, model: CVAE, wanted: Hyperparameters) -> None:
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
        self.ema = wanted.ema
        if self.ema:
            self.state["ema"] = self.flat.clone()
        beta1, beta2 = wanted.adam_betas
        decoupled = wanted.optimizer == "adamw"
        decay = wanted.weight_decay if decoupled else 0.0
        self.update = torch._fused_adamw_ if decoupled else torch._fused_adam_
        self.lists = [[self.flat], [self.grad], [self.state["mean"]]]
        self.lists += [[self.state["square"]], [], [self.state["step"]]]
        self.options: dict[str, Any] = {"beta1": beta1, "beta2": beta2, "eps": 1e-8}
        self.options |= {"weight_decay": decay, "amsgrad": False, "maximize": False}

    def step(self, rate: Tensor) -> None:
        """Update all weights from their gradients; `rate` (), read on the GPU there."""
        self.state["step"].add_(1)
        lr = rate if rate.is_cuda else float(rate)
        self.update(*self.lists, lr=lr, **self.options)
        if self.ema:
            part = (1 - self.ema) / (1 - self.ema ** self.state["step"])
            self.state["ema"].lerp_(self.flat, part)

    def averaged(self, model: CVAE) -> CVAE:
        """The model with the mean of its weights, which follows every step.

        Buffers, such as the statistics of batch normalisation, are shared.
        """
        if not self.ema:
            return model
        shared = {id(buffer): buffer for buffer in model.buffers()}
        mean = copy.deepcopy(model, shared).requires_grad_(False)
        parameters = list(mean.parameters())
        values = self.state["ema"].split([part.numel() for part in parameters])
        for part, value in zip(parameters, values, strict=True):
            part.data = value.view_as(part)
        return mean


def schedule(wanted: Hyperparameters, steps: int, epoch: int | None = None) -> Tensor:
    """Learning rate and β of each step, (steps, 2) float32; without `epoch` of all."""
    total, warmup = wanted.epochs * steps, wanted.warmup_epochs * steps
    rate, peak = SCHEDULES[wanted.schedule], wanted.learning_rate
    places = range(total)
    if epoch is not None:  # a million epochs do not fit into memory
        places = places[epoch * steps : (epoch + 1) * steps]
    return torch.tensor(
        [
            (
                rate(step, total=total, peak=peak),
                beta_at(step, beta=wanted.beta, warmup_steps=warmup),
            )
            for step in places
        ]
    )


def beta_at(step: int, *, beta: float, warmup_steps: int) -> float:
    """β at a step counted from 0: linear from 0 over `warmup_steps`, then constant."""
    return beta if step >= warmup_steps else beta * step / warmup_steps


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


def cosine(step: int, *, total: int, peak: float) -> float:
    """Straight up to peak over 5 % of the steps, then by cosine down to 0."""
    turn = total // 20
    if step < turn:
        return peak * (step + 1) / (turn + 1)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - turn) / (total - turn)))


SCHEDULES = {
    "constant": constant,
    "one_cycle": one_cycle,
    "linear": linear,
    "cosine": cosine,
}

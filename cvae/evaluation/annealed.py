"""Annealed importance sampling with Hamiltonian moves, forwards and backwards.

π_β(z) ∝ start(z)^(1−β) end(z)^β = start(z) exp(β·gain(z)), from a normalised density at
β = 0 to log p(x, z given y) at β = 1 (Neal 2001; for decoders Wu et al. 2017,
https://arxiv.org/abs/1611.04273). Forwards, the mean weight is p(x given y); backwards
from an exact draw of p(z given x, y) it is 1 / p(x given y) (Grosse et al. 2015): two
bounds in expectation. Letters: K chains, B images, Z latent, T temperatures.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from cvae.likelihood import LogDensity
from cvae.model import CVAE
from cvae.objective import bernoulli_nll
from cvae.priors import gaussian_log_density, sample

ACCEPTED = 0.7  # share of moves that the step size is adapted to
LEARNED = 0.3  # how fast: the change of log step for each unit of acceptance
FIRST_STEP = 0.5  # in units of `scale`
PILOTS = 2  # chains of the run that adapts the steps


@dataclass(frozen=True)
class Path:
    """From a density that is drawn from to one that is asked about."""

    start: LogDensity  # normalised, (K, B, Z) → (K, B)
    gain: LogDensity  # log of end over start
    draw: Callable[[Tensor], Tensor]  # standard normal noise (K, B, Z) → z of start
    precision: tuple[Tensor, Tensor]  # roughly 1/σ² (B, Z) of start and end


def from_prior(model: CVAE, x: Tensor, target: Tensor, y: Tensor) -> Path:
    """p(z|y) → p(z|target,y); x is what the encoder sees, used for lengths alone."""
    prior = model.prior
    with torch.no_grad():
        mu, logvar = model.encode(x, y)
    return Path(
        start=lambda z: prior.log_density(z, y),
        gain=lambda z: -bernoulli_nll(model.decode(z, y), target),
        draw=lambda noise: prior.sample(y, noise),
        precision=(torch.ones_like(mu), torch.exp(-logvar)),
    )


def from_encoder(model: CVAE, x: Tensor, target: Tensor, y: Tensor) -> Path:
    """q(z|x,y) → p(z|target,y)."""
    prior = model.prior
    with torch.no_grad():
        q = model.encode(x, y)

    def gain(z: Tensor) -> Tensor:
        log_joint = prior.log_density(z, y) - bernoulli_nll(model.decode(z, y), target)
        return log_joint - gaussian_log_density(z, q)

    precision = torch.exp(-q[1])
    return Path(
        start=lambda z: gaussian_log_density(z, q),
        gain=gain,
        draw=lambda noise: sample(q, noise),
        precision=(precision, precision),
    )


class Point(NamedTuple):
    """z (K, B, Z) with both log densities (K, B) and their gradients (K, B, Z)."""

    z: Tensor
    start: Tensor
    gain: Tensor
    to_start: Tensor
    to_gain: Tensor


class Stage(NamedTuple):
    """A temperature of a run: where the chains are, and their weights so far."""

    beta: float
    z: Tensor  # (K, B, Z)
    gain: Tensor  # (K, B)
    log_weight: Tensor  # (K, B), double
    accepted: Tensor  # (B,) share of the chains that moved


def temperatures(count: int, *, last: float = 1.0, steep: float = 4.0) -> list[float]:
    """`count` + 1 numbers from 0 to `last`, closest at both ends (Wu et al. 2017)."""
    curve = torch.linspace(-steep, steep, count + 1, dtype=torch.float64).sigmoid()
    curve = (curve - curve[0]) / (curve[-1] - curve[0])
    return (last * curve).tolist()


def anneal(
    path: Path,
    z: Tensor,
    betas: Sequence[float],
    steps: Tensor,
    generator: torch.Generator,
    *,
    leapfrogs: int,
    adapt: bool = False,
) -> Iterator[Stage]:
    """Chains from π at betas[0], where z (K, B, Z) is drawn, through all others.

    Args:
        betas: upwards for the forward run, downwards for the backward one.
        steps: (T, B), the step of each temperature and image; with `adapt` each is
            replaced by what the moves before it teach, for a later run to use: a run
            that adapts bounds nothing strictly.
    """
    point = evaluate(path, z)
    log_weight = torch.zeros_like(point.gain, dtype=torch.float64)
    for at, (before, beta) in enumerate(itertools.pairwise(betas)):
        log_weight = log_weight + (beta - before) * point.gain.double()
        point, accepted = hmc_move(
            path, point, beta, steps[at], generator, leapfrogs=leapfrogs
        )
        if adapt and at + 1 < len(steps):
            steps[at + 1] = steps[at] * torch.exp(LEARNED * (accepted - ACCEPTED))
        yield Stage(beta, point.z, point.gain, log_weight, accepted)


def adapted_chains(
    path: Path,
    shape: tuple[int, int],
    betas: Sequence[float],
    generator: torch.Generator,
    *,
    chains: int,
    leapfrogs: int,
) -> tuple[Tensor, Iterator[Stage]]:
    """The step of each temperature and image (T, B), and forward chains that use them.

    The steps are from a run of their own, of `PILOTS` chains; `shape` is (B, Z).
    """
    device = path.precision[0].device

    def start(count: int) -> Tensor:
        noise = torch.randn(count, *shape, generator=generator).to(device)
        return path.draw(noise)

    steps = torch.full((len(betas) - 1, shape[0]), FIRST_STEP, device=device)
    pilot = anneal(
        *(path, start(PILOTS), betas, steps, generator), leapfrogs=leapfrogs, adapt=True
    )
    for _ in pilot:
        pass
    z = start(chains)
    return steps, anneal(path, z, betas, steps, generator, leapfrogs=leapfrogs)


def log_mean(log_weight: Tensor) -> Tensor:
    """log of the mean weight of K chains, (K, B) → (B,)."""
    return torch.logsumexp(log_weight, 0) - math.log(len(log_weight))


def evaluate(path: Path, z: Tensor) -> Point:
    """Both log densities and their gradients at z."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        start, gain = path.start(z), path.gain(z)
        (to_start,) = torch.autograd.grad(start.sum(), z)
        (to_gain,) = torch.autograd.grad(gain.sum(), z)
    return Point(z.detach(), start.detach(), gain.detach(), to_start, to_gain)


def hmc_move(
    path: Path,
    point: Point,
    beta: float,
    step: Tensor,
    generator: torch.Generator,
    *,
    leapfrogs: int,
) -> tuple[Point, Tensor]:
    """One Hamiltonian move that leaves π_β as it is; the share of chains that moved.

    Leapfrog steps of length `step` (B,) in units of about one standard deviation of π_β
    in each latent, accepted by Metropolis' rule (Neal 2011).
    """
    first, last = path.precision
    length = step[:, None] / ((1 - beta) * first + beta * last).sqrt()  # (B, Z)
    shape, device = point.z.shape, point.z.device
    momentum = torch.randn(shape, generator=generator).to(device)
    log_u = torch.rand(shape[:-1], generator=generator).log().to(device)
    new, speed = point, momentum
    for _ in range(leapfrogs):
        speed = speed + 0.5 * length * (new.to_start + beta * new.to_gain)
        new = evaluate(path, new.z + length * speed)
        speed = speed + 0.5 * length * (new.to_start + beta * new.to_gain)
    log_ratio = new.start + beta * new.gain - point.start - beta * point.gain
    log_ratio = log_ratio + 0.5 * (momentum.square() - speed.square()).sum(-1)
    taken = log_u < log_ratio  # a NaN is not taken
    where = taken[..., None]
    kept = Point(
        torch.where(where, new.z, point.z),
        torch.where(taken, new.start, point.start),
        torch.where(taken, new.gain, point.gain),
        torch.where(where, new.to_start, point.to_start),
        torch.where(where, new.to_gain, point.to_gain),
    )
    return kept, taken.float().mean(0)

"""Exact maximum likelihood with one or two latents: log p(x given y) as a sum over z.

The prior's whitened latent u is N(0, I), so that on a square grid of distance h

    p(x|y) = ∫ p(x|z(u),y) N(u; 0, I) du ≈ h^Z Σ_g p(x|z(u_g),y) N(u_g; 0, I),

and log p(x|z_g,y) = x·l_g − Σ softplus(l_g) of all images and all points is one matrix
product: of one label at a time, as the logits l_g of a point are those of a label. The
trapezoidal rule errs by exp(−2π²σ²/h²) on a posterior of width σ; a grid that lies
still would let the decoder learn to fit between its points, so each step shifts it at
random. Letters: G points, n images, Z latent, D pixels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from cvae.model import CVAE
from cvae.objective import terms
from cvae.priors import gaussian_log_density
from cvae.training import Job, RunSteps, Step, build_step, one_by_one

RADIUS = 3.6  # beyond it lie 0.06 % of a prior with two latents


def log_likelihood(
    model: CVAE, x: Tensor, label: Tensor, *, points: int, shift: Tensor
) -> Tensor:
    """log p(x|y) of images x (n, D) of one label () by a grid, in nats, (n,).

    Args:
        points: on each side of the grid, from −RADIUS to RADIUS.
        shift: of the whole grid (Z,), in distances between two points.
    """
    latent, step = model.latent_dim, 2 * RADIUS / points
    line = step * (torch.arange(points, device=x.device) + 0.5) - RADIUS
    u = torch.cartesian_prod(*[line] * latent).view(-1, latent) + step * shift  # (G, Z)
    y = label.expand(len(u))
    logits = model.decode(model.prior.unwhiten(u, y), y)  # (G, D)
    log_weight = gaussian_log_density(u) + latent * math.log(step)  # (G,)
    joint = torch.addmm(log_weight - F.softplus(logits).sum(-1), x, logits.mT)
    return torch.logsumexp(joint, 1)  # of (n, G)


class GridGradient:
    """The likelihood's gradient for decoder and prior, the bound's for the encoder.

    The encoder follows a decoder whose gradient it has no part in; as the learning rate
    falls to 0, the decoder comes to rest. The recorded loss is −log p(x|y).
    """

    def __init__(self, model: CVAE, *, points: int, doubly: bool = False) -> None:
        self.model, self.points = model, points
        self.terms = functools.partial(terms, model, doubly=doubly)
        self.encoder = list(model.encoder.parameters())
        grads = (part.grad for part in model.parameters())
        self.grads = [grad for grad in grads if grad is not None]

    def __call__(
        self, x: Tensor, y: Tensor, noise: Tensor, beta: Tensor, target: Tensor
    ) -> Tensor:
        """Arguments as `objective.terms`, sums as of `training.AutogradGradient`."""
        bound = self.terms(x, y, noise, beta, target)
        slopes = torch.autograd.grad(bound.loss.mean(), self.encoder)
        torch._foreach_zero_(self.grads)
        shift = noise[0, 0].remainder(1)  # (Z,): of normal noise, uniform to 3e-9
        labels = y if self.model.classes else torch.zeros_like(y)
        nll = torch.zeros((), device=x.device)
        for label in labels.unique():
            seen = target[labels == label]
            log_p = log_likelihood(
                self.model, seen, label, points=self.points, shift=shift
            )
            nll = nll - log_p.sum()
        (nll / len(x)).backward()
        for part, slope in zip(self.encoder, slopes, strict=True):
            assert part.grad is not None
            part.grad.copy_(slope)
        sums = torch.stack([bound.recon.sum(), bound.kl.sum(), nll])
        return torch.cat([sums, bound.mu.sum(0), bound.mu.square().sum(0)]).detach()


def by_grid(job: Job) -> RunSteps:
    """Steps of exact maximum likelihood with `wanted.grid` points a side.

    An epoch's batches are cut anew so that each but a few has one label: the decoder is
    run on the grid once for each label in a batch.
    """
    model, _, data, wanted, streams = job
    gradient = GridGradient(model, points=wanted.grid, doubly=wanted.doubly)

    @functools.cache
    def step_for(n: int) -> Step:
        return build_step(gradient, job, n)

    def run(batches: Sequence[Tensor], controls: Tensor) -> Tensor:
        order, sizes = torch.cat(tuple(batches)), [len(batch) for batch in batches]
        by_label = order[data.labels[order].argsort(stable=True)].split(sizes)
        device = order.device
        turns = torch.randperm(len(sizes), generator=streams["shuffle"], device=device)
        cut = [by_label[turn] for turn in turns.tolist()]
        return one_by_one(step_for, cut, controls.to(device)).cpu().double()

    return run

"""log p(x given y) as an integral over a grid of one or two latents.

No sampling, no encoder: it is what the estimators are held against where it can be
computed. The grid lies in u, z whitened by the prior, and is the same for all images of
a label: each of its points is decoded once.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from cvae import mnist
from cvae.evaluation.estimator import Track
from cvae.model import CVAE

# Radius of the grid and distance of its points by Z, in standard deviations of the
# prior. The trapezoidal rule errs by exp(−2π² σ²/h²) on a Gaussian of width σ.
GRIDS = {1: (9.0, 0.002), 2: (7.0, 0.03)}
POINTS = 2048  # decoded at once


class Integral(NamedTuple):
    """log p(x|y) (N,), and how far it is from that with half of the points (N,)."""

    log_p: Tensor
    doubt: Tensor


@torch.no_grad()
def integrate(
    model: CVAE, images: mnist.Images, track: Track | None = None, *, coarse: int = 1
) -> Integral:
    """log ∫ p(x|z,y) p(z|y) dz of every image, in nats; Z is 1 or 2.

    `coarse` multiplies the distance of the points.
    """
    device = next(model.parameters()).device
    x, labels = mnist.pixels(images.images).to(device), images.labels.to(device)
    if not model.classes:
        labels = torch.zeros_like(labels)  # one grid for all
    u, even = grid(model.latent_dim, coarse)
    log_cell = model.latent_dim * math.log(coarse * GRIDS[model.latent_dim][1])
    log_p = torch.full((2, len(x)), -torch.inf, dtype=torch.float64, device=device)
    parts = [
        (label, part)
        for label in labels.unique().tolist()
        for part in torch.arange(len(u)).split(POINTS)
    ]
    for label, part in track(parts) if track else parts:
        here = labels == label
        logits, constant = _decoded(model, u[part].to(device), label)
        joint = (x[here] @ logits.T + constant + log_cell).double()  # (n, P)
        half = joint[:, even[part].to(device)] + math.log(2)
        for at, some in enumerate((joint, half)):
            log_p[at, here] = log_p[at, here].logaddexp(torch.logsumexp(some, 1))
    return Integral(log_p[0].cpu(), (log_p[0] - log_p[1]).abs().cpu())


@torch.no_grad()
def label_integrals(model: CVAE, images: mnist.Images) -> Tensor:
    """log p(x|y) (N, C): first of the image's own label, then of the others in order.

    The others, which weigh little in p(x), have points twice as far apart.
    """
    y, others = images.labels, range(1, max(1, model.classes))
    columns = [integrate(model, images).log_p]
    if others:
        labels = torch.cat([(y + step) % model.classes for step in others])
        every = mnist.Images(images.images.repeat(len(others), 1), labels)
        columns += integrate(model, every, coarse=2).log_p.split(len(y))
    return torch.stack(columns, 1)


def grid(latent: int, coarse: int = 1) -> tuple[Tensor, Tensor]:
    """Points u (G, Z) within a radius, and which of them are every second one (G,)."""
    radius, step = GRIDS[latent]
    step *= coarse
    line = torch.arange(-round(radius / step), round(radius / step) + 1)
    index = torch.cartesian_prod(*[line] * latent).reshape(-1, latent)
    index = index[(step * index).square().sum(1) <= radius**2]
    return step * index, index.sum(1) % 2 == 0


def _decoded(model: CVAE, u: Tensor, label: int) -> tuple[Tensor, Tensor]:
    """Logits (P, D) at points u (P, Z), log p(z|y) dz/du − Σ softplus(logits) (P,)."""
    y = torch.full((len(u),), label, device=u.device)
    with torch.enable_grad():
        z = model.prior.unwhiten(u.requires_grad_(), y)
        slopes = [torch.autograd.grad(s, u, retain_graph=True)[0] for s in z.sum(0)]
    z = z.detach()
    log_size = torch.linalg.slogdet(torch.stack(slopes, 1)).logabsdet  # of du in z
    logits = model.decode(z, y)
    return logits, (
        model.prior.log_density(z, y) + log_size - F.softplus(logits).sum(-1)
    )

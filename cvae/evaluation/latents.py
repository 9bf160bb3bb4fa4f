"""What z carries: the kl taken apart, and how well z names the digit.

With the aggregate posterior q(z) = 1/N Σ q(z given x, y) over N images, and q(z given
y) over those of one label (Hoffman & Johnson 2016, "ELBO surgery"),

    kl = I(x; z given y) + KL(q(z given y) ‖ p(z given y))
    I(x; z) = I(x; z given y) + I(y; z)
    KL(q(z given y) ‖ p(z)) = I(y; z) + KL(q(z) ‖ p(z))   if p(z) knows no label
    KL(q(z) ‖ p(z)) = TC(q(z)) + Σ_j KL(q(z_j) ‖ p(z_j))   if p(z) = Π_j p(z_j)

with the total correlation TC(q(z)) = KL(q(z) ‖ Π_j q(z_j)) (Chen et al. 2018).

Each term is a mean over one z an image, drawn from its posterior; the mixtures are
summed exactly. Letters: N images, B some of them, Z latent, C classes.
"""

from __future__ import annotations

import logging
import math
from typing import NamedTuple

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from cvae import control, likelihood, mnist
from cvae.control import NEIGHBOURS
from cvae.evaluation.estimator import Measured, Request, mean_and_error
from cvae.model import CVAE
from cvae.priors import (
    Gaussian,
    Standard,
    gaussian_kl_per_dim,
    gaussian_log_density,
    sample,
)

log = logging.getLogger("cvae")
CHUNK = 500  # images a pass: 40 MB of densities for 10,000 others


class Encoded(NamedTuple):
    """Where N images lie in z: on the CPU, in double precision."""

    mu: Tensor  # of q(z given x, y), (N, Z)
    logvar: Tensor
    z: Tensor  # a draw from it, (N, Z)
    kl: Tensor  # (N,), exact or of that draw
    log_p: Tensor  # log p(z given y) of the draw, (N,)
    log_any: Tensor  # its log p(z), each label by its share, (N,)
    u: Tensor  # the draw in units of the prior, (N, Z)
    u_mu: Tensor  # the mean in units of the prior, (N, Z)
    kl_per_dim: Tensor  # of each coordinate of u against N(0, 1), (N, Z)


def latents(model: CVAE, images: mnist.Images, request: Request) -> Measured:
    """All figures of the latent space over `images`, in nats unless said otherwise.

    Returns:
        kl; active_units (units).
        information: I(x; z) for these N images, at most ln N.
        information_upper: a bound from above on that of all such images, the lower of
            E ln q(z given x, y) / q₋(z), with q₋ the mixture without the image's own
            posterior (Poole et al. 2019), and the same with p(z).
        information_in_digit: I(x; z given y). label_information: I(y; z), ≤ ln C.
        aggregate_kl: KL(q(z given y) ‖ p(z given y)).
        marginal_kl: KL(q(z) ‖ p(z)), where p(z) knows no label.
        total_correlation: KL(q(z) ‖ Π_j q(z_j)).
        dimension_kl: Σ_j KL(q(z_j) ‖ N(0, 1)), where that is the prior.
        label_in_z_neighbours, label_in_z_linear: how often z, without its label's
            prior, names the digit; label_in_z_chance: the share of the commonest.
        For drawing: `kl_per_dim`, `variance` of the means (Z,), `u`, `prior_u` (N, Z).
    """
    generator, y = request.stream("evaluate"), images.labels.cpu()
    encoded = encode(model, images, generator, corrupt=request.corrupt)
    variance = encoded.mu.var(0, correction=0)
    active = int((variance > likelihood.ACTIVE_VARIANCE).sum())
    noise = torch.randn(encoded.z.shape, generator=generator)
    drawn = {
        "kl_per_dim": encoded.kl_per_dim.mean(0),
        "variance": variance,
        "u": encoded.u,
        "prior_u": _prior_u(model, images.labels, noise),
    }
    return (
        mean_and_error(kl_terms(model, encoded, y), drawn)
        | Measured({"active_units": active})
        | label_probes(encoded.u_mu, y)
    )


def kl_terms(model: CVAE, encoded: Encoded, y: Tensor) -> dict[str, Tensor]:
    """The kl and the terms it is taken apart into, by name; each (N,), nats."""
    q = encoded.mu, encoded.logvar
    log_q = gaussian_log_density(encoded.z, q)
    log_all, log_others, log_label = aggregate(encoded.z, q, y)
    bounds = log_q - log_others, log_q - encoded.log_any
    terms = {
        "kl": encoded.kl,
        "information": log_q - log_all,
        "information_upper": min(bounds, key=lambda bound: float(bound.mean())),
        "information_in_digit": log_q - log_label,
        "label_information": log_label - log_all,
        "aggregate_kl": log_label - encoded.log_p,
    }
    if not model.classes or isinstance(model.prior, Standard):
        terms["marginal_kl"] = log_all - encoded.log_p
    log_marginals = marginals(encoded.z, q)
    terms["total_correlation"] = log_all - log_marginals
    if isinstance(model.prior, Standard):
        terms["dimension_kl"] = log_marginals - encoded.log_p
    return terms


@torch.no_grad()
def encode(
    model: CVAE,
    images: mnist.Images,
    generator: torch.Generator,
    *,
    corrupt: float = 0.0,
) -> Encoded:
    """The posterior of every image, and one draw from each."""
    prior, parts = model.prior, []
    shares = images.labels.bincount(minlength=model.classes) / len(images)
    for x, _, y in likelihood.chunks(model, images, generator, corrupt=corrupt):
        q = model.encode(x, y)
        noise = torch.randn(len(x), model.latent_dim, generator=generator)
        z = sample(q, noise.to(x.device))
        log_p, kl = prior.log_density(z, y), prior.kl(q, y)
        if kl is None:
            kl = gaussian_log_density(z, q) - log_p
        of_labels = [
            prior.log_density(z, torch.full_like(y, label)) + share.log().to(z)
            for label, share in enumerate(shares)
        ]
        log_any = torch.logsumexp(torch.stack(of_labels), 0)
        whitened = prior.whitened(q, y)
        per_dim = gaussian_kl_per_dim(whitened)
        u = prior.whiten(z, y)
        parts.append((*q, z, kl, log_p, log_any, u, whitened[0], per_dim))
    return Encoded(*(torch.cat(p).double().cpu() for p in zip(*parts, strict=True)))


def aggregate(z: Tensor, q: Gaussian, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log densities (N,) of z (N, Z) under mixtures of the N posteriors q, labels y.

    Of all of them; of all but the image's own; of those of its label.
    """
    mu, precision = q[0], torch.exp(-q[1])
    constant = -0.5 * (mu.square() * precision + q[1] + math.log(2 * math.pi)).sum(1)
    weighted, columns = (mu * precision).T, []
    for rows in torch.arange(len(z)).split(CHUNK):
        here = z[rows]
        # log q(z of the row given x of the column): (z − mu)²/σ² multiplied out
        logs = here @ weighted - 0.5 * here.square() @ precision.T + constant  # (B, N)
        every = torch.logsumexp(logs, 1)
        alike = torch.where(y[rows, None] == y, logs, -torch.inf)
        of_label = torch.logsumexp(alike, 1)
        logs[torch.arange(len(rows)), rows] = -torch.inf
        columns.append(torch.stack([every, torch.logsumexp(logs, 1), of_label]))
    every, others, of_label = torch.cat(columns, 1)
    count = y.bincount()[y].double()
    return (
        every - math.log(len(z)),
        others - math.log(max(1, len(z) - 1)),
        of_label - count.log(),
    )


def marginals(z: Tensor, q: Gaussian) -> Tensor:
    """Σ_j log q(z_j) (N,) of z (N, Z), q(z_j) the mixture of the N posteriors."""
    rows = []
    for here in z.split(CHUNK):
        logs = torch.zeros(len(here), dtype=z.dtype)
        for z_j, mu, logvar in zip(here.T, q[0].T, q[1].T, strict=True):
            gaussian = mu[:, None], logvar[:, None]  # of one dimension, (N, 1)
            each = gaussian_log_density(z_j[:, None, None], gaussian)  # (B, N)
            logs += torch.logsumexp(each, 1) - math.log(len(z))
        rows.append(logs)
    return torch.cat(rows)


def label_probes(u: Tensor, y: Tensor) -> Measured:
    """How often the second half's digits are named by what the first half's u show.

    u (N, Z): posterior means in units of the prior.
    """
    half, tested = len(u) // 2, y[len(u) // 2 :]
    if half <= NEIGHBOURS or len(y[:half].unique()) < 2:
        log.warning("too few images: whether z names the digit is left out")
        return Measured({})
    scale = StandardScaler().fit(u[:half].numpy())
    known, asked = (scale.transform(part.numpy()) for part in (u[:half], u[half:]))
    probe = LogisticRegression(max_iter=1000).fit(known, y[:half].numpy())
    figures = {
        "label_in_z_neighbours": control.label_in_z(u, y),
        "label_in_z_linear": float(probe.score(asked, tested.numpy())),
        "label_in_z_chance": int(tested.bincount().max()) / len(tested),
    }
    errors = {
        name: math.sqrt(share * (1 - share) / len(tested))
        for name, share in figures.items()
    }
    return Measured(figures, errors)


@torch.no_grad()
def _prior_u(model: CVAE, y: Tensor, noise: Tensor) -> Tensor:
    """Draws from p(z given y) in its own units, (N, Z) on the CPU."""
    device = next(model.parameters()).device
    z = model.prior.sample(y.to(device), noise.to(device))
    return model.prior.whiten(z, y.to(device)).cpu()

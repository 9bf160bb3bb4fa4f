"""Exact, repeatable evaluation: every image once, noise from one fixed stream.

All figures are nats per image. The noise is drawn on the CPU whatever the model's
device, so that both devices evaluate with the same draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from cvae import mnist
from cvae.model import CVAE
from cvae.objective import bernoulli_nll, terms
from cvae.priors import gaussian_log_density, sample

ACTIVE_VARIANCE = 0.01  # Burda et al. 2016: a unit is active if Var_x(mu) exceeds it
CHUNK = 1000  # images a pass
DECODED = 20_000  # images decoded at once: 63 MB of logits


@torch.no_grad()
def bound(
    model: CVAE,
    data: mnist.Images,
    generator: torch.Generator,
    *,
    beta: float = 1.0,
    samples: int = 1,
    corrupt: float = 0.0,
) -> dict[str, float]:
    """recon, kl, neg_elbo, loss and active units over all of `data`.

    `samples` is the K of the loss; recon averages over the K draws. kl is
    exact, or estimated from the same draws where the prior has no closed form.
    """
    sums = torch.zeros(3, dtype=torch.float64)
    means = []
    for x, target, y in chunks(model, data, generator, corrupt=corrupt):
        noise = torch.randn(samples, len(x), model.latent_dim, generator=generator)
        found = terms(model, x, y, noise.to(x.device), beta, target)
        sums += torch.stack([part.double().sum().cpu() for part in found[:3]])
        means.append(found.mu)
    variance = torch.cat(means).var(0, correction=0)
    return bound_figures(sums / len(data), variance)


def bound_figures(means: Tensor, variance: Tensor) -> dict[str, float]:
    """Means of recon, kl, loss (3,) and Var_x(mu) of each latent (Z,) as metrics."""
    recon, kl, loss = means.tolist()
    return {
        "recon": recon,
        "kl": kl,
        "neg_elbo": recon + kl,
        "loss": loss,
        "active_units": int((variance > ACTIVE_VARIANCE).sum()),
    }


def importance_nll(
    model: CVAE,
    data: mnist.Images,
    generator: torch.Generator,
    *,
    samples: int,
    corrupt: float = 0.0,
) -> float:
    """Mean of −log p(x|y) by importance sampling with q as proposal, nats per image.

    −log 1/K Σ p(x|z,y) p(z|y) / q(z|x,y), an upper bound in expectation that tightens
    with K (Burda et al. 2016, eq. 8).
    """
    total = 0.0
    for x, target, y in chunks(model, data, generator, corrupt=corrupt):
        logs = log_likelihood(model, x, target, y, generator, samples=samples)
        total -= float(logs.double().sum())
    return total / len(data)


def label_posterior(
    model: CVAE,
    data: mnist.Images,
    generator: torch.Generator,
    *,
    samples: int,
    corrupt: float = 0.0,
) -> tuple[Tensor, float]:
    """log p(y|x) for every label by Bayes' rule, and −log p(x) in nats per image.

    p(y|x) ∝ p(x|y) with a uniform p(y), each p(x|y) by importance sampling.

    Returns:
        (N, C) log probabilities on the CPU, and the mean of −log 1/C Σ_y p(x|y).
    """
    logs = label_likelihoods(model, data, generator, samples=samples, corrupt=corrupt)
    return logs.log_softmax(1), -float(log_evidence(logs).mean())


def label_likelihoods(
    model: CVAE,
    data: mnist.Images,
    generator: torch.Generator,
    *,
    samples: int,
    corrupt: float = 0.0,
) -> Tensor:
    """log p(x|y) (N, C) of every image and every label, nats, on the CPU."""
    rows = []
    for x, target, y in chunks(model, data, generator, corrupt=corrupt):
        logs = [
            log_likelihood(
                model, x, target, torch.full_like(y, label), generator, samples=samples
            )
            for label in range(model.classes)
        ]
        rows.append(torch.stack(logs, dim=1).double().cpu())
    return torch.cat(rows)


def log_evidence(logs: Tensor) -> Tensor:
    """log p(x) (N,) of log p(x|y) (N, C), with a uniform p(y)."""
    return torch.logsumexp(logs, 1) - math.log(logs.shape[1])


@torch.no_grad()
def log_likelihood(
    model: CVAE,
    x: Tensor,
    target: Tensor,
    y: Tensor,
    generator: torch.Generator,
    *,
    samples: int,
) -> Tensor:
    """Importance-sampled log p(target|y) (B,) with proposal q(z|x,y)."""
    posterior = model.encode(x, y)
    total = torch.full((len(x),), -torch.inf, device=x.device)
    at_once = max(1, DECODED // len(x))
    for start in range(0, samples, at_once):
        count = min(at_once, samples - start)
        noise = torch.randn(count, len(x), model.latent_dim, generator=generator)
        z = sample(posterior, noise.to(x.device))
        log_joint = model.prior.log_density(z, y) - bernoulli_nll(
            model.decode(z, y), target
        )
        log_ratio = log_joint - gaussian_log_density(z, posterior)
        total = torch.logaddexp(total, torch.logsumexp(log_ratio, 0))
    return total - torch.log(torch.tensor(float(samples), device=x.device))


@torch.no_grad()
def posterior_draws(
    model: CVAE, data: mnist.Images, generator: torch.Generator, *, corrupt: float = 0.0
) -> Tensor:
    """One z (N, Z) from q(z|x,y) of every image, on the CPU."""
    draws = []
    for x, _, y in chunks(model, data, generator, corrupt=corrupt):
        noise = torch.randn(len(x), model.latent_dim, generator=generator)
        draws.append(sample(model.encode(x, y), noise.to(x.device)).cpu())
    return torch.cat(draws)


def chunks(
    model: CVAE, data: mnist.Images, generator: torch.Generator, *, corrupt: float = 0.0
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(x, target, y) of every image in order; x is `target` seen through the noise."""
    device = next(model.parameters()).device
    for images, y in zip(
        data.images.split(CHUNK), data.labels.split(CHUNK), strict=True
    ):
        target = mnist.pixels(images)
        x = target
        if corrupt:
            x = mnist.salt_and_pepper(target.cpu(), corrupt, generator)
        yield x.to(device), target.to(device), y.to(device)

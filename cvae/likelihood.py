"""Exact, repeatable evaluation: every image once, noise from one fixed stream.

All figures are nats per image. The noise is drawn on the CPU whatever the model's
device, so that both devices evaluate with the same draws.
"""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cvae import mnist, proof
from cvae.model import CVAE
from cvae.objective import bernoulli_nll, log_mean_exp, terms
from cvae.priors import Gaussian, gaussian_log_density, sample

ACTIVE_VARIANCE = 0.01  # Burda et al. 2016: a unit is active if Var_x(mu) exceeds it
CHUNK = 1000  # images a pass
DRAWS = 250_000  # of z in a pass: K times its images; their log weights are kept
DECODED = 2_000  # images decoded at once: 6 MB of logits, which stay in the cache
GROUP = 25  # such pieces a GPU decodes at once, in 0.5 GB
FACTORS = 64  # numbers of 1 to 2 that are multiplied before a logarithm is taken
log = logging.getLogger("cvae")
_proven: weakref.WeakKeyDictionary[CVAE, tuple[object, bool]] = (
    weakref.WeakKeyDictionary()
)
LogDensity = Callable[[Tensor], Tensor]  # of z (K, B, Z), in nats (K, B)


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
        batch = terms(model, x, y, noise.to(x.device), beta, target)
        sums += torch.stack([part.double().sum().cpu() for part in batch[:3]])
        means.append(batch.mu)
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
    parts = log_weights(model, data, generator, samples=samples, corrupt=corrupt)
    total = sum(float(log_mean_exp(weights).double().sum()) for weights in parts)
    return -total / len(data)


def log_weights(
    model: CVAE,
    data: mnist.Images,
    generator: torch.Generator,
    *,
    samples: int,
    corrupt: float = 0.0,
) -> Iterator[Tensor]:
    """log p(x,z|y) − log q(z|x,y) of K draws from q, (K, B) for each pass.

    A pass has fewer images B where K is large: memory is bounded.
    """
    for x, target, y in chunks(
        model, data, generator, corrupt=corrupt, size=at_once(samples)
    ):
        yield _log_weights(model, x, target, y, generator, samples=samples)


def at_once(samples: int) -> int:
    """Images a pass with so many draws for each."""
    return max(1, min(CHUNK, DRAWS // samples))


def passes(data: mnist.Images, samples: int) -> list[mnist.Images]:
    """The images of each pass: with one generator, each by itself is as all in one."""
    return data.split(at_once(samples))


def label_likelihoods(
    model: CVAE,
    data: mnist.Images,
    generator: torch.Generator,
    *,
    samples: int,
    corrupt: float = 0.0,
) -> Tensor:
    """log p(x|y) (N, C) of every image and every label, nats, on the CPU.

    With a uniform p(y), p(y|x) ∝ p(x|y); each p(x|y) is importance-sampled.
    """
    rows = []
    for x, target, y in chunks(
        model, data, generator, corrupt=corrupt, size=at_once(samples)
    ):
        labels = (torch.full_like(y, label) for label in range(model.classes))
        logs = of_labels(model, x, target, labels, generator, samples=samples)
        rows.append(logs.cpu())
    return torch.cat(rows)


def of_labels(
    model: CVAE,
    x: Tensor,
    target: Tensor,
    labels: Iterable[Tensor],
    generator: torch.Generator,
    *,
    samples: int,
) -> Tensor:
    """log p̂(target|y) (B, L), double, of each of L labels y (B,)."""
    logs = [
        log_likelihood(model, x, target, y, generator, samples=samples) for y in labels
    ]
    return torch.stack(logs, 1).double()


def log_evidence(logs: Tensor) -> Tensor:
    """log p(x) (N,) of log p(x|y) (N, C), with a uniform p(y)."""
    return torch.logsumexp(logs, 1) - math.log(logs.shape[1])


def log_likelihood(
    model: CVAE,
    x: Tensor,
    target: Tensor,
    y: Tensor,
    generator: torch.Generator,
    *,
    samples: int,
    proposal: Gaussian | None = None,
) -> Tensor:
    """Importance-sampled log p(target|y) (B,); the proposal is q(z|x,y) by default."""
    log_weights = _log_weights(
        model, x, target, y, generator, samples=samples, proposal=proposal
    )
    return log_mean_exp(log_weights)


@torch.no_grad()
def _log_weights(
    model: CVAE,
    x: Tensor,
    target: Tensor,
    y: Tensor,
    generator: torch.Generator,
    *,
    samples: int,
    proposal: Gaussian | None = None,
) -> Tensor:
    # log p(target,z|y) − log q(z) of K draws from the proposal q, (K, B).
    q, log_likelihood = proposal or model.encode(x, y), given_z(model, target, y)
    # K draws of all images at once do not fit: pieces of k draws, k·B decoded images
    shape = len(x), model.latent_dim
    parts, step = [], max(1, DECODED // len(x))
    together = step * (GROUP if x.is_cuda else 1)
    for start in range(0, samples, together):
        noise = torch.cat(
            [  # in the same pieces on both devices: they are the same draws
                torch.randn(min(step, samples - at), *shape, generator=generator)
                for at in range(start, min(start + together, samples), step)
            ]
        )
        z = sample(q, noise.to(x.device))  # (k, B, Z)
        # log p(z|y) − log q(z): the encoder is the proposal, not the prior
        log_ratio = model.prior.log_density(z, y) - gaussian_log_density(z, q)
        parts.append(log_likelihood(z) + log_ratio)  # log p(x,z|y) − log q, (k, B)
    return torch.cat(parts)


def given_z(model: CVAE, target: Tensor, y: Tensor) -> LogDensity:
    """log p(target|z,y) as a function of z: (K, B, Z) → (K, B), for large K."""
    # What does not depend on z is computed once and not K times: what label and bias
    # add in the first layer, and W (x − ½) of the last one, for
    #
    #     Σ x·l − softplus(l) = Σ (x − ½)·l − |l|/2 − log(1 + exp(−|l|)),   l = h W + b.
    #
    # Only where it is, in this run, what `decode` gives; elsewhere `decode` is called.
    if _is_its_layers(model):
        return _by_layers(model, target, y)
    return _by_decode(model, target, y)


def _is_its_layers(model: CVAE) -> bool:
    # Whether `_by_layers` gives what this model's `decode` gives; compared once.
    layers = model.decoder
    if not isinstance(layers, nn.Sequential) or len(layers) < 2:
        return False
    if not (isinstance(layers[0], nn.Linear) and isinstance(layers[-1], nn.Linear)):
        return False
    decode = getattr(model.decode, "__func__", model.decode)
    if model not in _proven or _proven[model][0] is not decode:
        agrees = proof.agrees(
            model,
            lambda twin, probe: [
                _by_layers(twin, probe.target, probe.y)(probe.z[None])
            ],
            lambda twin, probe: [
                _by_decode(twin, probe.target, probe.y)(probe.z[None])
            ],
        )
        if not agrees:
            log.warning("likelihoods call decode, which does more than the layers do")
        _proven[model] = decode, agrees
    return _proven[model][1]


def _by_decode(model: CVAE, target: Tensor, y: Tensor) -> LogDensity:
    return lambda z: -bernoulli_nll(model.decode(z, y), target)


def _by_layers(model: CVAE, target: Tensor, y: Tensor) -> LogDensity:
    layers: Any = model.decoder
    first, last = layers[0], layers[-1]
    no_z = target.new_zeros(len(y), model.latent_dim)
    of_z = first.weight[:, : model.latent_dim]
    constant = first(model.with_label(no_z, y))  # of label and bias alone, (B, H)
    slope = (target - 0.5) @ last.weight  # (B, H)
    offset = (target - 0.5) @ last.bias  # (B,)

    def log_likelihood(z: Tensor) -> Tensor:
        hidden: Tensor = F.linear(z, of_z) + constant  # (K, B, H)
        for layer in model.decoder[1:-1]:
            hidden = layer(hidden)
        even = _even_softplus(last(hidden))  # the logits (K, B, D) are used up here
        log_p: Tensor = (hidden * slope).sum(-1) + offset - even
        return log_p

    return log_likelihood


def _even_softplus(logits: Tensor) -> Tensor:
    # Σ softplus(l) − l/2 over the pixels (…, D) → (…), overwriting the logits.
    #
    # Σ log(1 + exp(−|l|)) is the logarithm of a product of numbers of 1 to 2: one
    # logarithm for many pixels, a quarter of the time of one each.
    size = logits.abs_()  # |l|, in place: these are the largest arrays of all
    total = 0.5 * size.sum(-1)
    product, factors = size.neg_().exp_().add_(1), 1  # 1 + exp(−|l|)
    while product.shape[-1] % 2 == 0 and factors < FACTORS:
        low, high = product.chunk(2, -1)
        product, factors = low * high, 2 * factors  # ≤ 2⁶⁴: float32 holds it
    return total + product.log_().sum(-1)


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
    model: CVAE,
    data: mnist.Images,
    generator: torch.Generator,
    *,
    corrupt: float = 0.0,
    size: int | None = None,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(x, target, y) of every image in order; x is `target` seen through the noise."""
    device, size = next(model.parameters()).device, size or CHUNK
    model.eval()
    for part in data.split(size):
        y, target = part.labels, mnist.pixels(part.images)
        x = target
        if corrupt:
            x = mnist.salt_and_pepper(target.cpu(), corrupt, generator)
        yield x.to(device), target.to(device), y.to(device)

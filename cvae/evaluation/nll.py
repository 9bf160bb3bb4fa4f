"""−log p(x given y) and −log p(x) by importance sampling, and how far to trust them.

The encoder is the proposal (Burda et al. 2016, eq. 8). In expectation the estimate is a
bound that tightens with K; the curve over K, from the same draws, shows whether it has
settled, and the effective sample size how many of the draws count.

−log p(x), p(x) = 1/C Σ_y p(x given y), is no classification: the image's own label y*
may have the K draws that p(x given y*) has got anyway, and each other label a few,

    −log 1/C (p̂_K(x given y*) + Σ_{y ≠ y*} p̂_k(x given y)).

The sum is an unbiased estimate of p(x) whatever the counts, so that its −log is in
expectation an upper bound of −log p(x) (Jensen), as with K draws for every label.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from cvae import likelihood, mnist
from cvae.evaluation.estimator import Measured, Request, mean_and_error
from cvae.evaluation.quadrature import GRIDS, integrate
from cvae.model import CVAE

CURVE = (1, 5, 50, 500, 1000, 5000, 50_000, 500_000)  # those up to K
OTHERS = 20  # draws for each label that is not the image's own


def nll(model: CVAE, images: mnist.Images, request: Request) -> Measured:
    """`nll_isK` along the curve up to K, `ess_isK`; with labels `marginal_nll_isK_20`.

    `nll_is1` is −ELBO, its expectation over q taken with K draws. One or two latents
    have the integral itself beside it, `nll_quadrature`.
    """
    samples = request.samples
    counts = [k for k in CURVE if k < samples] + [samples]
    generator = request.stream("evaluate")

    def work(some: mnist.Images) -> Tensor:
        (log_weights,) = likelihood.log_weights(
            model, some, generator, samples=samples, corrupt=request.corrupt
        )
        columns = [curve(log_weights, k) for k in counts]
        columns.append(effective_samples(log_weights))
        return torch.stack(columns, 1)

    parts = likelihood.passes(images, samples)
    rows = torch.cat(request.batches("nll", parts, work, generator))
    *of_counts, ess = rows.T
    per_image = {
        f"nll_is{k}": -row for k, row in zip(counts, of_counts, strict=True)
    } | {f"ess_is{samples}": ess}
    if len(counts) > 1:  # what the last step of the curve still finds, paired by image
        per_image[f"nll_gain_is{samples}"] = of_counts[-1] - of_counts[-2]
    if model.classes:
        random = request.stream("other labels")

        def others(some: mnist.Images) -> Tensor:
            ((x, target, y),) = likelihood.chunks(
                model, some, random, corrupt=request.corrupt, size=len(some)
            )
            return of_others(model, x, target, y, random, samples=OTHERS)

        parts = likelihood.passes(images, OTHERS)
        logs = torch.cat(request.batches("others", parts, others, random))
        log_p = log_evidence(of_counts[-1], logs)
        per_image[f"marginal_nll_is{samples}_{OTHERS}"] = -log_p
    if model.latent_dim in GRIDS:
        truth = integrate(model, images, request.track)
        per_image["nll_quadrature"] = -truth.log_p
        per_image["nll_quadrature_doubt"] = truth.doubt
        per_image[f"nll_bias_is{samples}"] = truth.log_p - of_counts[-1]
    # the curve and the integral's own error are for the page
    aside = {f"nll_is{k}" for k in counts[:-1]} | {"nll_quadrature_doubt"}
    measured = mean_and_error(per_image)
    return replace(measured, cited=frozenset(measured.figures.keys() - aside))


def of_others(
    model: CVAE,
    x: Tensor,
    target: Tensor,
    y: Tensor,
    generator: torch.Generator,
    *,
    samples: int,
) -> Tensor:
    """log p̂(x|y) (B, C − 1) of the labels after an image's own, y + 1, y + 2, …"""
    labels = ((y + step) % model.classes for step in range(1, model.classes))
    return likelihood.of_labels(model, x, target, labels, generator, samples=samples)


def log_evidence(own: Tensor, others: Tensor) -> Tensor:
    """log p(x) (N,) of log p(x|y*) (N,) and those of the other labels (N, C − 1)."""
    return likelihood.log_evidence(torch.cat([own[:, None], others], 1))


def curve(log_weights: Tensor, k: int) -> Tensor:
    """log p̂(x|y) with k of the draws (K, B): the mean over all K // k groups, (B,)."""
    groups = len(log_weights) // k
    of_groups = log_weights[: groups * k].double().unflatten(0, (groups, k))
    return (torch.logsumexp(of_groups, 1) - math.log(k)).mean(0)


def effective_samples(log_weights: Tensor) -> Tensor:
    """(Σ w)² / Σ w² of log weights (K, B), (B,): 1 to K (Kong 1992)."""
    double = log_weights.double()
    twice = 2 * torch.logsumexp(double, 0) - torch.logsumexp(2 * double, 0)
    return twice.exp()

"""−log p(x given y) by importance sampling, and how far it can be trusted.

The encoder is the proposal (Burda et al. 2016, eq. 8). In expectation the estimate is a
bound that tightens with K; the curve over K, from the same draws, shows whether it has
settled, and the effective sample size how many of the draws count.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from cvae import likelihood, mnist
from cvae.evaluation.measured import Measured, mean_and_error
from cvae.evaluation.quadrature import GRIDS, integrate
from cvae.evaluation.request import Request
from cvae.model import CVAE

CURVE = (1, 5, 50, 500, 5000, 50_000, 500_000)  # those up to K


def nll(model: CVAE, images: mnist.Images, request: Request) -> Measured:
    """`nll_isK` along the curve up to K, `ess_isK`; with labels `marginal_nll_isK`.

    `nll_is1` is −ELBO, its expectation over q taken with K draws. One or two latents
    have the integral itself beside it, `nll_quadrature`.
    """
    samples = request.samples
    counts = [k for k in CURVE if k < samples] + [samples]
    generator, rows = request.stream("evaluate"), []
    for some in request.track(likelihood.passes(images, samples)):
        (log_weights,) = likelihood.log_weights(
            model, some, generator, samples=samples, corrupt=request.corrupt
        )
        columns = [curve(log_weights, k) for k in counts]
        columns.append(effective_samples(log_weights))
        rows.append(torch.stack(columns, 1).cpu())
    *of_counts, ess = torch.cat(rows).T
    per_image = {
        f"nll_is{k}": -row for k, row in zip(counts, of_counts, strict=True)
    } | {f"ess_is{samples}": ess}
    if request.label_samples and model.classes:
        logs = request.cached_label_likelihoods(model, images)
        name = f"marginal_nll_is{request.label_samples}"
        per_image[name] = -likelihood.log_evidence(logs)
    if model.latent_dim in GRIDS:
        truth = integrate(model, images, request.track)
        per_image["nll_quadrature"] = -truth.log_p
        per_image["nll_quadrature_doubt"] = truth.doubt
        per_image[f"nll_bias_is{samples}"] = truth.log_p - of_counts[-1]
    # the curve and the integral's own error are for the page
    aside = {f"nll_is{k}" for k in counts[:-1]} | {"nll_quadrature_doubt"}
    measured = mean_and_error(per_image)
    return replace(measured, cited=frozenset(measured.figures.keys() - aside))


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

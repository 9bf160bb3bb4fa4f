"""All rates and distortions that one decoder can have, from one annealing run.

At each β of the path p(z|y) p(x|z,y)^β the chains' mean of −log p(x|z,y) is a
distortion D, and the KL from p(z|y) a rate R = −β·D − log Z_β, whose log Z_β is the
annealed weight (Huang et al. 2020, https://arxiv.org/abs/2008.06653). No encoder has a
smaller R + D/β on these images; at β = 1, R + D is −log p(x|y). An encoder trained with
the weight b of its kl aims at β = 1/b.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cvae import likelihood, mnist
from cvae.evaluation import annealed
from cvae.evaluation.estimator import Measured, Request, mean_and_error
from cvae.evaluation.gaps import BOUND_DRAWS, elbo
from cvae.model import CVAE
from cvae.objective import bernoulli_nll
from cvae.priors import sample

IMAGES = 100  # the first of the test images
BATCH = 25  # images at once
CHAINS, LEAPFROGS = 8, 4
TEMPERATURES, BEYOND_ONE, MAX_BETA = 250, 50, 4.0  # up to β = 1, and on to 4


def rate_distortion(model: CVAE, images: mnist.Images, request: Request) -> Measured:
    """The curve on test images, and the model's own point above it.

    `rate_excess` is how much more rate the encoder has than the curve at the same mean
    distortion: what a better q could save.
    """
    generator = request.stream("rate_distortion")
    some, betas = images[:IMAGES], beta_path()
    parts = list(
        likelihood.chunks(model, some, generator, corrupt=request.corrupt, size=BATCH)
    )

    def work(part: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        of_decoder = curve(model, *part, betas, generator)  # (2, T, B)
        own = _encoder_point(model, *part, generator)  # (2, B)
        return torch.cat([of_decoder, own[:, None]], 1)

    rows = torch.cat(request.batches("curve", parts, work, generator), 2)
    rate, distortion = rows[:, :-1]  # each (T, N)
    own_rate, own_distortion = rows[:, -1]  # each (N,)
    at_one = betas[1:].index(1.0)
    excess = own_rate - rate_at(rate, distortion, own_distortion.mean())
    return mean_and_error(
        {
            "rd_rate": rate[at_one],
            "rd_distortion": distortion[at_one],
            "rd_nll": rate[at_one] + distortion[at_one],
            "rate_excess": excess,
        },
        {
            "betas": torch.tensor(betas[1:]),
            "rate": rate.mean(1),
            "distortion": distortion.mean(1),
            "own": torch.stack([own_rate.mean(), own_distortion.mean()]),
        },
    )


def beta_path() -> list[float]:
    """From 0 to 1 as for a likelihood, then on in equal ratios."""
    on = [MAX_BETA ** (step / BEYOND_ONE) for step in range(1, BEYOND_ONE + 1)]
    return [*annealed.temperatures(TEMPERATURES)[:-1], 1.0, *on]


def curve(
    model: CVAE,
    x: Tensor,
    target: Tensor,
    y: Tensor,
    betas: list[float],
    generator: torch.Generator,
) -> Tensor:
    """Rate and distortion at every β but the first, (2, T, B), double."""
    path = annealed.from_prior(model, x, target, y)
    shape, rows = (len(x), model.latent_dim), []
    _, stages = annealed.adapted_chains(
        path, shape, betas, generator, chains=CHAINS, leapfrogs=LEAPFROGS
    )
    for stage in stages:
        share = stage.log_weight.softmax(0)
        distortion = -(share * stage.gain).sum(0)
        rate = -stage.beta * distortion - annealed.log_mean(stage.log_weight)
        rows.append(torch.stack([rate, distortion]))
    return torch.stack(rows, 1)


def rate_at(rate: Tensor, distortion: Tensor, wanted: Tensor) -> Tensor:
    """The rates (N,) where the mean of distortions (T, N) is `wanted`: interpolated."""
    means = distortion.mean(1)
    low = int((means >= wanted).sum().clamp(1, len(means) - 1)) - 1
    share = ((means[low] - wanted) / (means[low] - means[low + 1])).clamp(0, 1)
    return (1 - share) * rate[low] + share * rate[low + 1]


@torch.no_grad()
def _encoder_point(
    model: CVAE, x: Tensor, target: Tensor, y: Tensor, generator: torch.Generator
) -> Tensor:
    """The encoder's rate and distortion of each image, (2, B)."""
    q = model.encode(x, y)
    noise = torch.randn(BOUND_DRAWS, *q[0].shape, generator=generator).to(x.device)
    recon = bernoulli_nll(model.decode(sample(q, noise), y), target).double().mean(0)
    return torch.stack([-elbo(model, target, y, q, noise) - recon, recon])

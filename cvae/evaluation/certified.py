"""How far an importance-sampled likelihood is from the truth: a bound on each side.

On images that the model draws itself an exact z of p(z given x, y) is known: the one
they were drawn with. Annealing from there gives an upper bound of log p(x given y),
annealing towards it a lower one (bidirectional Monte Carlo, Grosse et al. 2015; for
decoders Wu et al. 2017). Both hold in expectation, and what is between them is printed.
On test images there is the lower bound alone.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from cvae import likelihood, mnist
from cvae.evaluation import annealed
from cvae.evaluation.estimator import Measured, Request, mean_and_error
from cvae.model import CVAE

IMAGES = 100  # simulated ones, and the first of the test images
BATCH = 25  # images at once
CHAINS, TEMPERATURES, LEAPFROGS = 8, 200, 5


def certified(model: CVAE, images: mnist.Images, request: Request) -> Measured:
    """Bounds of −log p(x|y) on both sides, and what importance sampling misses.

    The steps of the moves are adapted in a run of their own and then kept, so that the
    bounds are bounds.
    """
    generator = request.stream("annealing")
    drawn, z = simulate(model, IMAGES, generator)
    simulated = zip(drawn.split(BATCH), z.split(BATCH), strict=True)
    of_test = ((part, None) for part in images[:IMAGES].split(BATCH))
    jobs: list[tuple[mnist.Images, Tensor | None]] = [*simulated, *of_test]

    def work(job: tuple[mnist.Images, Tensor | None]) -> Tensor:
        part, exact = job
        lower, upper = bounds(model, part, exact, generator, corrupt=request.corrupt)
        log_weights = likelihood.log_weights(
            model, part, generator, samples=request.samples, corrupt=request.corrupt
        )
        sampled = torch.cat([annealed.log_mean(each.double()) for each in log_weights])
        return torch.stack([lower, upper, sampled])

    rows = request.batches("annealing", jobs, work, generator)
    half = len(drawn.split(BATCH))
    lower, upper, sampled = torch.cat(rows[:half], 1)
    name = f"is{request.samples}"
    bounded = mean_and_error(
        {
            "bdmc_nll_lower": -upper,
            "bdmc_nll_upper": -lower,
            "bdmc_gap": upper - lower,
            f"bdmc_bias_{name}": lower - sampled,
        },
        {"lower": lower, "upper": upper, "sampled": sampled},
    )
    ais, _, sampled = torch.cat(rows[half:], 1)
    real = mean_and_error({"ais_nll": -ais, f"ais_bias_{name}": ais - sampled})
    return replace(bounded, per_image={}) | real


def simulate(
    model: CVAE, count: int, generator: torch.Generator
) -> tuple[mnist.Images, Tensor]:
    """Black and white images that the model draws, and the z (N, Z) of each."""
    device = next(model.parameters()).device
    y = torch.arange(count) % max(1, model.classes)
    noise = torch.randn(count, model.latent_dim, generator=generator)
    with torch.no_grad():
        z = model.prior.sample(y.to(device), noise.to(device))
        p = torch.sigmoid(model.decode(z, y.to(device))).cpu()
    ink = torch.bernoulli(p, generator=generator)
    return mnist.Images((255 * ink).to(torch.uint8), y), z


def bounds(
    model: CVAE,
    images: mnist.Images,
    exact: Tensor | None,
    generator: torch.Generator,
    *,
    corrupt: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Lower and upper bound of log p(x|y), (B,); no upper one without `exact` z.

    On images that the model drew the path begins at the encoder's q. On test images
    half of the chains begin at p(z|y): where q misses a mode, they find it.
    """
    ((x, target, y),) = likelihood.chunks(model, images, generator, corrupt=corrupt)
    path = annealed.from_encoder(model, x, target, y)
    steps, lower = forward_chains(path, (len(x), model.latent_dim), generator)
    if exact is None:
        of_prior = annealed.from_prior(model, x, target, y)
        _, other = forward_chains(of_prior, (len(x), model.latent_dim), generator)
        both = annealed.log_mean(torch.stack([lower, other]))
        return both, torch.full_like(both, torch.inf)
    *_, end = annealed.anneal(
        path,
        exact.expand(CHAINS, -1, -1),
        annealed.temperatures(TEMPERATURES)[::-1],
        torch.cat([steps[:-1].flip(0), steps[:1]]),
        generator,
        leapfrogs=LEAPFROGS,
    )
    return lower, -annealed.log_mean(end.log_weight)


def forward_chains(
    path: annealed.Path, shape: tuple[int, int], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The adapted steps (T, B), and the lower bound (B,) of chains that use them."""
    betas = annealed.temperatures(TEMPERATURES)
    steps, stages = annealed.adapted_chains(
        path, shape, betas, generator, chains=CHAINS, leapfrogs=LEAPFROGS
    )
    *_, end = stages
    return steps, annealed.log_mean(end.log_weight)

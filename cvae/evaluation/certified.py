"""How far an importance-sampled likelihood is from the truth: a bound on each side.

On images that the model draws itself an exact z of p(z given x, y) is known: the one
they were drawn with. Annealing from there gives an upper bound of log p(x given y),
annealing towards it a lower one (bidirectional Monte Carlo, Grosse et al. 2015; for
decoders Wu et al. 2017). Both hold in expectation, and what is between them is printed.
On test images there is the lower bound alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cvae import likelihood, mnist
from cvae.evaluation import annealed
from cvae.evaluation.estimator import Measured, Request, mean_and_error
from cvae.model import CVAE

IMAGES = 100  # simulated ones, and the first of the test images
BATCH = 25  # images at once
CHAINS, TEMPERATURES, LEAPFROGS = 8, 200, 5
PILOTS = 2  # chains of the run that adapts the steps


def certified(model: CVAE, images: mnist.Images, request: Request) -> Measured:
    """Bounds of −log p(x|y) on both sides, and what importance sampling misses.

    The steps of the moves are adapted in a run of their own and then kept, so that the
    bounds are bounds.
    """
    generator = request.stream("annealing")
    some = mnist.Images(images.images[:IMAGES], images.labels[:IMAGES])
    drawn, z = simulate(model, IMAGES, generator)
    jobs: list[tuple[mnist.Images, Tensor | None]] = [
        *(
            (part, z_part)
            for part, z_part in zip(in_batches(drawn), z.split(BATCH), strict=True)
        ),
        *((part, None) for part in in_batches(some)),
    ]

    def work(job: tuple[mnist.Images, Tensor | None]) -> Tensor:
        part, exact = job
        lower, upper = bounds(model, part, exact, generator, corrupt=request.corrupt)
        log_weights = likelihood.log_weights(
            model, part, generator, samples=request.samples, corrupt=request.corrupt
        )
        sampled = torch.cat([annealed.log_mean(each.double()) for each in log_weights])
        return torch.stack([lower, upper, sampled])

    rows = request.batches("annealing", jobs, work, generator)
    half = len(in_batches(drawn))
    lower, upper, sampled = torch.cat(rows[:half], 1)
    name = f"is{request.samples}"
    simulated = mean_and_error(
        {
            "bdmc_nll_lower": -upper,
            "bdmc_nll_upper": -lower,
            "bdmc_gap": upper - lower,
            f"bdmc_bias_{name}": lower - sampled,
        }
    )
    of_test, _, sampled_test = torch.cat(rows[half:], 1)
    real = mean_and_error(
        {"ais_nll": -of_test, f"ais_bias_{name}": of_test - sampled_test}
    )
    arrays = {"lower": lower, "upper": upper, "sampled": sampled}
    return Measured(
        {**simulated.figures, **real.figures},
        {**simulated.errors, **real.errors},
        real.per_image,
        arrays,
    )


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
    betas, device = annealed.temperatures(TEMPERATURES), path.precision[0].device
    noise = torch.randn(PILOTS, *shape, generator=generator).to(device)
    steps = annealed.adapted_steps(path, betas, noise, generator, leapfrogs=LEAPFROGS)
    noise = torch.randn(CHAINS, *shape, generator=generator).to(device)
    *_, end = annealed.anneal(
        path, path.draw(noise), betas, steps, generator, leapfrogs=LEAPFROGS
    )
    return steps, annealed.log_mean(end.log_weight)


def in_batches(images: mnist.Images) -> list[mnist.Images]:
    parts = zip(images.images.split(BATCH), images.labels.split(BATCH), strict=True)
    return [mnist.Images(*part) for part in parts]

"""Why the bound is below the likelihood: the family of q, or the encoder that picks it?

log p(x|y) − ELBO = approximation gap + amortisation gap (Cremer et al. 2018,
https://arxiv.org/abs/1801.03558). The first is left over by the best diagonal Gaussian
of each image, found by optimising it for that image alone; the second is what the
encoder loses by not finding it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cvae import likelihood, mnist
from cvae.evaluation.estimator import Measured, Request, mean_and_error
from cvae.evaluation.quadrature import GRIDS, integrate
from cvae.model import CVAE
from cvae.objective import bernoulli_nll
from cvae.priors import Gaussian, gaussian_log_density, sample

IMAGES = 1000  # the first of the test images
BATCH = 100  # images at once; fewer where K is large
WEIGHTS = 1_000_000  # K times the images at once
STEPS, DRAWS = 300, 4  # of the optimisation, and draws of z a step
RATE = 0.05  # in standard deviations of the encoder's q; falls to 0
BOUND_DRAWS = 500  # draws of z that both bounds are computed with


def gaps(model: CVAE, images: mnist.Images, request: Request) -> Measured:
    """Approximation and amortisation gap, nats per image, with what they are made of.

    log p(x|y) is the integral for one or two latents, else it is importance-sampled
    with the best q as proposal: K draws miss some of it, and with it of the first gap.
    """
    generator = request.stream("gaps")
    some = images[:IMAGES]
    size = max(1, min(BATCH, WEIGHTS // request.samples))
    parts = list(
        likelihood.chunks(model, some, generator, corrupt=request.corrupt, size=size)
    )

    def work(part: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        x, target, y = part
        with torch.no_grad():
            q = model.encode(x, y)
        fitted = optimise(model, target, y, q, generator)
        noise = torch.randn(BOUND_DRAWS, *q[0].shape, generator=generator)
        noise = noise.to(x.device)
        with torch.no_grad():
            both = [elbo(model, target, y, each, noise) for each in (q, fitted)]
        sampled = likelihood.log_likelihood(
            model, x, target, y, generator, samples=request.samples, proposal=fitted
        )
        return torch.stack([*both, sampled.double()])

    rows = request.batches("gaps", parts, work, generator)
    of_encoder, best, log_p = torch.cat(rows, 1)
    if model.latent_dim in GRIDS:
        log_p = integrate(model, some, request.track).log_p
    return mean_and_error(
        {
            "approximation_gap": log_p - best,
            "amortisation_gap": best - of_encoder,
            "inference_gap": log_p - of_encoder,
            "neg_elbo_encoder": -of_encoder,
            "neg_elbo_local": -best,
        }
    )


def optimise(
    model: CVAE, target: Tensor, y: Tensor, q: Gaussian, generator: torch.Generator
) -> Gaussian:
    """The diagonal Gaussian (B, Z) with the best bound of each image, from q on.

    Adam on mu in units of q's σ, and on log σ² itself.
    """
    mu, logvar = q
    scale = torch.exp(0.5 * logvar)
    moved = torch.zeros_like(mu, requires_grad=True)
    wider = torch.zeros_like(mu, requires_grad=True)
    adam = torch.optim.Adam([moved, wider], lr=RATE)
    falling = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.01, STEPS)
    for _ in range(STEPS):
        noise = torch.randn(DRAWS, *mu.shape, generator=generator).to(mu.device)
        now = mu + scale * moved, logvar + wider
        loss = -elbo(model, target, y, now, noise).sum()
        moved.grad, wider.grad = torch.autograd.grad(loss, (moved, wider))
        adam.step()
        falling.step()
    return (mu + scale * moved).detach(), (logvar + wider).detach()


def elbo(model: CVAE, target: Tensor, y: Tensor, q: Gaussian, noise: Tensor) -> Tensor:
    """E_q[log p(x|z,y)] − KL(q ‖ p(z|y)) (B,) with the noise (K, B, Z), double.

    The KL is exact, or from the same draws where the prior has no closed form.
    """
    z = sample(q, noise)
    recon = bernoulli_nll(model.decode(z, y), target).double().mean(0)
    kl = model.prior.kl(q, y)
    if kl is None:
        kl = (gaussian_log_density(z, q) - model.prior.log_density(z, y)).mean(0)
    return -recon - kl.double()

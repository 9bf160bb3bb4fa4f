"""Small models whose integrals can be computed, and requests without a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cvae import mnist
from cvae.evaluation.estimator import Request, T
from cvae.model import CVAE
from tests.conftest import bend, generator

PIXELS = 16


def model(latent_dim: int = 1, *, scale: float = 2.0, **options: Any) -> CVAE:
    """Drawn weights, enlarged: its posteriors are far from Gaussian."""
    wanted: dict[str, Any] = {"hidden": (6,), "shape": (1, PIXELS)} | options
    made = CVAE(latent_dim=latent_dim, generator=generator(), **wanted)
    with torch.no_grad():
        for part in made.parameters():
            part.mul_(scale)
        if options.get("prior") == "learned":
            assert made.prior_table is not None
            made.prior_table.normal_(0, 0.5, generator=generator(1))
        if made.flow is not None:
            bend(made.flow)
    if made.is_mixture:
        made.set_mixture(mixture_table(latent_dim))
    return made


def mixture_table(latent_dim: int, components: int = 3) -> Tensor:
    """Components with their means apart and lower triangular W, for ten labels."""
    random, shape = generator(4), (10, components)
    log_weight = torch.randn(shape, generator=random).log_softmax(1)[..., None]
    mu = torch.randn(*shape, latent_dim, generator=random)
    size = latent_dim**2
    w = torch.randn(*shape, size, generator=random).mul_(0.3)
    w = w.unflatten(-1, (latent_dim, latent_dim)).tril() + 1.5 * torch.eye(latent_dim)
    return torch.cat([log_weight, mu, w.flatten(2)], -1)


def images(count: int, *, grey: bool = False, pixels: int = PIXELS) -> mnist.Images:
    random = generator(2)
    x = torch.randint(256, (count, pixels), generator=random, dtype=torch.uint8)
    if not grey:
        x = (x > 127).to(torch.uint8) * 255
    return mnist.Images(x, torch.randint(10, (count,), generator=random))


def request(samples: int = 100, label_samples: int = 0, **options: Any) -> Request:
    def track(items: Sequence[T]) -> Iterator[T]:
        return iter(items)

    fields: dict[str, Any] = {
        "samples": samples,
        "label_samples": label_samples,
        "stream": lambda name: generator(len(name)),
        "track": track,
        "data": mnist.MNIST(images(50), images(0), images(20), (4, 4), {}),
        "root": Path("nowhere"),
    }
    return Request(**fields | options)


def exact(made: CVAE, data: mnist.Images, *, far: float = 10.0) -> Tensor:
    """log p(x|y) (N,) by the trapezoidal rule over z, Z = 1, in double precision."""
    made = made.double()
    z = torch.linspace(-far, far, 8001, dtype=torch.float64)[:, None]
    x, found = data.images.double() / 255, []
    with torch.no_grad():
        for image, y in zip(x, data.labels, strict=True):
            labels = y.expand(len(z))
            p = torch.distributions.Bernoulli(
                logits=made.decode(z, labels), validate_args=False
            )
            log_p = p.log_prob(image).sum(-1) + made.prior.log_density(z, labels)
            peak = log_p.max()
            area = torch.trapezoid((log_p - peak).exp(), z[:, 0])
            found.append(peak + area.log())
    made.float()
    return torch.stack(found)


def exact_by_label(made: CVAE, data: mnist.Images) -> Tensor:
    """log p(x|y) of every image with every label, (N, 10)."""
    labels = (torch.full_like(data.labels, y) for y in range(10))
    return torch.stack([exact(made, mnist.Images(data.images, y)) for y in labels], 1)

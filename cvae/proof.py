"""Whether a shortcut gives what the model's own encode, decode and objective give."""

# These are the definition, and a reader may edit them. So whoever computes past them,
# to be faster or in another language, compares the two first, in each run, on a copy of
# the model: its weights perturbed, a few images, all labels. Nothing of the model or of
# its process's randomness is touched. Letters: B batch, Z latent, D pixels.

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cvae.model import CVAE
from cvae.networks import seeded

TOLERANCE = 1e-4  # of the largest value
IMAGES = 20  # or one a class
# A unit that rounds to the other side of ReLU's kink differs, once in some hundred
# comparisons: those that fail are repeated with other numbers.
SEEDS = (1, 2)
MISFITS = (RuntimeError, ValueError, TypeError, AttributeError, LookupError)


class Probe(NamedTuple):
    """A small batch with all labels: random pixels in [0, 1] (B, D), z (B, Z)."""

    x: Tensor
    y: Tensor  # (B,)
    z: Tensor
    target: Tensor  # (B, D), 0 or 1


Way = Callable[[CVAE, Probe], Sequence[Tensor]]


def agrees(model: CVAE, shortcut: Way, plain: Way) -> bool:
    """Whether both ways give the same tensors, of a copy of `model` and a probe.

    A shortcut that fails with an ordinary error does not agree.
    """
    device = next(model.parameters()).device
    for seed in SEEDS:
        found: list[Sequence[Tensor]] = []
        for way in (plain, shortcut):
            with seeded(torch.Generator(device).manual_seed(seed)):
                twin, probe = perturbed(model, seed), make_probe(model, seed)
                try:
                    found.append(way(twin, probe))
                except MISFITS:
                    if way is plain:
                        raise
                    return False
        wanted, got = found
        if len(got) == len(wanted) and all(map(same, got, wanted)):
            return True
    return False


def same(found: Tensor, wanted: Tensor) -> bool:
    """max |Δ| ≤ 1e-4 · max |value|, of finite tensors of one shape."""
    if found.shape != wanted.shape:
        return False
    apart, size = (found - wanted).abs(), wanted.abs()
    if not wanted.numel():
        return True
    return bool(apart.max() <= TOLERANCE * size.max())  # not so if any is NaN


def perturbed(model: CVAE, seed: int) -> CVAE:
    """A copy of the model, each weight w changed to w (1 + 0.3 ε) + 0.05 ε."""
    twin = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in twin.parameters():
            # uniform, with standard deviation 1: normal numbers take ten times as long
            noise = torch.rand(part.shape, generator=generator, dtype=part.dtype)
            noise = noise.sub_(0.5).mul_(12**0.5).to(part.device)
            part.mul_(1 + 0.3 * noise).add_(noise, alpha=0.05)
    return twin


def make_probe(model: CVAE, seed: int) -> Probe:
    generator = torch.Generator().manual_seed(seed)
    count = max(IMAGES, model.classes)
    like = next(model.parameters())
    x = torch.rand(count, model.pixels, generator=generator)
    y = torch.arange(count) % max(1, model.classes)
    z = torch.randn(count, model.latent_dim, generator=generator)
    target = torch.bernoulli(x, generator=generator)
    return Probe(x.to(like), y.to(like.device), z.to(like), target.to(like))

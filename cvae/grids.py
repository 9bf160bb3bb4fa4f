"""Pictures as arrays: reconstructions and per-digit samples."""

# Each is a (height, width) uint8 array, 0 black and 255 white. What is drawn is the
# decoder's mean, not a Bernoulli draw. The same z and images are used in every epoch.

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cvae import mnist
from cvae.model import CVAE

Picture = NDArray[np.uint8]
SHOWN = 10  # columns of every grid
GAP = 2  # pixels between tiles


def tile(images: Tensor, shape: tuple[int, int]) -> Picture:
    """(rows, columns, D) pixels in [0, 1] as one picture with dark gaps."""
    rows, columns, _ = images.shape
    tiles = F.pad(images.view(rows, columns, *shape), (0, GAP, 0, GAP))
    picture = tiles.transpose(1, 2).reshape(rows * tiles.shape[2], -1)
    picture = F.pad(picture, (GAP, 0, GAP, 0))
    return (picture * 255).round().to(torch.uint8).numpy()


def sheet(rows: list[Tensor], columns: int, shape: tuple[int, int]) -> Picture:
    """Each entry's images (N, D) in rows of `columns`, the last filled with black."""
    images = [
        torch.cat([part, part.new_zeros(-len(part) % columns, part.shape[1])])
        for part in rows
    ]
    return tile(torch.cat(images).view(-1, columns, images[0].shape[1]), shape)


def shown_images(data: mnist.Images) -> mnist.Images:
    """The first image of each label, in order; for grids."""
    labels = data.labels.unique().tolist()
    first = [int((data.labels == label).nonzero()[0]) for label in labels]
    return data[first]


@torch.no_grad()
def reconstructions(
    model: CVAE,
    data: mnist.Images,
    shape: tuple[int, int],
    *,
    corrupt: float = 0.0,
    generator: torch.Generator | None = None,
) -> Picture:
    """Originals over their reconstructions from the posterior mean.

    With `corrupt` there are three rows: clean, noisy as the encoder sees it, restored.
    """
    device = next(model.eval().parameters()).device
    clean = mnist.pixels(data.images).cpu()
    rows, seen = [clean], clean
    if corrupt:
        assert generator is not None
        seen = mnist.salt_and_pepper(clean, corrupt, generator)
        rows.append(seen)
    y = data.labels.to(device)
    mu, _ = model.encode(seen.to(device), y)
    rows.append(torch.sigmoid(model.decode(mu, y)).cpu())
    return tile(torch.stack(rows), shape)


@torch.no_grad()
def digits(model: CVAE, z: Tensor, labels: Tensor) -> Tensor:
    """Decoder means (N, D) in [0, 1] of latents (N, Z) and labels (N,), on the CPU."""
    device = next(model.eval().parameters()).device
    return torch.sigmoid(model.decode(z.to(device), labels.to(device))).cpu()


@torch.no_grad()
def digit_grid(model: CVAE, noise: Tensor, shape: tuple[int, int]) -> Picture:
    """One row a digit, one handwriting a column; noise (columns, Z)."""
    # A column's z is a draw from p(z given one digit), carried over to the others by
    # `whiten` and `unwhiten`: with a standard prior it is the same z in every row. An
    # unconditional model has no rows to tell apart; noise (rows · columns, Z).
    prior = model.prior
    noise = noise.to(next(model.parameters()).device)
    if not model.classes:
        rows, columns = max(1, len(noise) // SHOWN), SHOWN
        labels = torch.zeros(rows * columns, dtype=torch.int64, device=noise.device)
        z = prior.sample(labels, noise[: rows * columns])
    else:
        rows, columns = model.classes, len(noise)
        own = torch.arange(columns, device=noise.device) % rows
        u = prior.whiten(prior.sample(own, noise), own)
        labels = torch.arange(rows, device=noise.device).repeat_interleave(columns)
        z = prior.unwhiten(u.repeat(rows, 1), labels)
    return tile(digits(model, z, labels).view(rows, columns, -1), shape)

"""A small CNN that reads digits, to tell which digit a sample shows.

It sees grey pixels in [0, 1] and returns class logits and the 64 features that they are
computed from. No CVAE is trained with it: it only measures, and only runs on the data
set that it was trained on itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cvae import mnist
from cvae.networks import seeded

Track = Callable[[range], Iterator[int]]
SIDE = 28  # what the network sees; other sizes are averaged or stretched to it
FEATURES = 64
CHUNK = 500  # images a pass
BATCH = 128  # images a step of training
LEARNING_RATE = 4e-3  # the highest of the cycle
WEIGHT_DECAY, LABEL_SMOOTHING = 0.02, 0.05
SHOWN = 150_000  # images that it is trained on, those of each epoch counted
SHIFT, TURN, SCALE, SHEAR = 2 / 14, math.radians(10), 0.1, 0.1  # the largest of each


class Classifier(nn.Module):
    """(N, D) pixels in [0, 1] → logits (N, C) and features (N, 64); 0.24 M weights."""

    def __init__(
        self, shape: tuple[int, int] = (SIDE, SIDE), classes: int = 10
    ) -> None:
        super().__init__()
        self.shape = shape
        self.body = nn.Sequential(
            *_block(1, 24, kernel=5, stride=2),
            *_block(24, 48, kernel=3, stride=2),
            *_block(48, 64, kernel=3, stride=1),
            nn.Flatten(),
            nn.Linear(64 * (SIDE // 4) ** 2, FEATURES),
            nn.ReLU(),
        )
        self.head = nn.Linear(FEATURES, classes)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.view(-1, 1, *self.shape)
        if self.shape != (SIDE, SIDE):
            x = F.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True)
        features = self.body(x.contiguous(memory_format=torch.channels_last))
        return self.head(features), features


def _block(fan_in: int, fan_out: int, *, kernel: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(fan_in, fan_out, kernel, stride, kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(fan_out), nn.ReLU()]


@torch.inference_mode()
def read(network: Classifier, images: Tensor) -> tuple[Tensor, Tensor]:
    """Labels read (N,) and features (N, 64) of images (N, D) in [0, 1]."""
    network.eval()
    parts = [network(part) for part in images.split(CHUNK)]
    logits, features = (torch.cat(each) for each in zip(*parts, strict=True))
    return logits.argmax(1), features


def accuracy(network: Classifier, data: mnist.Images) -> float:
    """Share of real images that are read as their label."""
    labels, _ = read(network, mnist.pixels(data.images))
    return float((labels == data.labels).float().mean())


def train(
    data: mnist.Images,
    shape: tuple[int, int] = (SIDE, SIDE),
    *,
    classes: int = 10,
    epochs: int,
    seed: int = 0,
    track: Track = iter,
) -> Classifier:
    """Train a classifier of `data`, images of `shape`, on the CPU.

    Cross-entropy with smoothed labels and AdamW, with one cycle of the learning rate,
    on images that are warped a little, anew in each epoch.

    Args:
        epochs: passes over the images.
        seed: of initial weights, order of images and warps.
        track: passes the numbers of the steps on, to show how far it is.
    """
    with seeded(torch.Generator().manual_seed(seed)):
        network = Classifier(shape, classes)
    adam = torch.optim.AdamW(
        network.parameters(), weight_decay=WEIGHT_DECAY, fused=True
    )
    steps = math.ceil(len(data) / BATCH)  # of one epoch
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        adam, LEARNING_RATE, total_steps=epochs * steps
    )
    generator = torch.Generator().manual_seed(seed)
    network.train()
    for step in track(range(epochs * steps)):
        if step % steps == 0:
            order = torch.randperm(len(data), generator=generator).split(BATCH)
        rows = order[step % steps]  # (B,)
        x, y = mnist.pixels(data.images[rows]), data.labels[rows]
        logits, _ = network(warp(x, shape, generator))
        loss = F.cross_entropy(logits, y, label_smoothing=LABEL_SMOOTHING)
        adam.zero_grad()
        loss.backward()
        adam.step()
        cycle.step()
    return network.eval()


def default_epochs(images: int) -> int:
    """3, or as many as show it 150,000 images, at most 50."""
    return min(50, max(3, round(SHOWN / images)))


def warp(x: Tensor, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Each image (N, D) turned, sheared, scaled and moved a little, at random."""
    n = len(x)
    turn, shear, wide, high, right, down = (
        torch.rand(6, n, generator=generator).mul_(2).sub_(1).unbind()
    )
    turn, shear = TURN * turn, SHEAR * shear
    wide, high = 1 + SCALE * wide, 1 + SCALE * high
    top = [wide * turn.cos(), shear - turn.sin(), SHIFT * right]
    bottom = [turn.sin(), high * turn.cos(), SHIFT * down]
    matrix = torch.stack([*top, *bottom], 1).view(n, 2, 3)
    grid = F.affine_grid(matrix, [n, 1, *shape], align_corners=False)
    return F.grid_sample(x.view(n, 1, *shape), grid, align_corners=False).view(n, -1)

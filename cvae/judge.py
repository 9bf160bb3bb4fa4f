"""The judge: a small CNN that reads digits, to tell which digit a sample shows.

It sees grey pixels in [0, 1] and returns class logits and the 64 features that they are
computed from. No CVAE is trained with it: it only measures. The published one was made
by `make judge`; it judges runs on the data set it was trained on, and no other.
"""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cvae import files, mnist

PUBLISHED = Path(__file__).resolve().parent.parent / "results" / "judge"
SIDE = 28  # what the network sees; other sizes are averaged or stretched to it
FEATURES = 64
CHUNK = 500  # images a pass
EPOCHS, BATCH, RATE, DECAY, SMOOTHING = 10, 128, 4e-3, 0.02, 0.05
SHIFT, TURN, SCALE, SHEAR = 2 / 14, math.radians(10), 0.1, 0.1  # the largest of each


class Judge(nn.Module):
    """(N, D) pixels in [0, 1] → logits (N, C) and features (N, 64); 0.24 M weights."""

    def __init__(self, shape: tuple[int, int] = (SIDE, SIDE)) -> None:
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
        self.head = nn.Linear(FEATURES, mnist.CLASSES)
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
def read(judge: Judge, images: Tensor) -> tuple[Tensor, Tensor]:
    """Labels read (N,) and features (N, 64) of images (N, D) in [0, 1]."""
    judge.eval()
    labels, features = [], []
    for part in images.split(CHUNK):
        logits, found = judge(part)
        labels.append(logits.argmax(1))
        features.append(found)
    return torch.cat(labels), torch.cat(features)


def accuracy(judge: Judge, data: mnist.Images) -> float:
    """Share of real images that are read as their label."""
    labels, _ = read(judge, mnist.pixels(data.images))
    return float((labels == data.labels).float().mean())


def train(
    data: mnist.Images,
    shape: tuple[int, int] = (SIDE, SIDE),
    *,
    seed: int = 0,
    epochs: int = EPOCHS,
    report: Callable[[int, Judge], None] | None = None,
) -> Judge:
    """A judge of `data`, on the CPU: AdamW, one cycle, smoothed labels, small warps."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = Judge(shape)
    optimizer = torch.optim.AdamW(judge.parameters(), weight_decay=DECAY, fused=True)
    steps = epochs * math.ceil(len(data) / BATCH)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for epoch in range(epochs):
        judge.train()
        order = torch.randperm(len(data), generator=generator)
        for rows in order.split(BATCH):
            x = mnist.pixels(data.images[rows])
            logits, _ = judge(warp(x, shape, generator))
            loss = F.cross_entropy(logits, data.labels[rows], label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cycle.step()
        if report is not None:
            report(epoch + 1, judge)
    return judge.eval()


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


def make(data: mnist.MNIST, folder: Path, *, seed: int = 0) -> dict[str, Any]:
    """Train a judge of `data` and write it with its record, which is returned.

    The record: data digest, accuracy on validation and on test images, epochs, seed,
    seconds. Validation images are not trained on.
    """
    began = time.perf_counter()
    judge = train(data.train, data.shape, seed=seed)
    record = {
        "digest": data.digest,
        "shape": list(data.shape),
        "images": {"training": len(data.train), "validation": len(data.validation)},
        "epochs": EPOCHS,
        "seed": seed,
        "seconds": round(time.perf_counter() - began, 1),
        "torch": torch.__version__,
        "validation_accuracy": accuracy(judge, data.validation),
        "test_accuracy": accuracy(judge, data.test),
    }
    folder.mkdir(parents=True, exist_ok=True)
    weights = {key: value.contiguous() for key, value in judge.state_dict().items()}
    files.write_atomic(folder / "judge.safetensors", safetensors.torch.save(weights))
    text = json.dumps(record, indent=2) + "\n"
    files.write_atomic(folder / "judge.json", text.encode())
    return record


@functools.cache
def published(folder: Path = PUBLISHED) -> tuple[Judge, dict[str, Any]] | None:
    """The judge that `make` wrote and its record; None where there is none."""
    if not (folder / "judge.json").exists():
        return None
    record = json.loads((folder / "judge.json").read_text())
    judge = Judge(tuple(record["shape"]))
    judge.load_state_dict(safetensors.torch.load_file(folder / "judge.safetensors"))
    return judge.eval(), record

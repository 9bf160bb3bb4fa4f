"""The judge: a small CNN that reads digits, to tell which digit a sample shows.

It sees grey pixels in [0, 1] and returns class logits and the 64 features that they are
computed from. No CVAE is trained with it: it only measures. `experiments/judge.yaml`
trains it; it judges runs on the data set that it was trained on, and no other.
"""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cvae import mnist
from cvae.engine import Epoch
from cvae.spec.judge import JudgeTraining

PUBLISHED = Path(__file__).resolve().parent.parent / "results" / "judge"
SIDE = 28  # what the network sees; other sizes are averaged or stretched to it
FEATURES = 64
CHUNK = 500  # images a pass
Adam: TypeAlias = torch.optim.AdamW
Cycle: TypeAlias = torch.optim.lr_scheduler.OneCycleLR
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
    parts = [judge(part) for part in images.split(CHUNK)]
    logits, features = (torch.cat(each) for each in zip(*parts, strict=True))
    return logits.argmax(1), features


def accuracy(judge: Judge, data: mnist.Images) -> float:
    """Share of real images that are read as their label."""
    labels, _ = read(judge, mnist.pixels(data.images))
    return float((labels == data.labels).float().mean())


def train(
    data: mnist.Images, shape: tuple[int, int] = (SIDE, SIDE), *, epochs: int = 10
) -> Judge:
    """A judge of `data`, trained in one go."""
    spec = JudgeTraining(epochs=epochs)
    judge, adam, cycle, generator = begin(spec, len(data), shape)
    for _ in train_epochs(judge, adam, cycle, data, spec, generator):
        pass
    return judge


def begin(
    spec: JudgeTraining, images: int, shape: tuple[int, int]
) -> tuple[Judge, Adam, Cycle, torch.Generator]:
    """A judge before its first step, AdamW, one cycle of learning rates, randomness."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        judge = Judge(shape)
    parameters, decay = judge.parameters(), spec.weight_decay
    adam = torch.optim.AdamW(parameters, weight_decay=decay, fused=True)
    steps = spec.epochs * math.ceil(images / spec.batch_size)
    cycle = Cycle(adam, spec.learning_rate, total_steps=steps)
    return judge, adam, cycle, torch.Generator().manual_seed(spec.seed)


def train_epochs(
    judge: Judge,
    adam: Adam,
    cycle: Cycle,
    data: mnist.Images,
    spec: JudgeTraining,
    generator: torch.Generator,
    *,
    start: int = 0,
) -> Iterator[Epoch]:
    """Train on the CPU from epoch `start` to the last, yielding after each epoch.

    Cross-entropy with smoothed labels, on images that are warped a little, anew in
    each epoch.
    """
    steps = math.ceil(len(data) / spec.batch_size)
    for epoch in range(start, spec.epochs):
        began = time.perf_counter()
        judge.train()
        order = torch.randperm(len(data), generator=generator)
        loss_sum, right = 0.0, 0
        for rows in order.split(spec.batch_size):
            x, y = mnist.pixels(data.images[rows]), data.labels[rows]
            logits, _ = judge(warp(x, judge.shape, generator))
            loss = F.cross_entropy(logits, y, label_smoothing=spec.label_smoothing)
            adam.zero_grad()
            loss.backward()
            adam.step()
            cycle.step()
            loss_sum += len(rows) * loss.item()
            right += int((logits.argmax(1) == y).sum())
        judge.eval()
        metrics = {"loss": loss_sum / len(data), "accuracy": right / len(data)}
        seconds = time.perf_counter() - began
        yield Epoch(epoch + 1, (epoch + 1) * steps, metrics, seconds)


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


@functools.cache
def published(folder: Path = PUBLISHED) -> tuple[Judge, dict[str, Any]] | None:
    """The judge in results/ and its record; None where there is none."""
    if not (folder / "judge.json").exists():
        return None
    record = json.loads((folder / "judge.json").read_text())
    judge = Judge(tuple(record["shape"]))
    judge.load_state_dict(safetensors.torch.load_file(folder / "judge.safetensors"))
    return judge.eval(), record

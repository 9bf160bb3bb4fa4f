"""Encoder and decoder as layers: an MLP, or two convolutions and an MLP behind them."""

# Both halves are an `nn.Sequential` from numbers to numbers, whatever lies between: the
# encoder (B, D + C) → (B, 2Z), the decoder (…, Z + C) → (…, D) logits. The decoder
# begins with a linear layer, and its last layer has one bias for each pixel. Letters: B
# batch, Z latent, C classes, D pixels, F features.

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}
HALVINGS = 2  # convolutions of stride 2: 28 → 14 → 7
Pair = tuple[nn.Sequential, nn.Sequential]


@dataclass(frozen=True)
class Layers:
    """How the hidden layers between two linear ones are built."""

    activation: str = "relu"
    residual: bool = False
    normalisation: str = "none"


def mlp_pair(
    shape: tuple[int, int],
    classes: int,
    latent_dim: int,
    hidden: tuple[int, ...],
    layers: Layers,
) -> Pair:
    """Layers of `hidden` units, in the decoder in reverse."""
    pixels = math.prod(shape)
    return (
        _mlp([pixels + classes, *hidden, 2 * latent_dim], layers),
        _mlp([latent_dim + classes, *reversed(hidden), pixels], layers),
    )


def conv_pair(
    shape: tuple[int, int],
    classes: int,
    latent_dim: int,
    hidden: tuple[int, ...],
    layers: Layers,
) -> Pair:
    """`hidden`: channels of the two convolutions, then units of the layers behind.

    The label joins the features of the image in front of the first linear layer.
    """
    channels, dense = hidden[:HALVINGS], hidden[HALVINGS:]
    down = FromImage(shape, channels, layers.activation)
    up = ToImage(shape, channels, layers.activation)
    encoder = _mlp([down.features + classes, *dense, 2 * latent_dim], layers)
    decoder = _mlp([latent_dim + classes, *reversed(dense), down.features], layers)
    between = ACTIVATIONS[layers.activation]()
    return nn.Sequential(down, *encoder), nn.Sequential(*decoder, between, up)


PAIRS = {"mlp": mlp_pair, "conv": conv_pair}


class FromImage(nn.Module):
    """Image and label (B, D + C) → features of the image and the label, (B, F + C)."""

    # Each convolution has stride 2 and an activation behind it. All is channels-last: a
    # pixel's channels lie side by side in memory, what CPUs and GPUs convolve fastest.

    def __init__(
        self, shape: tuple[int, int], channels: tuple[int, ...], activation: str
    ) -> None:
        super().__init__()
        self.shape = shape
        self.features = math.prod(_grid(shape)) * channels[-1]
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise([1, *channels]):
            layers += [Conv(fan_in, fan_out, 3, 2, 1), ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers)

    def forward(self, values: Tensor) -> Tensor:
        pixels = math.prod(self.shape)
        image = values[:, :pixels].reshape(-1, *self.shape, 1).permute(0, 3, 1, 2)
        features = self.layers(image).permute(0, 2, 3, 1).flatten(1)  # a view
        return torch.cat([features, values[:, pixels:]], 1)


class ToImage(nn.Module):
    """Features (…, F) → logits (…, D), by transposed convolutions of stride 2."""

    # A side that is no multiple of 4 is made too long, and cut.

    def __init__(
        self, shape: tuple[int, int], channels: tuple[int, ...], activation: str
    ) -> None:
        super().__init__()
        self.shape, self.grid = shape, _grid(shape)
        first, second = channels
        self.layers = nn.Sequential(
            Transposed(second, first, 4, 2, 1),
            ACTIVATIONS[activation](),
            ToPixels(first),
        )
        self.bias = nn.Parameter(torch.zeros(math.prod(shape)))

    def forward(self, features: Tensor) -> Tensor:
        rows, columns = self.shape
        channels = features.shape[-1] // math.prod(self.grid)
        grid = features.reshape(-1, *self.grid, channels).permute(0, 3, 1, 2)
        image = self.layers(grid)[..., :rows, :columns]
        logits: Tensor = image.reshape(*features.shape[:-1], -1) + self.bias
        return logits


def _grid(shape: tuple[int, int]) -> tuple[int, int]:
    # Rows and columns of an image that has been halved, rounded up.
    rows, columns = (-(-side // 2**HALVINGS) for side in shape)
    return rows, columns


class Residual(nn.Module):
    """h + f(h) (He et al. 2016): what lies in front is reached past f, too."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.change = nn.Sequential(*layers)

    def forward(self, h: Tensor) -> Tensor:
        changed: Tensor = h + self.change(h)
        return changed


class Linear(nn.Linear):
    """nn.Linear without torch's initial weights: `draw_weights` has ours."""

    # `nn.utils.skip_init` does the same, but half a second of imports later.

    def reset_parameters(self) -> None:
        pass


class Conv(nn.Conv2d):
    """nn.Conv2d without initial weights."""

    def reset_parameters(self) -> None:
        pass


class Transposed(nn.ConvTranspose2d):
    """nn.ConvTranspose2d without initial weights."""

    def reset_parameters(self) -> None:
        pass


class ToPixels(Transposed):
    """A transposed convolution to one channel, twice as long on each side."""

    # On the CPU a matrix product whose patches are summed up: torch's own is slow there
    # with one channel to give.

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 1, 4, 2, 1, bias=False)

    def forward(self, grid: Tensor, output_size: list[int] | None = None) -> Tensor:
        if grid.is_cuda:
            return super().forward(grid, output_size)
        rows, columns = grid.shape[2:]
        patches = grid.permute(0, 2, 3, 1).flatten(1, 2) @ self.weight.flatten(1)
        return F.fold(patches.mT, (2 * rows, 2 * columns), 4, padding=1, stride=2)


_GLOBAL = threading.RLock()  # runs of a sweep may share a process


def stream(seed: int, name: str, device: torch.device | str = "cpu") -> torch.Generator:
    """The generator of one named stream; no two names or seeds share one."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    value = int.from_bytes(digest[:8], "big") >> 1
    return torch.Generator(device).manual_seed(value)


@contextlib.contextmanager
def seeded(stream: torch.Generator) -> Iterator[None]:
    """Let torch's own layers draw from `stream`: their weights, dropout's masks."""
    # They know one generator, the process's. It takes the stream's state, and
    # afterwards the stream takes its state and it has its own again.
    generator = torch.default_generator
    if stream.device.type == "cuda":
        generator = torch.cuda.default_generators[stream.device.index or 0]
    with _GLOBAL:
        kept = generator.get_state()
        generator.set_state(stream.get_state())
        try:
            yield
        finally:
            stream.set_state(generator.get_state())
            generator.set_state(kept)


def draw_weights(network: nn.Module, generator: torch.Generator) -> None:
    """Weights and biases from U(±1/√fan_in), torch's rule for linear layers."""
    for layer in network.modules():
        if isinstance(layer, (Linear, Conv, Transposed)):
            bound = 1 / math.sqrt(_fan_in(layer))
            for part in layer.parameters(recurse=False):
                nn.init.uniform_(part, -bound, bound, generator=generator)


def _fan_in(layer: Linear | Conv | Transposed) -> float:
    # How many numbers are summed up in one of the layer's outputs.
    if isinstance(layer, Transposed):  # each is reached by a quarter of the kernel
        return layer.weight[:, 0].numel() / math.prod(layer.stride)
    return layer.weight[0].numel()


def _mlp(widths: list[int], layers: Layers) -> nn.Sequential:
    # Linear layers with an activation between two; the last has none behind it.
    #
    # A layer between equal hidden widths can be residual, and normalises its input
    # then; any other normalises what its activation is given.
    made: list[nn.Module] = []
    normal = layers.normalisation == "layer"
    for fan_in, fan_out in itertools.pairwise(widths[:-1]):
        linear, activation = Linear(fan_in, fan_out), ACTIVATIONS[layers.activation]()
        norm = [nn.LayerNorm(fan_out)] if normal else []
        if layers.residual and made and fan_in == fan_out:
            made.append(Residual(*norm, linear, activation))
        else:
            made += [linear, *norm, activation]
    return nn.Sequential(*made, Linear(widths[-2], widths[-1]))

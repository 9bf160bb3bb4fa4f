"""Networks beside the same layers written down with torch's own classes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cvae.fast.gradient import AnalyticGradient
from cvae.likelihood import given_z
from cvae.model import CVAE
from cvae.objective import bernoulli_nll
from cvae.optimizer import Adam, Hyperparameters
from cvae.training import AutogradGradient
from tests.conftest import generator

# Counted by hand: channels in · kernel · channels out + channels out of a convolution,
# (inputs + 1) · outputs of a linear layer, one bias for each pixel at the end.
PARAMETERS: list[tuple[dict[str, Any], int]] = [
    # encoder: 320 + 18,496 + (3136 + 10 + 1) · 256 + 257 · 40 = 834,728;
    # decoder: 31 · 256 + 257 · 3136 + 32,800 + 512 + 784 = 847,984
    ({"latent_dim": 20, "hidden": (32, 64, 256)}, 1_682_712),
    # encoder: 40 + 148 + (4 · 49 + 1) · 2 = 582; decoder: 2 · 196 + 260 + 64 + 784
    ({"latent_dim": 1, "hidden": (4, 4), "conditional": False}, 582 + 1_500),
    # 5 × 9 becomes 2 × 3, 18 features; encoder: 20 + 57 + 29 · 4 = 193;
    # decoder: 13 · 18 + 98 + 32 + 45 = 409
    ({"latent_dim": 2, "hidden": (2, 3), "shape": (5, 9)}, 193 + 409),
]


def conv(**options: Any) -> CVAE:
    sizes: dict[str, Any] = {"latent_dim": 3, "hidden": (4, 5, 7), "shape": (10, 7)}
    return CVAE(**sizes | {"architecture": "conv"} | options, generator=generator())


@pytest.mark.parametrize(("options", "count"), PARAMETERS)
def test_parameter_counts_are_pinned(options: dict[str, Any], count: int) -> None:
    model = CVAE(architecture="conv", **options)
    assert sum(weight.numel() for weight in model.parameters()) == count


class Deep(nn.Module):
    """Layers of 6, 5, 5, 5 units by hand, on torch's functions and plain tensors."""

    def __init__(self, layers: nn.Sequential, *, residual: bool, norm: bool) -> None:
        super().__init__()
        self.residual, self.norm = residual, norm
        self.parts = [part.detach().clone() for part in layers.parameters()]

    def forward(self, h: Tensor) -> Tensor:
        parts = iter(self.parts)

        def linear(x: Tensor) -> Tensor:
            return x @ next(parts).T + next(parts)

        def normal(x: Tensor) -> Tensor:
            if not self.norm:
                return x
            mean, var = x.mean(-1, keepdim=True), x.var(-1, correction=0, keepdim=True)
            return (x - mean) / (var + 1e-5).sqrt() * next(parts) + next(parts)

        last = 0
        for width in (6, 5, 5, 5):
            if self.residual and width == last:
                h = h + torch.tanh(linear(normal(h)))
            else:
                h = torch.tanh(normal(linear(h)))
            last = width
        return linear(h)


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("normalisation", ["none", "layer"])
def test_residual_and_normalised_layers_are_what_they_say(
    residual: bool, normalisation: str
) -> None:
    kinds: dict[str, Any] = {"residual": residual, "normalisation": normalisation}
    model = conv(
        **{"architecture": "mlp", "hidden": (6, 5, 5, 5), "shape": (3, 4)},
        **{"activation": "tanh"} | kinds,
    ).double()
    with torch.no_grad():  # scales are not 1, shifts not 0
        for part in model.encoder.parameters():
            part.add_(0.1 * torch.randn(part.shape, generator=generator(2)))
    x = torch.rand(4, 22, generator=generator(1)).double()
    twin = Deep(model.encoder, residual=residual, norm=normalisation == "layer")
    torch.testing.assert_close(model.encoder(x), twin(x))
    count = 23 * 6 + 7 * 5 + 2 * 6 * 5 + 6 * 6 + (2 * (6 + 3 * 5) if twin.norm else 0)
    assert sum(part.numel() for part in twin.parts) == count
    assert AnalyticGradient.covers(model, samples=1) == (not residual and not twin.norm)


def test_the_likelihood_of_many_z_is_that_of_the_decoder() -> None:
    """Its first linear layer is taken apart, whatever lies behind it."""
    deep = {"hidden": (9, 9, 9), "residual": True, "normalisation": "layer"}
    for model in (conv(), conv(**deep | {"architecture": "mlp"})):
        random, y = generator(3), torch.arange(5)
        z, x = torch.randn(7, 5, 3, generator=random), torch.rand(5, 70)
        found = given_z(model, x, y)(z)
        wanted = -bernoulli_nll(model.decode(z, y), x)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)


def conv_twin(
    model: CVAE, parts: list[Tensor], x: Tensor, y: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """−log p(x|z,y) and KL of each image (B,) by torch's functions, in its usual order
    of memory. The decoder's last layer begins with the bias for each pixel."""
    (rows, columns), part = model.shape, iter(parts)
    label, h = F.one_hot(y, 10)[:, : model.classes].to(x), x.view(-1, 1, *model.shape)
    for _ in range(2):
        h = F.relu(F.conv2d(h, next(part), next(part), 2, 1))
    h = torch.cat([h.permute(0, 2, 3, 1).flatten(1), label], 1)
    h = F.relu(F.linear(h, next(part), next(part)))
    mu, logvar = F.linear(h, next(part), next(part)).chunk(2, 1)
    h = torch.cat([mu + (logvar / 2).exp() * noise, label], 1)
    for _ in range(2):
        h = F.relu(F.linear(h, next(part), next(part)))
    h = h.unflatten(1, (-(-rows // 4), -(-columns // 4), -1)).permute(0, 3, 1, 2)
    bias = next(part)
    h = F.relu(F.conv_transpose2d(h, next(part), next(part), 2, 1))
    image = F.conv_transpose2d(h, next(part), None, 2, 1)[:, 0, :rows, :columns]
    logits = image.flatten(1) + bias
    recon = F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)
    return recon, 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum(1)


@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("shape", [(28, 28), (10, 7), (1, 4)])
def test_the_conv_pair_is_its_twin_with_all_gradients(
    conditional: bool, shape: tuple[int, int]
) -> None:
    model = conv(conditional=conditional, shape=shape).double()
    model.start_from(torch.linspace(0, 1, model.pixels))
    Adam(model, Hyperparameters(epochs=1))
    parts = [part.detach().clone().requires_grad_() for part in model.parameters()]
    random = generator(1)
    x = torch.rand(6, model.pixels, generator=random).double()
    y, noise = torch.arange(6), torch.randn(6, 3, generator=random).double()
    beta = torch.tensor(0.7).double()
    sums = AutogradGradient(model)(x, y, noise[None], beta, x)
    recon, kl = conv_twin(model, parts, x, y, noise)
    loss = recon + 0.7 * kl
    torch.testing.assert_close(sums[:3], torch.stack([recon, kl, loss]).sum(1))
    loss.mean().backward()
    for part, other in zip(model.parameters(), parts, strict=True):
        assert other.grad is not None
        torch.testing.assert_close(part.grad, other.grad)

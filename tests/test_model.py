from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cvae.fast.gradient import AnalyticGradient
from cvae.model import CVAE, EDGE
from cvae.optimizer import Adam, Hyperparameters
from cvae.training import AutogradGradient
from tests.conftest import generator, linear

CONV = {"architecture": "conv"}
# Counted by hand: Σ (inputs + 1) · outputs over the layers, + 10 · 2Z if learned.
PARAMETERS: list[tuple[dict[str, Any], int]] = [
    ({"latent_dim": 2, "hidden": (512, 256)}, 1_076_500),
    ({"latent_dim": 1, "hidden": (512, 256)}, 1_075_730),
    ({"latent_dim": 20, "hidden": (400,), "conditional": False}, 652_824),
    ({"latent_dim": 2, "hidden": ()}, 13_372),
    ({"latent_dim": 2, "hidden": (), "conditional": False}, 5_492),
    ({"latent_dim": 2, "hidden": (512, 256), "prior": "learned"}, 1_076_540),
    ({"latent_dim": 2, "hidden": (512, 256), "prior": "mixture"}, 1_076_500),
    ({"latent_dim": 1, "hidden": (3,), "shape": (2, 2), "classes": 2}, 57),
    # A convolution: channels in · kernel · channels out + channels out; a linear layer:
    # (inputs + 1) · outputs; one bias for each pixel at the end.
    # encoder: 320 + 18,496 + (3136 + 10 + 1) · 256 + 257 · 40 = 834,728;
    # decoder: 31 · 256 + 257 · 3136 + 32,800 + 512 + 784 = 847,984
    ({**CONV, "latent_dim": 20, "hidden": (32, 64, 256)}, 1_682_712),
    # encoder: 40 + 148 + (4 · 49 + 1) · 2 = 582; decoder: 2 · 196 + 260 + 64 + 784
    ({**CONV, "latent_dim": 1, "hidden": (4, 4), "conditional": False}, 582 + 1_500),
    # 5 × 9 becomes 2 × 3, 18 features; encoder: 20 + 57 + 29 · 4 = 193;
    # decoder: 13 · 18 + 98 + 32 + 45 = 409
    ({**CONV, "latent_dim": 2, "hidden": (2, 3), "shape": (5, 9)}, 193 + 409),
]


def small(**options: Any) -> CVAE:
    sizes: dict[str, Any] = {"latent_dim": 2, "hidden": (6, 5), "shape": (3, 4)}
    return CVAE(**sizes | options, generator=generator())


@pytest.mark.parametrize(("options", "count"), PARAMETERS)
def test_parameter_counts_are_pinned(options: dict[str, Any], count: int) -> None:
    assert sum(weight.numel() for weight in CVAE(**options).parameters()) == count


def test_start_from_makes_a_silent_decoder_draw_the_mean_image() -> None:
    model, mean = small(hidden=()), torch.linspace(0, 1, 12)
    model.start_from(mean)
    drawn = torch.sigmoid(model.decode(torch.zeros(10, 2), torch.arange(10)))
    weight = model.state_dict()["decoder.0.weight"]
    bias = torch.logit(mean.clamp(EDGE, 1 - EDGE))
    torch.testing.assert_close(drawn, torch.sigmoid(bias + weight[:, 2:].T))
    with torch.no_grad():
        linear(model.decoder, 0).weight.zero_()
    drawn = torch.sigmoid(model.decode(torch.randn(1, 2), torch.zeros(1).long()))
    torch.testing.assert_close(drawn[0], mean.clamp(EDGE, 1 - EDGE))


def test_weights_begin_in_torchs_own_range() -> None:
    model = CVAE(latent_dim=2, hidden=(400,), generator=generator())
    for layer in (m for m in model.modules() if isinstance(m, nn.Linear)):
        bound = layer.in_features**-0.5
        for part in (layer.weight, layer.bias):
            assert part.detach().abs().max() <= bound
        # of a uniform distribution on ±bound
        spread = float(layer.weight.detach().std())
        assert spread == pytest.approx(bound / 3**0.5, rel=0.05)


def test_the_label_enters_both_halves_at_its_scale() -> None:
    model, large = small(), small(label_scale=4.0)
    with torch.no_grad():
        linear(model.encoder, 0).weight[:, -10:].mul_(4)
        linear(model.decoder, 0).weight[:, -10:].mul_(4)
    x, z, y = torch.rand(3, model.pixels), torch.randn(3, 2), torch.tensor([1, 7, 7])
    torch.testing.assert_close(large.encode(x, y), model.encode(x, y))
    torch.testing.assert_close(large.decode(z, y), model.decode(z, y))


def conv(**options: Any) -> CVAE:
    sizes: dict[str, Any] = {"latent_dim": 3, "hidden": (4, 5, 7), "shape": (10, 7)}
    return CVAE(**sizes | CONV | options, generator=generator())


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

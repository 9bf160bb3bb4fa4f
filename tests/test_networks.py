"""Networks beside the same layers written down with torch's own classes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cvae import evaluate, generate_conditional_samples, load_run
from cvae.__main__ import main
from cvae.engine import Epoch
from cvae.gradient import ByAutograd, ByHand
from cvae.model import CVAE, EDGE
from cvae.optimizer import Adam
from cvae.run import runner
from cvae.run.folder import RunFolder
from cvae.spec.document import dump
from tests.conftest import data_set, generator, spec, write

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


class Twin(nn.Module):
    """The pair of (4, 5, 7) in torch's layers and its usual order of memory."""

    def __init__(self, latent: int, classes: int, shape: tuple[int, int]) -> None:
        super().__init__()
        self.latent, self.classes, self.shape = latent, classes, shape
        rows, columns = (-(-side // 4) for side in shape)
        self.down = nn.Sequential(
            *(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU()),
            *(nn.Conv2d(4, 5, 3, 2, 1), nn.ReLU()),
        )
        features = 5 * rows * columns
        self.dense = nn.Sequential(
            nn.Linear(features + classes, 7), nn.ReLU(), nn.Linear(7, 2 * latent)
        )
        self.decoder = nn.Sequential(
            *(nn.Linear(latent + classes, 7), nn.ReLU()),
            *(nn.Linear(7, features), nn.ReLU()),
            nn.Unflatten(1, (rows, columns, 5)),
        )
        self.up = nn.Sequential(
            *(nn.ConvTranspose2d(5, 4, 4, 2, 1), nn.ReLU()),
            nn.ConvTranspose2d(4, 1, 4, 2, 1, bias=False),
        )
        self.bias = nn.Parameter(torch.empty(shape[0] * shape[1]))

    def take(self, model: CVAE) -> list[nn.Parameter]:
        """The weights of a CVAE; returns the own ones in its order."""
        layers = [*self.down, *self.dense, *self.decoder, *self.up]
        own = [part for layer in layers for part in layer.parameters()]
        # the decoder's last layer begins with its bias for each pixel
        own.insert(len(own) - 3, self.bias)
        with torch.no_grad():
            for mine, part in zip(own, model.parameters(), strict=True):
                mine.copy_(part)
        return own

    def forward(self, x: Tensor, y: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """−log p(x|z,y) and KL of each image."""
        label = F.one_hot(y, 10)[:, : self.classes].to(x)
        features = self.down(x.view(-1, 1, *self.shape)).permute(0, 2, 3, 1).flatten(1)
        mu, logvar = self.dense(torch.cat([features, label], 1)).chunk(2, 1)
        z = mu + (logvar / 2).exp() * noise
        grid = self.decoder(torch.cat([z, label], 1)).permute(0, 3, 1, 2)
        image = self.up(grid)[:, 0, : self.shape[0], : self.shape[1]]
        logits = image.flatten(1) + self.bias
        recon = F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)
        q = torch.distributions.Normal(mu, (logvar / 2).exp())
        p = torch.distributions.Normal(torch.zeros_like(mu), 1.0)
        return recon, torch.distributions.kl_divergence(q, p).sum(1)


@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("shape", [(28, 28), (10, 7), (1, 4)])
def test_the_conv_pair_is_its_twin_with_all_gradients(
    conditional: bool, shape: tuple[int, int]
) -> None:
    model = conv(conditional=conditional, shape=shape).double()
    model.start_from(torch.linspace(0, 1, model.pixels))
    Adam(model, spec())
    twin = Twin(3, model.classes, shape).double()
    weights = twin.take(model)
    random = generator(1)
    x = torch.rand(6, model.pixels, generator=random).double()
    y, noise = torch.arange(6), torch.randn(6, 3, generator=random).double()
    beta = torch.tensor(0.7).double()
    sums = ByAutograd(model, 6)(x, y, noise[None], beta, x)
    recon, kl = twin(x, y, noise)
    loss = recon + 0.7 * kl
    torch.testing.assert_close(sums[:3], torch.stack([recon, kl, loss]).sum(1))
    loss.mean().backward()
    for part, other in zip(model.parameters(), weights, strict=True):
        assert other.grad is not None
        torch.testing.assert_close(part.grad, other.grad)


def test_a_convolution_leaves_its_image_channels_last() -> None:
    model, seen = conv(), []
    for half in (model.encoder, model.decoder):
        for layer in half.modules():
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                layer.register_forward_hook(lambda *found: seen.append(found[-1]))
    model.decode(model.encode(torch.rand(2, 70), torch.arange(2))[0], torch.arange(2))
    channels_last = torch.channels_last
    assert [each.is_contiguous(memory_format=channels_last) for each in seen] == (
        4 * [True]
    )


def test_conv_decode_broadcasts_over_samples() -> None:
    model, z, y = conv(), torch.randn(3, 4, 5, 3), torch.arange(5)
    logits = model.decode(z, y)
    assert logits.shape == (3, 4, 5, 70)
    torch.testing.assert_close(logits[2, 1], model.decode(z[2, 1], y))


def test_a_silent_conv_decoder_draws_the_mean_image() -> None:
    model, mean = conv(), torch.linspace(0, 1, 70)
    with torch.no_grad():
        for part in model.decoder.parameters():
            part.zero_()
    model.start_from(mean)
    drawn = torch.sigmoid(model.decode(torch.randn(1, 3), torch.zeros(1).long()))
    torch.testing.assert_close(drawn[0], mean.clamp(EDGE, 1 - EDGE))


def test_drawn_convolutions_keep_the_size_of_their_inputs() -> None:
    # U(±1/√fan_in) makes of inputs of size 1 outputs of size √(1/3), bias aside
    model = conv(hidden=(64, 64, 16), shape=(28, 28), activation="tanh")
    layers = [
        layer
        for layer in model.modules()
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d))
    ]
    for layer in layers:
        x = torch.randn(8, layer.in_channels, 14, 14, generator=generator(1))
        inner = layer(x)[..., 2:-2, 2:-2]
        assert float(inner.detach().std()) == pytest.approx(3**-0.5, rel=0.3)


def test_convolutions_are_differentiated_by_autograd() -> None:
    assert not ByHand.covers(conv(), samples=1)


def test_a_conv_run_goes_on_to_the_same_bits_and_is_evaluated(tmp_path: Path) -> None:
    wanted = spec(
        **{"model.architecture": "conv", "model.hidden": [3, 4, 8]},
        **{"model.latent_dim": 3, "training.learning_rate": 0.01},
        **{"data.root": str(write(tmp_path / "data", data_set(120, 20)))},
        **{"data.validation_images": 20, "training.epochs": 3},
        **{"training.batch_size": 32, "training.device": "cpu"},
    )
    (tmp_path / "conv.yaml").write_text(dump(wanted))
    command = ["run", str(tmp_path / "conv.yaml"), "--offline", "--runs"]

    def stop(epochs: Iterator[Epoch], *rest: object) -> Iterator[Epoch]:
        yield next(epochs)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.run(wanted, runs=tmp_path / "cut", offline=True, show=stop)
    assert main([*command, str(tmp_path / "cut")]) == 0
    assert main([*command, str(tmp_path / "whole")]) == 0
    cut, whole = (
        RunFolder(tmp_path / runs / f"test-{wanted.id}") for runs in ("cut", "whole")
    )
    assert cut.weights.read_bytes() == whole.weights.read_bytes()
    assert cut.metrics["test/neg_elbo"] == whole.metrics["test/neg_elbo"]

    run = load_run(whole.path)
    x = torch.rand(5, 784, generator=generator())
    assert run.model.encode(x, torch.arange(5))[0].shape == (5, 3)
    found = evaluate(run, what="nll", importance_samples=20)
    assert found["test/nll_is20"] < whole.metrics["test/neg_elbo"]
    samples = generate_conditional_samples(3, 4, run, seed=0)
    assert samples.shape == (4, 784)
    assert run.folder.info["facts"]["parameters"] == sum(
        part.numel() for part in run.model.parameters()
    )

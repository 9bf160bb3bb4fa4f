from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cvae.model import CVAE, EDGE
from cvae.priors import Diagonal, Standard
from tests.conftest import generator, linear

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
]


def small(**options: Any) -> CVAE:
    sizes: dict[str, Any] = {"latent_dim": 2, "hidden": (6, 5), "shape": (3, 4)}
    return CVAE(**sizes | options, generator=generator())


@pytest.mark.parametrize(("options", "count"), PARAMETERS)
def test_parameter_counts_are_pinned(options: dict[str, Any], count: int) -> None:
    assert sum(weight.numel() for weight in CVAE(**options).parameters()) == count


def test_the_network_is_what_it_says() -> None:
    model, x, y = small(activation="tanh"), torch.rand(3, 12), torch.tensor([0, 9, 4])
    w = model.state_dict()
    h = torch.cat([x, F.one_hot(y, 10).float()], 1)
    h = torch.tanh(h @ w["encoder.0.weight"].T + w["encoder.0.bias"])
    h = torch.tanh(h @ w["encoder.2.weight"].T + w["encoder.2.bias"])
    q = h @ w["encoder.4.weight"].T + w["encoder.4.bias"]
    mu, logvar = model.encode(x, y)
    torch.testing.assert_close((mu, logvar), (q[:, :2], q[:, 2:]))


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


def test_a_learned_prior_starts_standard_and_differs_by_label() -> None:
    model = small(prior="learned")
    assert model.prior_table is not None
    assert isinstance(model.prior, Diagonal)
    found = model.prior.of(torch.arange(10))
    assert not any(part.any() for part in found)
    with torch.no_grad():
        model.prior_table.copy_(torch.arange(40.0).view(10, 4))
    found = model.prior.of(torch.tensor([3, 3, 0]))
    assert found[0].tolist() == [[12, 13], [12, 13], [0, 1]]
    assert found[1].tolist() == [[14, 15], [14, 15], [2, 3]]
    assert isinstance(small().prior, Standard)


def test_the_label_enters_both_halves_at_its_scale() -> None:
    model, large = small(), small(label_scale=4.0)
    with torch.no_grad():
        linear(model.encoder, 0).weight[:, -10:].mul_(4)
        linear(model.decoder, 0).weight[:, -10:].mul_(4)
    x, z, y = torch.rand(3, model.pixels), torch.randn(3, 2), torch.tensor([1, 7, 7])
    torch.testing.assert_close(large.encode(x, y), model.encode(x, y))
    torch.testing.assert_close(large.decode(z, y), model.decode(z, y))

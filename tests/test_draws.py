"""The z that digits are drawn from: normal, one a sample, scaled by the temperature."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from cvae.loading.loaded import LoadedRun, generate_conditional_samples
from tests.conftest import untrained_run


def drawn(
    run: LoadedRun, monkeypatch: pytest.MonkeyPatch, temperature: float = 1.0
) -> Tensor:
    """The z (N, Z) that 4,000 samples of digit 3 were decoded from."""
    seen, decode = list[Tensor](), run.model.decode

    def spy(z: Tensor, y: Tensor) -> Tensor:
        assert set(y.tolist()) == {3}
        seen.append(z.detach())
        return decode(z, y)

    with monkeypatch.context() as patch:
        patch.setattr(run.model, "decode", spy)
        generate_conditional_samples(3, 4000, run, seed=5, temperature=temperature)
    return torch.cat(seen)


def test_z_is_standard_normal_and_one_for_each_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    z = drawn(untrained_run(tmp_path, model__latent_dim=2), monkeypatch).double()
    assert z.shape == (4000, 2)
    assert len(z.unique(dim=0)) == 4000
    error = 5 / 4000**0.5  # five standard errors of a mean of standard normals
    assert z.mean(0).abs().max() < error
    assert (z.var(0) - 1).abs().max() < error * 2**0.5
    assert (z.pow(4).mean(0) - 3).abs().max() < error * 96**0.5
    assert (z.prod(1).mean()).abs() < error


@pytest.mark.parametrize("temperature", [0.0, 0.5, 3.0])
def test_temperature_is_the_standard_deviation_in_units_of_the_priors(
    temperature: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = untrained_run(tmp_path, model__latent_dim=2, model__prior="learned")
    with torch.no_grad():
        table = run.model.state_dict()["prior_table"]
        table.normal_(generator=torch.Generator().manual_seed(1))
    mu, logvar = table[3].chunk(2)
    one = drawn(run, monkeypatch)
    noise = (one - mu) / torch.exp(logvar / 2)
    assert (noise.std(0) - 1).abs().max() < 0.06
    scaled = drawn(run, monkeypatch, temperature)
    expected = mu + temperature * torch.exp(logvar / 2) * noise
    torch.testing.assert_close(scaled, expected, rtol=1e-4, atol=1e-4)

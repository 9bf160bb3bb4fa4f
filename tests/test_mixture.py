"""The mixture that is fitted after training: against data whose density is known."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor
from torch.distributions import (
    Categorical,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from cvae import likelihood, mixture, mnist
from cvae.loading.loaded import load_run
from cvae.mixture import Mixture
from cvae.run import checkpoint, recorder, runner, state
from cvae.spec.fields import Spec
from cvae.spec.identity import flatten
from tests.conftest import data_set, generator, spec, write

Z = 3


def known(seed: int) -> MixtureSameFamily:
    """Four overlapping Gaussians."""
    made = generator(seed)
    mu = 1.5 * torch.randn(4, Z, generator=made)
    factor = torch.randn(4, Z, Z, generator=made).tril(-1) * 0.4 + 0.7 * torch.eye(Z)
    weights = Categorical(torch.tensor([0.4, 0.3, 0.2, 0.1]))
    return MixtureSameFamily(weights, MultivariateNormal(mu, scale_tril=factor))


def drawn(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Latents of two labels, 3 and 8, each from a density of its own."""
    torch.manual_seed(seed)
    z = torch.cat([known(label).sample((count,)) for label in (3, 8)])
    return z, torch.tensor([3, 8]).repeat_interleave(count)


def test_the_fit_is_as_good_on_new_draws_as_the_truth_and_as_scikit_learns() -> None:
    (z, y), (new, new_y) = drawn(4000), drawn(4000, seed=1)
    prior = Mixture(mixture.fit(z, y, generator()))
    log_p = prior.log_density(new, new_y)
    for label in (3, 8):
        truth = known(label).log_prob(new[new_y == label]).mean()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it may not converge in so few rounds
            other = GaussianMixture(10, max_iter=20, random_state=0)
            other.fit(z[y == label].numpy())
        reference = float(np.mean(other.score_samples(new[new_y == label].numpy())))
        ours = float(log_p[new_y == label].mean())
        assert float(truth) - 0.03 < ours
        assert reference - 0.02 < ours


def test_a_label_without_images_has_the_standard_normal() -> None:
    prior = Mixture(mixture.fit(*drawn(200), generator(), classes=10))
    z, y = torch.randn(5, Z), torch.tensor([0, 1, 2, 7, 9])
    wanted = Normal(0.0, 1.0).log_prob(z).sum(1)
    torch.testing.assert_close(prior.log_density(z, y), wanted)


@pytest.mark.parametrize("count", [1, 2, 11])
def test_few_images_give_a_density_that_stays_wide(count: int) -> None:
    z, y = drawn(count)
    prior = Mixture(mixture.fit(z, y, generator()))
    assert prior.log_density(z, y).isfinite().all()
    assert (prior.log_density(z, y) < 5).all()  # no component sits on one image


@pytest.fixture
def made(tmp_path: Path) -> tuple[Spec, Path]:
    root = write(tmp_path / "data", data_set(2000, 300))
    one = spec(data__root=str(root), training__epochs=2, data__validation_images=200)
    return one, tmp_path / "runs"


@pytest.mark.parametrize(("ema", "words"), [(0.0, "last"), (0.9, "ema 0.9")])
def test_a_run_that_goes_on_after_its_fit_ends_with_the_same_mixture(
    made: tuple[Spec, Path], monkeypatch: pytest.MonkeyPatch, ema: float, words: str
) -> None:
    one, runs = spec(**flatten(made[0]) | {"training.ema": ema}), made[1]
    whole = load_run(runner.run(one, runs=runs / "whole", offline=True).path).model
    with monkeypatch.context() as patch:
        patch.setattr(recorder.Recorder, "finish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            runner.run(one, runs=runs / "parts", offline=True)
    folder = runner.run(one, runs=runs / "parts", offline=True)
    resumed = load_run(folder.path).model
    assert whole.prior_table is not None
    assert resumed.prior_table is not None
    assert torch.equal(resumed.prior_table, whole.prior_table)
    assert all(map(torch.equal, resumed.parameters(), whole.parameters()))
    assert {line["weights"] for line in folder.records()} == {words}
    kept, _ = checkpoint.load(folder.checkpoint)
    saved = whole.state_dict()["decoder.0.bias"]
    assert torch.equal(kept["model.decoder.0.bias"], saved) == (not ema)
    # fitted to the weights that are saved
    train = mnist.load_mnist(one.data.root, validation_images=200).train
    random = state.stream(one.training.seed, "prior")
    z = likelihood.posterior_draws(whole, train, random)
    torch.testing.assert_close(
        whole.prior_table, mixture.fit(z, train.labels, random), rtol=1e-4, atol=1e-4
    )


def interrupted(*arguments: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("binarize", "corrupt"), [("none", 0.0), ("dynamic", 0.0), ("none", 0.3)]
)
def test_it_is_fitted_to_binarised_and_corrupted_images_where_the_run_has_them(
    tmp_path: Path, binarize: str, corrupt: float
) -> None:
    root = write(tmp_path / "data", data_set(200, 50))
    data = mnist.load_mnist(root, binarize=binarize)
    wanted = spec(
        **{"data.root": str(root), "data.binarize": binarize, "data.corrupt": corrupt},
        **{"model.prior": "mixture", "model.hidden": [8], "training.seed": 3},
    )
    made = state.assemble(wanted, data, torch.device("cpu"))
    state.fit_prior(made, data.train, wanted)
    fitted = made.model.state_dict()["prior_table"]

    def by_hand(*, drawn: bool, noise: float) -> torch.Tensor:
        generator = state.stream(3, "prior")
        images = mnist.draw_pixels(data.train, generator) if drawn else data.train
        z = likelihood.posterior_draws(made.model, images, generator, corrupt=noise)
        return mixture.fit(z, images.labels, generator, classes=10)

    drawn = binarize == "dynamic"
    assert torch.equal(fitted, by_hand(drawn=drawn, noise=corrupt))
    assert not torch.equal(fitted, by_hand(drawn=not drawn, noise=corrupt))
    assert not torch.equal(fitted, by_hand(drawn=drawn, noise=0.3 - corrupt))
    assert torch.equal(fitted, made.trained.state_dict()["prior_table"])

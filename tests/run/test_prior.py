"""The mixture p(z given y) is fitted to z of the images as they are trained on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cvae import likelihood, mixture, mnist
from cvae.run import state
from tests.conftest import data_set, spec, write


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

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from cvae import mnist
from cvae.evaluation.quadrature import integrate
from cvae.model import CVAE
from cvae.run import exact
from cvae.run.exact import GridGradient, log_likelihood
from cvae.run.published import RESULTS, Published, Results
from cvae.run.state import assemble
from cvae.training import AutogradGradient
from tests.conftest import linear, spec
from tests.evaluation.made import images, model

CPU = torch.device("cpu")
STILL = torch.zeros(2)
PUBLISHED = "seed-notebook-67d5e32f"


def by_label(
    made: CVAE, data: mnist.Images, points: int, shift: Tensor = STILL
) -> Tensor:
    """log p(x|y) of all images by the grid, (N,)."""
    found = torch.empty(len(data))
    for label in data.labels.unique():
        here = data.labels == label
        x = mnist.pixels(data.images[here])
        with torch.no_grad():
            found[here] = log_likelihood(made, x, label, points=points, shift=shift)
    return found


@pytest.mark.parametrize("prior", ["standard", "learned", "flow"])
def test_it_is_the_quadrature_of_the_evaluation(prior: str) -> None:
    """To what the prior has outside of the grid, 0.06 % on average."""
    made, data = model(2, prior=prior, scale=1.5), images(4, grey=True)
    truth = integrate(made, data, coarse=3)
    found = by_label(made, data, 88).double()
    torch.testing.assert_close(found, truth.log_p, rtol=0, atol=5e-3)


def test_a_shifted_grid_errs_as_the_trapezoidal_rule_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """p̂/p is ∏ 1 + 2 exp(−2π²/h²) cos(2π shift) where the posterior is N(0, I)."""
    monkeypatch.setattr(exact, "RADIUS", 9.0)
    made, data = model(2, prior="standard"), images(10, grey=True)
    with torch.no_grad():
        linear(made.decoder, 0).weight[:, :2] = 0  # z has no part in the image
    fine = by_label(made, data, 88)
    points = 10
    wave = 2 * math.exp(-2 * (math.pi * points / (2 * exact.RADIUS)) ** 2)
    for shift in (0.0, 0.25, 0.5, 0.75):
        # the grid itself begins half a distance from the middle
        factor = 1 + wave * math.cos(2 * math.pi * (shift + 0.5))
        coarse = by_label(made, data, points, torch.tensor([shift, 0.5]))
        expected = fine + math.log(factor) + math.log(1 + wave)
        torch.testing.assert_close(coarse, expected, rtol=0, atol=2e-4)
    shifted = by_label(made, data, 88, torch.tensor([0.3, 0.9]))
    torch.testing.assert_close(shifted, fine, rtol=0, atol=1e-4)


def gradients(made: CVAE, gradient: Any, *arguments: Any) -> dict[str, Tensor]:
    for part in made.parameters():
        part.grad = torch.zeros_like(part)
    gradient(made)(*arguments)
    return {n: p.grad.clone() for n, p in made.named_parameters() if p.grad is not None}


def test_the_decoder_learns_from_the_likelihood_and_the_encoder_from_the_bound() -> (
    None
):
    made, data = model(2, prior="learned", scale=1.5), images(12, grey=True)
    x, y, noise = mnist.pixels(data.images), data.labels, torch.randn(1, 12, 2)
    known = x, y, noise, torch.tensor(1.0), x
    found = gradients(made, lambda m: GridGradient(m, points=30), *known)
    of_bound = gradients(made, AutogradGradient, *known)
    shift, total = noise[0, 0].remainder(1), torch.zeros(())
    for label in y.unique():
        seen = x[y == label]
        total = total - log_likelihood(made, seen, label, points=30, shift=shift).sum()
    names = [name for name, _ in made.named_parameters()]
    slopes = torch.autograd.grad(total / 12, list(made.parameters()), allow_unused=True)
    for name, slope in zip(names, slopes, strict=True):
        of_encoder = name.startswith("encoder")
        assert (slope is None) == of_encoder
        torch.testing.assert_close(
            found[name], of_bound[name] if of_encoder else slope, rtol=1e-4, atol=1e-6
        )


def test_a_run_starts_from_published_weights_and_its_id_holds_their_digest(
    tiny: mnist.MNIST,
) -> None:
    like = {"model__prior": "standard", "model__label_scale": 1.0}
    small = mnist.MNIST(tiny.train, tiny.validation, tiny.test, (28, 28), tiny.sha256)
    digest = str(Published(Results(RESULTS), PUBLISHED).digest)
    made = spec(**like, training__start_from=f"{PUBLISHED}@{digest[:8]}")
    weights = assemble(made, small, CPU).model.state_dict()
    again = spec(**like, training__start_from=f"{PUBLISHED}@{digest[:12]}")
    torch.testing.assert_close(weights, assemble(again, small, CPU).model.state_dict())
    plain = assemble(spec(**like), small, CPU).model.state_dict()
    assert not torch.equal(weights["decoder.0.weight"], plain["decoder.0.weight"])
    assert len({made.id, spec(**like).id}) == 2

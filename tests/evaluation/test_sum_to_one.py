"""Is it a likelihood? Probabilities sum to 1, and no image's depends on another's.

docs/sums_to_one.md asks the same of any repository. Each check finds a planted fault:
batch normalisation that stays in training mode, a pixel that reaches its own logit.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from cvae import likelihood, mnist
from cvae.evaluation.quadrature import integrate
from cvae.model import CVAE
from cvae.objective import bernoulli_nll
from tests.conftest import generator
from tests.evaluation.made import model

SIDE = 3  # 2⁹ = 512 images are all there are
ALL = torch.tensor(list(itertools.product((0, 255), repeat=SIDE**2)), dtype=torch.uint8)


class BatchNormalised(CVAE):
    """The fault: logits that depend on the other images of the batch."""

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        logits = super().decode(z, y)
        every = tuple(range(logits.dim() - 1))
        return (logits - logits.mean(every)) / (1 + logits.std(every)) + 0.3


class Leaking(CVAE):
    """The fault: each image's first pixel reaches its own logit past z."""

    seen: Tensor

    def encode(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        self.seen = x[:, 0]
        return super().encode(x, y)

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        logits = super().decode(z, y).clone()
        if hasattr(self, "seen") and logits.shape[-2] == len(self.seen):
            logits[..., 0] += 6 * (self.seen - 0.5)
        return logits


def made(fault: type[CVAE] | None = None) -> CVAE:
    one = model(1, shape=(SIDE, SIDE), hidden=(6,)).eval()
    if fault:
        one.__class__ = fault
    return one


def images(label: int) -> mnist.Images:
    return mnist.Images(ALL, torch.full((len(ALL),), label))


@pytest.mark.parametrize("label", [0, 7])
def test_the_probabilities_of_all_images_sum_to_one(label: int) -> None:
    log_p = integrate(made(), images(label)).log_p
    assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-5)


def test_the_mean_of_the_estimate_is_the_probability() -> None:
    """p̂ with K = 5 draws is unbiased: its mean over 4,000 repetitions is p."""
    one, data = made(), images(3)
    truth = integrate(one, data).log_p.exp()
    draws = [
        torch.cat(list(likelihood.log_weights(one, data, generator(s), samples=400)), 1)
        for s in range(50)
    ]
    weights = torch.cat(draws).double().exp()  # (20,000, 512)
    groups = weights.view(-1, 5, len(ALL)).mean(1)
    apart = (groups.mean(0) / truth - 1).abs()
    assert float(apart.quantile(0.9)) < 0.05  # the rarest draws weigh the most
    assert float(groups.mean(0).sum()) == pytest.approx(1, abs=0.02)


def log_p_of_rows(one: CVAE, rows: Tensor) -> Tensor:
    """log p̂ (n,) of some images; the noise of each is its own, whatever the batch."""
    x = mnist.pixels(ALL[rows]).to(next(one.parameters()).dtype)
    noise = torch.randn(20, len(ALL), 1, generator=generator(9))[:, rows].to(x)
    y = torch.zeros_like(rows)
    with torch.no_grad():
        mu, logvar = one.encode(x, y)
        z = mu + (0.5 * logvar).exp() * noise
        q = torch.distributions.Normal(mu, (0.5 * logvar).exp())
        log_w = -bernoulli_nll(one.decode(z, y), x) + one.prior.log_density(z, y)
        return torch.logsumexp(log_w - q.log_prob(z).sum(-1), 0)


def apart_by_batch(one: CVAE) -> float:
    """The largest difference between an image alone, in order, and shuffled."""
    order = torch.randperm(len(ALL), generator=generator(1))
    whole = log_p_of_rows(one, torch.arange(len(ALL)))
    shuffled = torch.cat([log_p_of_rows(one, part) for part in order.split(100)])
    alone = log_p_of_rows(one, torch.tensor([17]))[0]
    return max(
        float((shuffled - whole[order]).abs().max()), float((alone - whole[17]).abs())
    )


@pytest.mark.parametrize(("double", "allowed"), [(True, 1e-8), (False, 1e-4)])
def test_log_p_depends_on_neither_batch_nor_order(double: bool, allowed: float) -> None:
    one = made().double() if double else made()
    assert apart_by_batch(one) < allowed
    assert apart_by_batch(made(BatchNormalised)) > 0.01  # the planted fault is found


def leak(one: CVAE) -> float:
    """How much a pixel changes its own logit at a fixed z: the largest change."""
    x, y = mnist.pixels(ALL), torch.zeros(len(ALL), dtype=torch.int64)
    z = torch.randn(1, len(ALL), 1, generator=generator(2))
    with torch.no_grad():
        one.encode(x, y)
        before = one.decode(z, y)
        one.encode(1 - x, y)
        return float((one.decode(z, y) - before).abs().max())


def test_no_pixel_reaches_its_own_logit_but_through_z_and_a_leaked_one_is_found() -> (
    None
):
    assert leak(made()) == 0
    assert leak(made(Leaking)) > 1
    log_p = log_p_of_rows(made(Leaking), torch.arange(len(ALL))) - math.log(20)
    honest = log_p_of_rows(made(), torch.arange(len(ALL))) - math.log(20)
    assert float(honest.exp().sum()) == pytest.approx(1, abs=0.1)
    assert float(log_p.exp().sum()) > 1.4  # the probabilities sum to more than 1


def test_torch_s_own_batch_normalisation_is_off_in_evaluation() -> None:
    """A decoder with nn.BatchNorm1d: `model.eval()` is what makes it a likelihood."""
    one = made()
    one.decoder = nn.Sequential(
        one.decoder[0], nn.ReLU(), Normalised(6), one.decoder[-1]
    )
    assert apart_by_batch(one.eval()) < 1e-4
    assert apart_by_batch(one.train()) > 0.01


class Normalised(nn.BatchNorm1d):
    """Batch normalisation of (…, H)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, -2)).view(x.shape)


def test_log_p_is_convex_in_the_pixels() -> None:
    """So grey −log p is an upper bound of the mean over binarised pixels.

    log p(x given y) = log ∫ exp(Σ x·l(z) − softplus(l(z))) p(z given y) dz is the
    logarithm of a sum of exponentials of functions linear in x. With b ~ Bernoulli(x),
    Jensen gives log p(x) ≤ E log p(b). But grey pixels have no likelihood on [0, 1]:
    p is not normalised there (Loaiza-Ganem and Cunningham 2019).
    """
    one, random = made(), generator(3)
    grey = torch.randint(256, (4, SIDE**2), generator=random, dtype=torch.uint8)
    y = torch.arange(4)
    share = mnist.pixels(grey)
    black_and_white = mnist.pixels(ALL)  # (512, D)
    chance = torch.where(black_and_white > 0, share[:, None], 1 - share[:, None])
    chance = chance.double().prod(-1)  # of each of the 512 given the grey image
    of_grey = integrate(one, mnist.Images(grey, y)).log_p
    for at in range(4):
        of_binary = integrate(one, images(int(y[at]))).log_p
        assert float(of_grey[at]) <= float((chance[at] * of_binary).sum()) + 1e-6
    ends = torch.randint(256, (2, SIDE**2), generator=random, dtype=torch.uint8)
    ends -= ends % 2
    middle = ((ends[0].int() + ends[1].int()) // 2).to(torch.uint8)
    three = mnist.Images(
        torch.stack([*ends, middle]), torch.zeros(3, dtype=torch.int64)
    )
    log_p = integrate(one, three).log_p
    assert float(log_p[2]) <= float(log_p[:2].mean()) + 1e-6

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from cvae import likelihood, mnist
from cvae.model import CVAE
from tests.conftest import generator, linear
from tests.evaluation.made import PIXELS, exact_by_label, images, model

# -- bound -----------------------------------------------------------------------------


@pytest.mark.parametrize("prior", ["standard", "learned"])
def test_the_bound_is_a_plain_recomputation_image_by_image(
    prior: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(likelihood, "CHUNK", 60)
    made, data, random = model(2, prior=prior), images(130), generator(7)
    noise = torch.cat([torch.randn(3, n, 2, generator=random) for n in (60, 60, 10)], 1)
    recons, kls, bounds, means = [], [], [], []
    for i, x in enumerate(data.images / 255):
        y = data.labels[i : i + 1]
        mu, logvar = (part.detach()[0] for part in made.encode(x[None], y))
        q, p = Normal(mu, torch.exp(logvar / 2)), Normal(torch.zeros(2), 1.0)
        if made.prior_table is not None:
            learned = made.prior_table.detach()[y[0]]
            p = Normal(learned[:2], torch.exp(learned[2:] / 2))
        z = mu + q.scale * noise[:, i]
        logits = made.decode(z[:, None], y)[:, 0].detach()
        recon = -Bernoulli(logits=logits).log_prob(x).sum(-1)
        ratio = (q.log_prob(z) - p.log_prob(z)).sum(-1)
        recons.append(float(recon.mean()))
        kls.append(float(kl_divergence(q, p).sum()))
        bounds.append(float(np.log(np.exp(-(recon + 0.5 * ratio).numpy()).mean())))
        means.append(mu)
    found = likelihood.bound(made, data, generator(7), beta=0.5, samples=3)
    assert found["recon"] == pytest.approx(np.mean(recons), rel=1e-5)
    assert found["kl"] == pytest.approx(np.mean(kls), rel=1e-5)
    assert found["neg_elbo"] == found["recon"] + found["kl"]
    assert found["loss"] == pytest.approx(-np.mean(bounds), rel=1e-5)
    variance = torch.stack(means).var(0, correction=0)
    assert found["active_units"] == int((variance > 0.01).sum())


def test_only_the_encoders_input_is_corrupted() -> None:
    data = images(50, grey=True)
    ((x, target, _),) = likelihood.chunks(model(2), data, generator(), corrupt=0.5)
    assert torch.equal(target, data.images / 255)
    share = float((x != target).double().mean())
    assert 0.4 < share < 0.6
    assert set(x[x != target].tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(("variance", "active"), [(0.0098, 0), (0.0102, 1)])
def test_a_unit_is_active_if_its_variance_over_all_images_exceeds_a_hundredth(
    variance: float, active: int
) -> None:
    """Means of ± √variance, half of the images each; n − 1 would make 0.0098 of four
    images 0.0131.
    """
    made = CVAE(latent_dim=1, hidden=(), shape=(1, PIXELS), generator=generator())
    with torch.no_grad():
        for part in made.parameters():
            part.zero_()
        reads_label = linear(made.encoder, 0).weight[0, PIXELS:]
        reads_label[:2] = variance**0.5 * torch.tensor([-1.0, 1.0])
    data = mnist.Images(images(4).images, torch.tensor([0, 1, 0, 1]))
    assert likelihood.bound(made, data, generator())["active_units"] == active


# -- nll -------------------------------------------------------------------------------


def test_nll_counts_every_sample_of_every_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, data, counts = model(1), images(60), list[int]()
    whole = likelihood.importance_nll(made, data, generator(), samples=4000)
    linear(made.decoder, -1).register_forward_hook(
        lambda _, __, logits: counts.append(len(logits))
    )

    monkeypatch.setattr(likelihood, "DECODED", 60 * 150)
    parts = likelihood.importance_nll(made, data, generator(), samples=4000)
    assert sum(counts) == 4000
    assert max(counts) == 150
    assert parts == pytest.approx(whole, abs=0.03)


# -- labels ----------------------------------------------------------------------------


def test_label_posterior_is_bayes_rule_on_the_integrals() -> None:
    made, data = model(1, prior="learned"), images(40)
    joint = exact_by_label(made, data) - np.log(10)
    evidence = torch.logsumexp(joint, 1)
    logs = likelihood.label_likelihoods(made, data, generator(), samples=5000)
    posterior, nll = logs.log_softmax(1), -float(likelihood.log_evidence(logs).mean())
    assert posterior.shape == (40, 10)
    error = (posterior.exp() - torch.exp(joint - evidence[:, None])).abs()
    assert error.max() < 0.05
    assert error.mean() < 0.003
    assert nll == pytest.approx(-float(evidence.mean()), abs=0.02)

"""Every figure that a run records, recomputed from its weights and the IDX files.

Nothing of cvae computes here: images are read with numpy, densities are those of
torch.distributions, and the rules (which image, which noise, which β) are spelled out.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence

from cvae import classifier, control, mnist
from cvae.loading.loaded import load_run
from cvae.run import classifiers, runner
from cvae.run.folder import RunFolder
from tests.conftest import data_set, spec, write

TRAIN, HELD_BACK, TEST, BATCH, EPOCHS, SEED = 250, 50, 100, 64, 3, 11
STEPS = 4  # an epoch: 250 images by 64
BETA, WARMUP, CORRUPT = 0.5, 2, 0.2
K, NLL_K, LABEL_K = 2, 5, 3
LATENT, FROZEN, LABEL_SCALE, EDGE = 3, 1e-30, 4, 0.005
Figures = dict[str, float]


def stream(name: str, seed: int = SEED) -> torch.Generator:
    """The generator of a named stream, as the design documents it."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


class Split(NamedTuple):
    """Pixels in [0, 1] and labels, as whoever reads the design would prepare them."""

    x: Tensor
    y: Tensor


def splits(files: dict[str, bytes]) -> dict[str, Split]:
    """Training, validation and test images; 20140214 shuffles, 20150901 binarises."""

    def read(split: str) -> tuple[Tensor, Tensor]:
        images = np.frombuffer(files[f"{split}-images-idx3-ubyte"][16:], np.uint8)
        labels = np.frombuffer(files[f"{split}-labels-idx1-ubyte"][8:], np.uint8)
        grey = images.reshape(-1, 784).astype(np.float32) / 255
        return torch.tensor(grey), torch.tensor(labels.astype(np.int64))

    (x, y), (test_x, test_y) = read("train"), read("t10k")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(20140214))
    train, held_back = order[:TRAIN], order[-HELD_BACK:]
    binarize = torch.Generator().manual_seed(20150901)
    drawn = [
        torch.bernoulli(part, generator=binarize) for part in (x[held_back], test_x)
    ]
    return {
        "train": Split(x[train], y[train]),
        "val": Split(drawn[0], y[held_back]),
        "test": Split(drawn[1], test_y),
    }


def noisy(x: Tensor, generator: torch.Generator) -> Tensor:
    """Salt and pepper: a tenth of the pixels white, a tenth black."""
    u = torch.rand(x.shape, generator=generator)
    return torch.where(u < CORRUPT / 2, 1.0, torch.where(u >= 1 - CORRUPT / 2, 0.0, x))


class Oracle:
    """The model of design.md on plain tensors of a safetensors file."""

    def __init__(self, weights: Path) -> None:
        self.w = safetensors.torch.load_file(weights)

    def network(self, part: str, values: Tensor, y: Tensor) -> Tensor:
        one_hot = LABEL_SCALE * torch.eye(10)[y].expand(*values.shape[:-1], 10)
        w, hidden = self.w, torch.cat([values, one_hot], -1)
        hidden = torch.relu(hidden @ w[f"{part}.0.weight"].T + w[f"{part}.0.bias"])
        result: Tensor = hidden @ w[f"{part}.2.weight"].T + w[f"{part}.2.bias"]
        return result

    def posterior(self, x: Tensor, y: Tensor) -> Any:
        mu, logvar = self.network("encoder", x, y).chunk(2, -1)
        return Independent(Normal(mu, torch.exp(logvar / 2)), 1)

    def prior(self, y: Tensor) -> Any:
        mu, logvar = self.w["prior_table"][y].chunk(2, -1)
        return Independent(Normal(mu, torch.exp(logvar / 2)), 1)

    def likelihood(self, z: Tensor, y: Tensor) -> Any:
        return Independent(Bernoulli(logits=self.network("decoder", z, y)), 1)

    def terms(
        self, x: Tensor, target: Tensor, y: Tensor, noise: Tensor
    ) -> list[Tensor]:
        """recon (N,), kl (N,), log q − log p (K, N), −log p(x given z) (K, N), mu."""
        q, p = self.posterior(x, y), self.prior(y)
        z = q.mean + q.stddev * noise
        recon = -self.likelihood(z, y).log_prob(target)
        ratio = q.log_prob(z) - p.log_prob(z)
        return [recon.mean(0), kl_divergence(q, p), ratio, recon, q.mean]

    def bound(self, part: Split, beta: float) -> Figures:
        random = stream("evaluate")
        x = noisy(part.x, random)
        noise = torch.randn(K, len(x), LATENT, generator=random)
        return figures([self.terms(x, part.x, part.y, noise)], beta)

    def log_likelihood(
        self, x: Tensor, part: Split, y: Tensor, k: int, random: torch.Generator
    ) -> Tensor:
        noise = torch.randn(k, len(x), LATENT, generator=random)
        _, _, ratio, recon, _ = self.terms(x, part.x, y, noise)
        return torch.logsumexp(-recon - ratio, 0) - math.log(k)

    def nll(self, part: Split, k: int) -> float:
        random = stream("evaluate")
        x = noisy(part.x, random)
        return -float(self.log_likelihood(x, part, part.y, k, random).mean())

    def labels(self, part: Split, k: int) -> tuple[float, float]:
        """The share of right labels by Bayes' rule, and −log p(x)."""
        random = stream("evaluate")
        x = noisy(part.x, random)
        joint = torch.stack(
            [
                self.log_likelihood(x, part, torch.full_like(part.y, y), k, random)
                for y in range(10)
            ],
            1,
        )
        right = (joint.argmax(1) == part.y).double().mean()
        return float(right), -float((joint.logsumexp(1) - math.log(10)).mean())


def figures(batches: list[list[Tensor]], beta: float) -> Figures:
    """Means over all images; loss is the K-sample bound with its ratio scaled by β."""
    recon = torch.cat([batch[0] for batch in batches])
    kl = torch.cat([batch[1] for batch in batches])
    bounds = [
        torch.logsumexp(-recon_k - beta * ratio, 0) - math.log(K)
        for _, _, ratio, recon_k, _ in batches
    ]
    mu = torch.cat([batch[4] for batch in batches])
    return {
        "recon": float(recon.mean()),
        "kl": float(kl.mean()),
        "neg_elbo": float(recon.mean() + kl.mean()),
        "loss": -float(torch.cat(bounds).mean()),
        "active_units": int((mu.var(0, correction=0) > 0.01).sum()),
    }


@pytest.fixture(scope="module", params=[1e-2, FROZEN], ids=["trained", "frozen"])
def recorded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunFolder, float]:
    place = tmp_path_factory.mktemp("recorded")
    wanted = spec(
        **{"data.root": str(write(place / "data", data_set(300, TEST)))},
        **{"data.validation_images": HELD_BACK, "data.binarize": "dynamic"},
        **{"data.corrupt": CORRUPT, "model.prior": "learned"},
        **{"model.hidden": [16], "model.latent_dim": LATENT},
        **{"objective.beta": BETA, "objective.warmup_epochs": WARMUP},
        **{"objective.importance_samples": K, "training.learning_rate": request.param},
        **{"training.schedule": "linear", "training.batch_size": BATCH},
        **{"training.epochs": EPOCHS, "training.seed": SEED, "training.device": "cpu"},
        **{"evaluation.importance_samples": NLL_K, "evaluation.label_samples": LABEL_K},
    )
    return runner.run(wanted, runs=place / "runs", offline=True), request.param


def of(metrics: Figures, part: str) -> Figures:
    prefix = f"{part}/"
    return {k[len(prefix) :]: v for k, v in metrics.items() if k.startswith(prefix)}


def close(wanted: Figures) -> Any:
    return pytest.approx(wanted, rel=2e-5)


def test_validation_figures_are_those_of_the_validation_images(
    recorded: tuple[RunFolder, float],
) -> None:
    folder, _ = recorded
    part = splits(data_set(300, TEST))["val"]
    last = of(folder.records()[EPOCHS - 1]["metrics"], "val")
    assert last == close(Oracle(folder.weights).bound(part, BETA))


def test_test_figures_are_those_of_the_test_images_and_all_that_were_asked_for(
    recorded: tuple[RunFolder, float],
) -> None:
    folder, _ = recorded
    part, oracle = splits(data_set(300, TEST))["test"], Oracle(folder.weights)
    accuracy, marginal = oracle.labels(part, LABEL_K)
    wanted = oracle.bound(part, BETA) | {
        f"nll_is{NLL_K}": oracle.nll(part, NLL_K),
        f"label_accuracy_is{LABEL_K}": accuracy,
        f"marginal_nll_is{LABEL_K}": marginal,
    }
    assert of(folder.records()[-1]["metrics"], "test") == close(wanted)
    assert len(folder.records()) == EPOCHS + 1


def test_training_figures_are_means_over_the_training_images(
    recorded: tuple[RunFolder, float],
) -> None:
    """With weights that do not move, every epoch can be recomputed from the last."""
    folder, rate = recorded
    part, oracle = splits(data_set(300, TEST))["train"], Oracle(folder.weights)
    streams = {n: stream(n) for n in ("shuffle", "noise", "binarize", "corrupt")}
    for epoch in range(1, EPOCHS + 1):
        batches, bounds = [], []
        for step, rows in enumerate(
            torch.randperm(TRAIN, generator=streams["shuffle"]).split(BATCH)
        ):
            target = torch.bernoulli(part.x[rows], generator=streams["binarize"])
            x, y = noisy(target, streams["corrupt"]), part.y[rows]
            noise = torch.empty(K, len(x), LATENT).normal_(generator=streams["noise"])
            batches.append(oracle.terms(x, target, y, noise))
            at = (epoch - 1) * STEPS + step
            beta = min(1.0, at / (WARMUP * STEPS)) * BETA
            bounds.append(figures(batches[-1:], beta)["loss"] * len(x))
        wanted = figures(batches, BETA) | {"loss": sum(bounds) / TRAIN}
        found = of(folder.records()[epoch - 1]["metrics"], "train")
        if rate == FROZEN:
            assert {key: found[key] for key in wanted} == close(wanted)
        assert found.keys() - wanted.keys() == {"learning_rate", "beta"}
    if rate == FROZEN:  # as it began: drawing the mean of the training images
        mean = part.x.mean(0).clamp(EDGE, 1 - EDGE)
        torch.testing.assert_close(oracle.w["decoder.2.bias"], torch.logit(mean))


def test_beta_and_learning_rate_are_those_of_the_epochs_last_step(
    recorded: tuple[RunFolder, float],
) -> None:
    folder, peak = recorded
    total = EPOCHS * STEPS
    for epoch, record in enumerate(folder.records()[:EPOCHS], 1):
        last = epoch * STEPS - 1
        beta = min(1.0, last / (WARMUP * STEPS)) * BETA
        turn = 0.15 * total
        rate = peak * (total - last) / (total - turn)  # each last step is past the turn
        assert (record["epoch"], record["step"]) == (epoch, last + 1)
        assert record["metrics"]["train/beta"] == pytest.approx(beta, rel=1e-6)
        assert record["metrics"]["train/learning_rate"] == pytest.approx(rate, rel=1e-6)


def test_control_is_that_of_the_split_with_the_same_noise_for_every_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On validation images with pictures, on test images at the end; of any seed."""
    root = write(tmp_path / "data", data_set(300, 110))
    data = mnist.load_mnist(root, validation_images=150)
    reads, record = (
        classifier.Classifier(),
        {"digest": data.digest, "test_accuracy": 0.75},
    )
    monkeypatch.setattr(classifiers, "published", lambda: (reads.eval(), record))
    wanted = spec(
        **{"data.root": str(root), "data.validation_images": 150},
        **{"model.hidden": [16], "tracking.images_every": 2, "training.epochs": 3},
        **{"training.seed": SEED, "training.device": "cpu"},
    )
    folder = runner.run(wanted, runs=tmp_path / "runs", offline=True)
    first, second, third, last = (line["metrics"] for line in folder.records())
    model = load_run(folder.path).model

    def figures(part: mnist.Images) -> Figures:
        return control.control(model, part, reads, stream("control", 0))

    final = {key: of(last, "test")[key] for key in figures(data.test)}
    assert final == close(figures(data.test))
    assert last["test/judge_accuracy"] == 0.75
    while_training = {"label_fidelity", "transfer_fidelity", "label_in_z"}
    expected = figures(data.validation)
    assert {key: third[f"val/{key}"] for key in while_training} == close(
        {key: expected[key] for key in while_training}
    )
    assert while_training <= of(second, "val").keys()
    assert not while_training & of(first, "val").keys()

"""Samples beside real images: as a classifier sees them, as a teacher, as a copy.

Samples are drawn from the prior with the labels of the test images and held against
these: as the decoder's means, and (`_draws`) as Bernoulli draws from them. Beside
them stand the ceiling, as many training images (`_real`), and the floor, the samples
with their labels shuffled (`_shuffled`). Letters: N images, D pixels.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from cvae import classifier, grids, mnist
from cvae.classifier import Classifier
from cvae.control import NEIGHBOURS, diversity
from cvae.evaluation import features
from cvae.evaluation.estimator import Measured, Request, bootstrap, mean_and_error
from cvae.model import CVAE

# What goes into a run's records; all others stand on the page alone.
CITED = (
    *("frechet", "precision", "recall", "coverage", "digit_frechet", "digit_coverage"),
    *("frechet_draws", "coverage_draws", "coverage_real"),
    *("classification_accuracy", "classification_accuracy_draws", "copied"),
    "classification_accuracy_real",
)
EPOCHS = 4  # of a classifier that learns from samples
COPY_SAMPLES = 2000  # samples whose nearest training images are looked for
log = logging.getLogger("cvae")

Sets = Mapping[str, mnist.Images]  # by the suffix of their figures


def samples(model: CVAE, images: mnist.Images, request: Request) -> Measured:
    """All figures of a model's samples; of a plain VAE those that need no labels.

    What a classifier would say is left out for a data set that none has learned.
    """
    data, generator = request.data, request.stream("samples")
    if request.pixels == "dynamic":
        data = replace(data, train=mnist.draw_pixels(data.train, generator))
    measured = sample_figures(
        model, replace(data, test=images), request.judge, generator
    )
    return replace(measured, cited=frozenset(CITED))


def sample_figures(
    model: CVAE, data: mnist.MNIST, judge: Classifier | None, generator: torch.Generator
) -> Measured:
    """`memorisation`, `feature_figures` and `classification_accuracy`, where known."""
    sets, conditional = sample_sets(model, data, generator), bool(model.classes)
    measured = memorisation(sets[""], data, sample_labels=conditional)
    if judge is None:
        log.warning("no classifier knows these data: frechet and the like are left out")
    else:
        measured |= feature_figures(
            sets, data.test, judge, generator, by_digit=conditional
        )
    if conditional:
        measured |= classification_accuracy(sets, data)
    return measured


def sample_sets(model: CVAE, data: mnist.MNIST, generator: torch.Generator) -> Sets:
    """Means, draws, training images where there are enough, shuffled labels."""
    y = data.test.labels.cpu()
    noise = torch.randn(len(y), model.latent_dim, generator=generator)
    device = next(model.parameters()).device
    with torch.no_grad():
        z = model.prior.sample(y.to(device), noise.to(device))
    means = (grids.digits(model, z, y) * 255).round().to(torch.uint8)
    sets = {"": mnist.Images(means, y)}
    sets["_draws"] = mnist.draw_pixels(sets[""], generator)
    train = data.train[: len(y)]
    if train.labels.bincount(minlength=data.classes).min() > NEIGHBOURS:
        sets["_real"] = train
    else:
        log.warning("too few training images: samples have no real ones beside them")
    if model.classes:
        order = torch.randperm(len(y), generator=generator)
        sets["_shuffled"] = mnist.Images(means, y[order])
    return sets


def feature_figures(
    sets: Sets,
    test: mnist.Images,
    judge: Classifier,
    generator: torch.Generator,
    *,
    by_digit: bool,
) -> Measured:
    """frechet, precision, recall, density, coverage of the classifier's features.

    Over all images, and (`digit_…`) within each digit, averaged over the ten; there
    `digit_diversity`, too. All digits together cannot tell shuffled labels, which have
    figures by digit only.
    """
    real, measured = _judge_features(judge, test), Measured({})
    for suffix, some in sets.items():
        drawn = _judge_features(judge, some)
        if suffix != "_shuffled":
            measured |= _renamed(compare_features(drawn, real, generator), "", suffix)
        if by_digit:
            pairs = [
                (drawn[some.labels == digit], real[test.labels == digit])
                for digit in test.labels.unique().tolist()
            ]
            each = [
                compare_features(*pair, generator) | diversity_ratio(*pair, generator)
                for pair in pairs
            ]
            measured |= _renamed(mean_over_digits(each), "digit_", suffix)
    return measured


def compare_features(
    drawn: Tensor, real: Tensor, generator: torch.Generator
) -> Measured:
    """The five figures of two sets of features.

    The error of the last four is that of a mean over images, the balls left as they
    are.
    """
    error = bootstrap(features.frechet, drawn, real, generator=generator)
    overlap = mean_and_error(features.overlap(drawn, real)._asdict())
    frechet = Measured({"frechet": features.frechet(drawn, real)}, {"frechet": error})
    return frechet | replace(overlap, per_image={})


def diversity_ratio(
    drawn: Tensor, real: Tensor, generator: torch.Generator
) -> Measured:
    error = bootstrap(diversity, drawn, real, generator=generator)
    return Measured({"diversity": diversity(drawn, real)}, {"diversity": error})


def mean_over_digits(each: Sequence[Measured]) -> Measured:
    """The mean of each figure; digits have independent errors."""
    figures, errors = (
        {name: [part[name] for part in parts] for name in parts[0]}
        for parts in ([m.figures for m in each], [m.errors for m in each])
    )
    return Measured(
        {name: sum(values) / len(each) for name, values in figures.items()},
        {name: math.hypot(*values) / len(each) for name, values in errors.items()},
    )


def classification_accuracy(sets: Sets, data: mnist.MNIST) -> Measured:
    """classification_accuracy: a network trained on samples reads the real test images.

    Ravuri & Vinyals 2019 (https://arxiv.org/abs/1905.10887), with the
    classifier's architecture. The error is that over test images, not over trainings.
    """
    right = {}
    for suffix, some in sets.items():
        pupil = classifier.train(some, data.shape, epochs=EPOCHS)
        read, _ = classifier.read(pupil, mnist.pixels(data.test.images))
        right[f"classification_accuracy{suffix}"] = read == data.test.labels
    return replace(mean_and_error(right), per_image={})


def memorisation(
    drawn: mnist.Images, data: mnist.MNIST, *, sample_labels: bool = True
) -> Measured:
    """Are samples copies of training images? Euclidean distances of pixels in [0, 1].

    Returns:
        nearest_train: mean distance of a sample from the nearest training image.
        nearest_train_real: the same of a test image. Blurred samples are nearer to
            every image, so that this alone does not tell.
        copied: how often the nearest of as many training images and images held back is
            a training image; ½ if it is chance.
        For drawing: `samples`, `neighbours` (20, H, W), `sample_labels`, `apart` (20,):
        the first sample of each digit, and that nearest to a training image.
    """
    some, train = drawn.images[:COPY_SAMPLES], data.train.images
    apart, where = nearest_neighbours(some, train)
    labels = drawn.labels[:COPY_SAMPLES]
    of_digit = [(labels == digit).nonzero()[:, 0] for digit in labels.unique()]
    first = [int(places[0]) for places in of_digit]
    closest = [int(places[apart[places].argmin()]) for places in of_digit]
    shown = torch.tensor(first + closest)
    real, _ = nearest_neighbours(data.test.images[:COPY_SAMPLES], train)
    distances = {"nearest_train": apart, "nearest_train_real": real}
    arrays = {
        "samples": some[shown].view(-1, *data.shape),
        "neighbours": train[where[shown]].view(-1, *data.shape),
        "apart": apart[shown],
    }
    if sample_labels:
        arrays["sample_labels"] = drawn.labels[shown]
    measured = replace(mean_and_error(distances, arrays), per_image={})
    return measured | copied_share(some, data)


def copied_share(images: Tensor, data: mnist.MNIST) -> Measured:
    """How often a training image is nearer than all of as many that were held back.

    The error is that of chance, ½, where samples with the same nearest image are but
    one witness: √(Σ c²) / 2M of M samples, of which c have one image in common.
    """
    held = data.validation if len(data.validation) else data.test
    pool = min(len(held), len(data.train))
    both = torch.cat([data.train.images[:pool], held.images[:pool]])
    _, where = nearest_neighbours(images, both)
    share = float((where < pool).double().mean())
    error = float(where.bincount().double().norm()) / (2 * len(images))
    return Measured({"copied": share}, {"copied": error})


def nearest_neighbours(images: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Distance (N,) to the nearest of `others` and its place; both (…, D) of bytes."""
    search = NearestNeighbors(n_neighbors=1, algorithm="brute")
    search.fit(mnist.pixels(others).numpy())
    apart, where = search.kneighbors(mnist.pixels(images).numpy())
    return torch.from_numpy(apart)[:, 0], torch.from_numpy(where)[:, 0]


def _judge_features(judge: Classifier, images: mnist.Images) -> Tensor:
    return classifier.read(judge, mnist.pixels(images.images.cpu()))[1]


def _renamed(measured: Measured, prefix: str, suffix: str) -> Measured:
    figures, errors = (
        {f"{prefix}{name}{suffix}": value for name, value in values.items()}
        for values in (measured.figures, measured.errors)
    )
    return Measured(figures, errors)

"""Control: is the digit asked for the digit drawn?"""

# neg_elbo does not tell: a model can have the better bound and ignore its label.
# Samples are read by a classifier, and a second question is asked of z: does it name
# the digit, which is the label's part? Noise and images are the same for every run.
# Letters: N images, Z latent, C classes, F the classifier's features.

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from cvae import grids, mnist
from cvae.classifier import Classifier, read
from cvae.model import CVAE

NEIGHBOURS = 5  # of a point, in its own set or in another
CHUNK = 1000  # points a pass, whose distances to 10,000 others take 40 MB
PER_DIGIT = 100  # prior samples, and real images they are held against
TRANSFERRED = 110  # real images whose z is decoded as each of the nine other digits
KNOWN = 2000  # real images whose z is looked at


@torch.inference_mode()
def control(
    model: CVAE, data: mnist.Images, classifier: Classifier, generator: torch.Generator
) -> dict[str, float]:
    """How well a conditional model does what it is asked, read on the CPU.

    Returns:
        label_fidelity: share of prior samples that are read as the digit asked for.
        label_fidelity_worst: the same of the digit where it is lowest.
        transfer_fidelity: z of an image decoded as another digit, read as that one;
            carried over by whitening: from p(z given y) to p(z given y').
        label_in_z: how often the nearest neighbours in z name the digit (chance 0.1).
        sample_diversity: standard deviation within a digit over that of real images.
        sample_coverage: share of real images that have a sample near (Naeem et al.).
    """
    asked, named, features = _prior_samples(model, classifier, generator)
    overall, worst = fidelity(named, asked)
    real = _of_each_digit(data, model.classes)
    _, real_features = read(classifier, mnist.pixels(data.images[real].cpu()))
    real_labels = data.labels[real].cpu()
    pairs = [
        (features[asked == digit], real_features[real_labels == digit])
        for digit in range(model.classes)
    ]
    near = [float(covered(*pair).double().mean()) for pair in pairs]
    u, y = _whitened_means(model, data)
    return {
        "label_fidelity": overall,
        "label_fidelity_worst": worst,
        "transfer_fidelity": _transfer_fidelity(model, classifier, u, y),
        "label_in_z": label_in_z(u.cpu(), y),
        "sample_diversity": sum(diversity(*pair) for pair in pairs) / len(pairs),
        "sample_coverage": sum(near) / len(near),
    }


def _prior_samples(
    model: CVAE, classifier: Classifier, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    # Digits asked for (N,), digits read (N,) and the classifier's features (N, F).
    device = next(model.parameters()).device
    count = PER_DIGIT * model.classes
    noise = torch.randn(count, model.latent_dim, generator=generator)
    asked = torch.arange(model.classes).repeat_interleave(PER_DIGIT)
    z = model.prior.sample(asked.to(device), noise.to(device))
    return asked, *read(classifier, grids.digits(model, z, asked))


def _whitened_means(model: CVAE, data: mnist.Images) -> tuple[Tensor, Tensor]:
    # Posterior means in units of the prior (N, Z) of the first images; labels (N,).
    device = next(model.eval().parameters()).device
    some = slice(0, min(KNOWN, len(data)))
    x, y = mnist.pixels(data.images[some]).to(device), data.labels[some].to(device)
    return model.prior.whiten(model.encode(x, y)[0], y), y.cpu()


def _transfer_fidelity(
    model: CVAE, classifier: Classifier, u: Tensor, y: Tensor
) -> float:
    # Share of the first images read as the digit that their u (N, Z) is decoded as.
    moved = u[:TRANSFERRED].repeat_interleave(model.classes - 1, 0)
    wanted = other_labels(y[:TRANSFERRED], model.classes)
    z = model.prior.unwhiten(moved, wanted.to(u.device))
    transferred, _ = read(classifier, grids.digits(model, z, wanted))
    return fidelity(transferred, wanted)[0]


def can_be_judged(model: CVAE, data: mnist.Images) -> bool:
    """Not a plain VAE, nor where there are too few real images of a digit to know what
    is near to them."""
    fewest = data.labels.bincount(minlength=model.classes).min()
    return bool(model.classes > 1 and fewest > NEIGHBOURS)


def fidelity(named: Tensor, asked: Tensor) -> tuple[float, float]:
    """Share of images (N,) read as the digit asked for: of all, of the worst digit."""
    right = (named == asked).double()
    each = [right[asked == digit].mean() for digit in asked.unique()]
    return float(right.mean()), float(min(each))


def other_labels(y: Tensor, classes: int) -> Tensor:
    """For each label (N,) the C − 1 others, one after the other, (N (C − 1),)."""
    return ((y[:, None] + torch.arange(1, classes)) % classes).flatten()


def label_in_z(u: Tensor, y: Tensor) -> float:
    """How often the 5 nearest of the first half name the digit of the second half's u.

    u (N, Z): whitened posterior means; 1 / C if z does not know the label.
    """
    half = len(u) // 2
    nearest = torch.cdist(u[half:], u[:half]).topk(NEIGHBOURS, largest=False).indices
    named = y[:half][nearest].mode(1).values
    return float((named == y[half:]).double().mean())


def _of_each_digit(data: mnist.Images, classes: int) -> Tensor:
    # The places of every digit's first images, spread over the whole data set.
    places = []
    for digit in range(classes):
        where = (data.labels == digit).nonzero()[:, 0]
        places.append(where[:: max(1, len(where) // PER_DIGIT)][:PER_DIGIT])
    return torch.cat(places)


def covered(drawn: Tensor, real: Tensor) -> Tensor:
    """Whether each real image has a drawn one nearer than its 5th real neighbour."""
    nearest = torch.cat([apart.amin(1) for _, apart in distances(real, drawn)])
    return nearest <= radii(real)


def radii(points: Tensor) -> Tensor:
    """The distance (N,) from each point to its 5th neighbour in the same set."""
    reach = NEIGHBOURS + 1  # the first is the point itself
    parts = [
        apart.topk(reach, largest=False).values[:, -1]
        for _, apart in distances(points, points)
    ]
    return torch.cat(parts)


def distances(points: Tensor, others: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Rows of `points` and their Euclidean distances (rows, M) to all `others`."""
    for start in range(0, len(points), CHUNK):
        rows = slice(start, start + CHUNK)
        yield rows, torch.cdist(points[rows], others)


def diversity(drawn: Tensor, real: Tensor) -> float:
    """Standard deviation of the drawn features over that of the real ones."""
    spread = [part.var(0).sum().sqrt() for part in (drawn, real)]
    return float(spread[0] / spread[1])

"""The label of an image by Bayes' rule: p(y given x) ∝ p(x given y), ten likelihoods.

A model that generates is so a classifier, too, and one that can say how far to trust
it. The same likelihoods, summed to p(x), are asked a second question: are they lower
for what is no digit? (Nalisnick et al. 2019, https://arxiv.org/abs/1810.09136: not
always.) Letters: N images, C classes, D pixels, K draws for each image and label.

Most of the ten labels are nowhere near: `label_likelihoods` spends K draws only on
those that a few draws leave within reach, and never looks at the true label.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from cvae import likelihood, mnist
from cvae.errors import DataError
from cvae.evaluation.estimator import Measured, Request, bootstrap, mean_and_error
from cvae.model import CVAE, EDGE
from cvae.objective import bernoulli_nll

BINS = 15  # of confidence, of equal width (Guo et al. 2017)
OUTLIERS = 500  # images of each kind that is no digit

SHOWN = 40  # images named wrongly, for drawing
FEW = 12  # draws for every label, before the others are spent
REACH = 25.0  # nats: on each label that is not further behind the best than this

# log p(x given y) (N, C) of images, by importance sampling; a name for their progress
Likelihoods = Callable[[mnist.Images, str], Tensor]


def labels(model: CVAE, images: mnist.Images, request: Request) -> Measured:
    """What a conditional model names, where it is wrong, and what is no digit to it.

    The figures of `classification`, `misclassified` and `out_of_distribution`.

    Raises:
        DataError: the images of Fashion-MNIST have another size.
    """

    def likelihoods(some: mnist.Images, name: str = "digits") -> Tensor:
        random = request.stream("evaluate")

        def work(part: mnist.Images) -> Tensor:
            return label_likelihoods(
                model,
                part.images,
                random,
                samples=request.label_samples,
                corrupt=request.corrupt,
            )

        parts = likelihood.passes(some, request.label_samples)
        return torch.cat(request.batches(name, parts, work, random))

    logs = likelihoods(images)
    generator = request.stream("labels")
    shape, train = request.data.shape, mnist.pixels(request.data.train.images)
    some = images.images[:: max(1, len(images) // OUTLIERS)][:OUTLIERS].cpu()
    others = non_digits(some, shape, generator) | fashion_mnist(request)
    count = request.label_samples
    measured = classification(logs, images, generator, samples=count)
    measured |= Measured({}, arrays=misclassified(logs, images, shape))
    return measured | out_of_distribution(
        images, logs, others, train.mean(0), likelihoods, generator, samples=count
    )


def label_likelihoods(
    model: CVAE,
    images: Tensor,
    generator: torch.Generator,
    *,
    samples: int,
    corrupt: float = 0.0,
) -> Tensor:
    """log p̂(x|y) (B, C) of one pass of images (B, D) uint8, in nats, on the CPU.

    Every label gets `FEW` of the K draws. The others are spent where they can change
    p(y|x): on all labels within `REACH` of the best. There p̂ is the mean over all
    draws. More draws raise log p̂, so that a label out of reach is compared with the
    best by as many draws of each: it is raised by what the others have added to the
    best.
    """
    few = samples if samples <= 2 * FEW else FEW
    unknown = mnist.Images(images, torch.zeros(len(images), dtype=torch.int64))
    ((x, target, y),) = likelihood.chunks(
        model, unknown, generator, corrupt=corrupt, size=len(images)
    )

    def estimate(rows: Tensor, label: int, draws: int) -> Tensor:
        of_label = torch.full_like(y[rows], label)
        return likelihood.log_likelihood(
            model, x[rows], target[rows], of_label, generator, samples=draws
        ).double()

    everyone = torch.arange(len(x), device=x.device)
    columns = [estimate(everyone, label, few) for label in range(model.classes)]
    logs = torch.stack(columns, 1)  # (B, C)
    if few == samples:
        return logs.cpu()
    best, leader = logs.max(1, keepdim=True)
    near = logs >= best - REACH
    rest = samples - few
    for label in range(model.classes):
        rows = near[:, label].nonzero()[:, 0]
        if len(rows):
            more = estimate(rows, label, rest) + math.log(rest / samples)
            less = logs[rows, label] + math.log(few / samples)
            logs[rows, label] = torch.logaddexp(more, less)
    gain = logs.gather(1, leader) - best
    return torch.where(near, logs, logs + gain).cpu()


def classification(
    logs: Tensor, images: mnist.Images, generator: torch.Generator, *, samples: int
) -> Measured:
    """What argmax p(y given x) names, and how sure it is, from log p(x given y) (N, C).

    Returns:
        label_accuracy, label_log_loss (nats), label_calibration_error; each `_isK`.
        For drawing: `confusion` (C, C), a row a true label; `reliability` (15, 3).
    """
    y, posterior = images.labels.cpu(), logs.log_softmax(1)
    confidence, predicted = posterior.exp().max(1)
    right = (predicted == y).double()
    suffix, classes = f"_is{samples}", logs.shape[1]
    name = f"label_calibration_error{suffix}"
    error = bootstrap(calibration_error, confidence, right, generator=generator)
    counts = (classes * y + predicted).bincount(minlength=classes**2)
    drawn = {
        "confusion": counts.view(classes, classes),
        "reliability": reliability(confidence, right),
    }
    return mean_and_error(
        {
            f"label_accuracy{suffix}": right,
            f"label_log_loss{suffix}": 0 - posterior.gather(1, y[:, None])[:, 0],
        },
        drawn,
    ) | Measured(
        {name: calibration_error(confidence, right)},
        {name: error},
        {"label_named": predicted, "label_runner_up": posterior.topk(2).indices[:, 1]},
    )


def misclassified(
    logs: Tensor, images: mnist.Images, shape: tuple[int, int]
) -> dict[str, Tensor]:
    """The images named wrongly, the surest first, each with its runner-up.

    Returns:
        wrong_images (40 at most, H, W); wrong_said (…, 4): the label, the named one,
        the runner-up, and by how many nats its log p(x given y) is behind; how many
        there are, wrong_count, and of how many the runner-up is the label,
        wrong_second.
    """
    y, (best, predicted) = images.labels.cpu(), logs.topk(2)
    behind = best[:, 0] - best[:, 1]
    wrong = (predicted[:, 0] != y).nonzero()[:, 0]
    wrong = wrong[behind[wrong].argsort(descending=True)]
    said = torch.stack([y, *predicted.T, behind], 1)[wrong]
    return {
        "wrong_images": images.images[wrong[:SHOWN]].cpu().view(-1, *shape),
        "wrong_said": said[:SHOWN],
        "wrong_count": torch.tensor(len(wrong)),
        "wrong_second": (said[:, 2] == said[:, 0]).sum(),
    }


def reliability(confidence: Tensor, right: Tensor) -> Tensor:
    """Share of the images, their mean confidence and accuracy, by bins of confidence.

    (15, 3); confidence and accuracy are nan where the share is 0.
    """
    place = (BINS * confidence).ceil().long().sub(1).clamp(0, BINS - 1)
    count, sure, hits = (
        torch.zeros(BINS, dtype=torch.float64).index_add_(0, place, values.double())
        for values in (torch.ones_like(confidence), confidence, right)
    )
    return torch.stack([count / len(right), sure / count, hits / count], 1)


def calibration_error(confidence: Tensor, right: Tensor) -> float:
    """Expected calibration error: mean |confidence − accuracy| over the bins' images.

    Guo et al. 2017 (https://arxiv.org/abs/1706.04599), eq. 3. Of few images it is too
    large: the accuracy of a bin is itself an estimate.
    """
    share, sure, hits = reliability(confidence, right).T
    return float((share * (sure - hits).abs()).nansum())


def non_digits(
    images: Tensor, shape: tuple[int, int], generator: torch.Generator
) -> dict[str, Tensor]:
    """Images (N, D) made of digits that are none, by name.

    `noise` has the pixels of an image in random order: as bright, and as grey.
    """
    square = images.view(-1, *shape)
    order = torch.rand(images.shape, generator=generator).argsort(1)
    made = {
        "noise": images.gather(1, order),
        "inverted": 255 - images,
        "flipped": square.flip(-1).flatten(1),
    }
    if shape[0] == shape[1]:
        made["rotated"] = square.rot90(1, (1, 2)).flatten(1)
    return made


def fashion_mnist(request: Request) -> dict[str, Tensor]:
    """Fashion-MNIST, where its four IDX files lie in `fashion` beside the data set."""
    folder, digits = request.root.with_name("fashion"), request.data.test.images
    if not folder.is_dir():
        return {}
    images = mnist.load_mnist(folder, binarize=request.pixels).test.images[:OUTLIERS]
    if images.shape[1] != digits.shape[1]:
        raise DataError(
            f"{folder}: images of {images.shape[1]} pixels cannot stand beside digits "
            f"of {digits.shape[1]}; remove the folder to do without"
        )
    return {"fashion": images}


def out_of_distribution(
    digits: mnist.Images,
    logs: Tensor,
    others: Mapping[str, Tensor],
    mean_image: Tensor,
    likelihoods: Likelihoods,
    generator: torch.Generator,
    *,
    samples: int,
) -> Measured:
    """How well likelihoods tell digits from `others`, images (M, D) uint8 by name.

    `logs` (N, C) are the likelihoods of the digits, which are known already.

    Returns:
        auroc_NAME_isK: the probability that log p(x) of a digit is above that of
            another image; ½ if it does not tell.
        auroc_ratio_NAME_isK: the same for log p(x) − log p₀(x); p₀ has independent
            pixels with the mean training image (D,): what is due to the brightness of
            each place alone is taken off (Ren et al. 2019,
            https://arxiv.org/abs/1906.02845).
    """

    def scores(images: Tensor, logs: Tensor) -> dict[str, Tensor]:
        x, evidence = mnist.pixels(images.cpu()), likelihood.log_evidence(logs)
        logits = torch.logit(mean_image, eps=EDGE).expand_as(x)
        return {"": evidence, "ratio_": evidence + bernoulli_nll(logits, x).double()}

    measured, of_digits = Measured({}), scores(digits.images, logs)
    for name, images in others.items():
        unknown = torch.zeros(len(images), dtype=torch.int64)  # all ten are asked for
        theirs = likelihoods(mnist.Images(images, unknown), name)
        for kind, score in scores(images, theirs).items():
            sets, key = (of_digits[kind], score), f"auroc_{kind}{name}_is{samples}"
            error = bootstrap(auroc, *sets, generator=generator)
            measured |= Measured({key: auroc(*sets)}, {key: error})
    return measured


def auroc(high: Tensor, low: Tensor) -> float:
    """The probability that one of `high` (N,) lies above one of `low` (M,)."""
    which = torch.cat([torch.ones_like(high), torch.zeros_like(low)])
    return float(roc_auc_score(which.numpy(), torch.cat([high, low]).numpy()))

"""Control with an error: is the digit asked for the digit drawn?

`control.control` draws 100 samples a digit with noise that all runs share, so that runs
are compared on the same z. Here are 10,000 samples with noise of the run's own seed and
a binomial error. Transfer is asked twice: with z carried over from p(z given y) to
p(z given y') by whitening, and with z as it is. A flow as p(z given y) puts each digit
somewhere else, so that z itself says the digit: then only the first can succeed.
"""

from __future__ import annotations

import logging
import math

import torch
from torch import Tensor

from cvae import classifier, control, grids, mnist
from cvae.evaluation.estimator import Measured, Request
from cvae.model import CVAE

SAMPLES = 10_000  # in equal shares for each digit
TRANSFERRED = 1000  # test images, each decoded as every other digit
log = logging.getLogger("cvae")


@torch.no_grad()
def fidelity(model: CVAE, images: mnist.Images, request: Request) -> Measured:
    """Shares that the classifier reads as asked; an error is √(p (1 − p) / n).

    Returns:
        label_fidelity_n10000: prior samples read as the digit asked for.
        label_fidelity_worst_n10000: the same of the digit where it is lowest.
        transfer_fidelity_n9000, transfer_fidelity_same_z: z of 1,000 test images (the
            means of their posteriors) decoded as each other digit, carried over by
            whitening or as it is, read as that digit. Errors are over images.
    """
    if request.judge is None:
        log.warning("no classifier knows this data set: fidelity is left out")
        return Measured({})
    generator, classes = request.stream("fidelity"), model.classes
    device = next(model.parameters()).device
    asked = torch.arange(SAMPLES) % classes
    noise = torch.randn(SAMPLES, model.latent_dim, generator=generator)
    z = model.prior.sample(asked.to(device), noise.to(device))
    right = _read(model, request.judge, z, asked) == asked
    of_digit = torch.stack([right[asked == digit] for digit in range(classes)])
    overall, worst = float(right.double().mean()), of_digit.double().mean(1).min()
    name = f"n{SAMPLES}"
    measured = _binomial(f"label_fidelity_{name}", overall, SAMPLES)
    measured |= _binomial(
        f"label_fidelity_worst_{name}", float(worst), of_digit.shape[1]
    )
    some = slice(0, TRANSFERRED)
    x, y = mnist.pixels(images.images[some]).to(device), images.labels[some].to(device)
    z = model.encode(x, y)[0].repeat_interleave(classes - 1, 0)
    own = y.repeat_interleave(classes - 1)
    wanted = control.other_labels(y.cpu(), classes)
    u = model.prior.whiten(z, own)
    carried = model.prior.unwhiten(u, wanted.to(device))
    for key, moved in (
        (f"transfer_fidelity_n{len(wanted)}", carried),
        ("transfer_fidelity_same_z", z),
    ):
        right = _read(model, request.judge, moved, wanted) == wanted
        shares = right.double().view(len(y), -1).mean(1)  # of each image
        error = float(shares.std()) / math.sqrt(len(y))
        measured |= Measured({key: float(shares.mean())}, {key: error})
    return measured


def _read(model: CVAE, reader: classifier.Classifier, z: Tensor, y: Tensor) -> Tensor:
    return classifier.read(reader, grids.digits(model, z, y))[0]


def _binomial(name: str, share: float, count: int) -> Measured:
    error = math.sqrt(share * (1 - share) / count)
    return Measured({name: share}, {name: error})

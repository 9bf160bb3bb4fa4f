"""The parts of an evaluation by name: `make evaluate RUN=… WHAT="nll gaps"`.

A part is a function of the model, the test images and a `Request`; it returns figures,
their errors, values by image and what a page draws. Its name stands in `fields.Part`,
its figures in `metrics.METRICS`, its drawing in `analysis.evaluation.SECTIONS`.
"""

from __future__ import annotations

from collections.abc import Callable

from cvae import mnist
from cvae.evaluation.certified import certified
from cvae.evaluation.gaps import gaps
from cvae.evaluation.labels import labels
from cvae.evaluation.latents import latents
from cvae.evaluation.measured import Measured
from cvae.evaluation.nll import nll
from cvae.evaluation.quality import samples
from cvae.evaluation.rate_distortion import rate_distortion
from cvae.evaluation.request import Request
from cvae.model import CVAE

Estimator = Callable[[CVAE, mnist.Images, Request], Measured]

# In the order in which they are computed and shown.
PARTS: dict[str, Estimator] = {
    "nll": nll,
    "certified": certified,
    "gaps": gaps,
    "rate_distortion": rate_distortion,
    "labels": labels,
    "samples": samples,
    "latents": latents,
}
# The number of samples that a part cannot do without.
NEED_SAMPLES = {"nll": "K", "certified": "K", "gaps": "K", "labels": "LABEL_K"}

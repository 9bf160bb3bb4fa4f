"""The parts of an evaluation by name: `make evaluate RUN=… WHAT="nll gaps"`.

A part is a function of the model, the test images and a `Request`; it returns figures,
their errors, values by image and what a page draws. Its name stands in `fields.Part`,
its figures in `metrics.METRICS`, its drawing in `analysis.evaluation.SECTIONS`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence

from cvae import mnist
from cvae.errors import UsageError
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
from cvae.spec.fields import LABEL_PARTS

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


def chosen_parts(
    what: str | Sequence[str],
    run: str,
    conditional: bool,
    samples: int,
    label_samples: int,
) -> list[str]:
    """The parts of an evaluation that are asked for, in the order of `PARTS`.

    Raises:
        UsageError: one that there is not, or that this run or these numbers of samples
            cannot answer.
    """
    asked = re.split(r"[\s,]+", what.strip()) if isinstance(what, str) else list(what)
    for name in asked:
        if name != "all" and name not in PARTS:
            near = difflib.get_close_matches(name, [*PARTS, "all"], 1)
            raise UsageError(
                f"WHAT={name[:80]}: no such part; allowed: {', '.join(PARTS)}, all"
                + (f"; did you mean {near[0]}?" if near else "")
            )
    if "all" in asked:
        asked = [name for name in PARTS if conditional or name not in LABEL_PARTS]
    for name in asked:
        if not conditional and name in LABEL_PARTS:
            raise UsageError(f"{run} is unconditional: it has no {name} to evaluate")
        counts = {"K": samples, "LABEL_K": label_samples}
        if counts.get(NEED_SAMPLES.get(name, "")) == 0:
            raise UsageError(
                f"{NEED_SAMPLES[name]}=0: {name} needs at least one draw of z an image"
            )
    return [name for name in PARTS if name in asked]

"""−log p of each test image, as the proof files of published runs have it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator
from statistics import fmean as mean

import safetensors.numpy

from analysis.comparing.settings import Comparison, Setting
from cvae.evaluation import metrics
from cvae.run.folder import RunFolder
from cvae.run.published import Published, facts_of

NLL, NLL_OF_X = "test/nll_is", "test/marginal_nll_is"
PROVES = {"log_p_x_given_y": NLL, "log_p_x": NLL_OF_X}  # in a proof file
OF_BOUNDS = {"test/nll": NLL, "test/marginal_nll": NLL_OF_X}  # starts of metrics
Proof = tuple[dict[str, list[float]], dict[str, str]]


def proof(folders: Iterable[RunFolder | None]) -> Proof | None:
    """−log p by what it proves, of the first run that has a file; and its facts.

    The mean over the images is the cell of a table.
    """
    for folder in folders:
        data = folder.proof if isinstance(folder, Published) else None
        if data is not None:
            logs = safetensors.numpy.load(data)
            nll = {PROVES[name]: (-log).tolist() for name, log in logs.items()}
            return nll, facts_of(data)
    return None


def paired(comparison: Comparison) -> Iterator[str]:
    """How far each setting is from the reference over the same images, a sentence each.

    Of one seed of each, where both have a proof file of the same pixels.
    """
    starts = [key for key in OF_BOUNDS if comparison.metric.startswith(key)]
    reference = comparison.reference
    if not starts or (theirs := _proof(reference)) is None:
        return
    proves = OF_BOUNDS[starts[0]]
    for setting in comparison.settings:
        ours = None if setting is reference else _proof(setting)
        if ours is None or ours[1]["pixels"] != theirs[1]["pixels"]:
            continue
        if not (proves in ours[0] and proves in theirs[0]):
            continue
        apart = [a - b for a, b in zip(ours[0][proves], theirs[0][proves], strict=True)]
        error = statistics.stdev(apart) / math.sqrt(len(apart))
        amount = metrics.number(mean(apart), comparison.metric, error=error, sign=True)
        what = "x given y" if proves == NLL else "x"
        yield (
            f"Image by image, {setting.label}: −log p({what}) is {amount} nats from "
            f"that of {reference.label} (one seed each, {len(apart):,} images, their "
            "proof files)."
        )


def _proof(setting: Setting) -> Proof | None:
    return proof(run.folder for run in setting.runs)

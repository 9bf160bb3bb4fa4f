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
    metric, reference = comparison.metric, comparison.reference
    known = [
        key for key in (NLL, NLL_OF_X) if metric.startswith(key.removesuffix("_is"))
    ]
    if not known or (theirs := _of_setting(reference, known[0])) is None:
        return
    what = "x given y" if known[0] == NLL else "x"
    for setting in comparison.settings:
        ours = None if setting is reference else _of_setting(setting, known[0])
        if ours is None or ours[0] != theirs[0]:
            continue
        apart = [a - b for a, b in zip(ours[1], theirs[1], strict=True)]
        error = statistics.stdev(apart) / math.sqrt(len(apart))
        amount = metrics.number(mean(apart), metric, error=error, sign=True)
        yield (
            f"Image by image, {setting.label}: −log p({what}) is {amount} nats from "
            f"that of {reference.label} (one seed each, {len(apart):,} images, their "
            "proof files)."
        )


def _of_setting(setting: Setting, proved: str) -> tuple[str, list[float]] | None:
    """The digest of the pixels, and what is `proved` of each image, if it is."""
    known = proof(run.folder for run in setting.runs)
    if known is None or proved not in known[0]:
        return None
    return known[1]["pixels"], known[0][proved]

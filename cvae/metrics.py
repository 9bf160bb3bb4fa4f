"""Every metric once: its meaning, unit, decimals, and which direction is better.

A key is `<split>/<name>`: train and val each epoch, test once at the end, time in
seconds. `_isK` at the end of a name counts importance samples, `_se` after it makes it
the figure's standard error.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

NATS = "nats per image"
ERROR = "_se"  # the end of a key: the standard error of the figure without it


@dataclass(frozen=True)
class Metric:
    """What a metric is; `words` say what it measures."""

    name: str
    words: str
    unit: str = NATS
    decimals: int = 2
    higher_is_better: bool = False
    source: str = ""  # where it is defined, or what it may be compared with

    @property
    def sign(self) -> int:
        """What a value is multiplied by so that lower is better."""
        return -1 if self.higher_is_better else 1


# In the order in which they are shown.
METRICS = (
    Metric("neg_elbo", "the bound on −log p(x given y): recon + kl, never weighted"),
    Metric("recon", "the reconstruction term, E_q[−log p(x given y, z)]"),
    Metric("kl", "KL(q(z given x, y) ‖ p(z given y))"),
    Metric("active_units", "latent dimensions that the model uses", "units", 1),
    Metric("loss", "what was minimised: recon + β·kl, or a K-sample bound"),
    Metric(
        "nll",
        "the importance-sampled estimate of −log p(x given y)",
        source="Burda et al. 2016, eq. 8; with one sample it is −ELBO",
    ),
    Metric(
        "marginal_nll",
        "−log p(x), summed over the ten labels",
        source="p(x) = Σ p(x given y) / 10",
    ),
    Metric(
        "ess",
        "the effective sample size, (Σ w)² / Σ w² of an image's weights",
        "draws",
        1,
        higher_is_better=True,
        source="Kong 1992; at most K",
    ),
    Metric(
        "label_accuracy",
        "the share of images whose label argmax p(y given x) names",
        "of 1",
        4,
        higher_is_better=True,
    ),
    Metric(
        "label_fidelity",
        "the share of prior samples that the judge reads as the digit asked for",
        "of 1",
        4,
        higher_is_better=True,
    ),
    Metric(
        "label_fidelity_worst",
        "the label fidelity of the digit where it is lowest",
        "of 1",
        4,
        higher_is_better=True,
    ),
    Metric(
        "transfer_fidelity",
        "the share of images whose z, decoded as another digit, is read as that digit",
        "of 1",
        4,
        higher_is_better=True,
    ),
    Metric("label_in_z", "how often z alone names the digit; chance is 0.1", "of 1", 4),
    Metric(
        "sample_diversity",
        "the standard deviation within a digit over that of real images",
        "of real images'",
        2,
        higher_is_better=True,
    ),
    Metric(
        "sample_coverage",
        "the share of real images that have a sample near",
        "of 1",
        2,
        higher_is_better=True,
    ),
    Metric(
        "judge_accuracy",
        "the share of real test images that the judge reads right",
        "of 1",
        4,
        higher_is_better=True,
    ),
)
BY_NAME = {metric.name: metric for metric in METRICS}

HEADLINE = "neg_elbo"
BOUND = tuple(metric.name for metric in METRICS[:4])  # every table starts with these
CONTROL = ("label_fidelity", "label_fidelity_worst", "transfer_fidelity")
SCORES = tuple(f"test/{name}" for name in (*BOUND, *CONTROL))
FIDELITY, TRANSFER = "test/label_fidelity", "test/transfer_fidelity"


def metric(key: str) -> Metric:
    """The metric that a key names; one that is not listed has no unit."""
    split, _, name = key.rpartition("/")
    if split == "time":
        return Metric(name, f"seconds spent on {name}", "s", 1)
    whole, name = name, re.sub(r"_is\d+$", "", name.removesuffix(ERROR))
    known = BY_NAME.get(name) or Metric(name, name, "")
    if whole.endswith(ERROR):
        return replace(known, name=whole, words=f"the standard error of {name}")
    return known


def number(value: float, key: str, *, sign: bool = False) -> str:
    """A value with the decimals that its metric deserves; nan and inf are said."""
    if math.isnan(value):
        return "nan"
    shown = f"{value:{'+' if sign else ''}.{metric(key).decimals}f}"
    return shown.replace("-", "−")


def mean_sd(values: Sequence[float], key: str) -> str:
    """mean ± sd (of the sample, n − 1); of a single value itself, of none a dash."""
    if not len(values):
        return "–"
    mean = number(statistics.fmean(values), key)
    if len(values) == 1:
        return mean
    return f"{mean} ± {number(statistics.stdev(values), key)}"


def headline(figures: dict[str, float]) -> float:
    """The run's bound: of the test images, else the latest known; nan if none is."""
    keys = [f"{split}/{HEADLINE}" for split in ("test", "val", "train")]
    return next((figures[key] for key in keys if key in figures), math.nan)

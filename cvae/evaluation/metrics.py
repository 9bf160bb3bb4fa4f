"""Every metric once: its meaning, unit, decimals, and which direction is better.

A key is `<split>/<name>`: train and val each epoch, test once at the end, time in
seconds. `_isK` at the end of a name counts importance samples (`_isK_k`: K of the
image's own label, k of each other one), `_nN` samples; `_se` after it makes it the
standard error.
"""

from __future__ import annotations

import importlib
import math
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

NATS = "nats per image"
ERROR = "_se"  # the end of a key: the standard error of the figure without it
BASELINES = {  # the end of a name: what a figure of samples is held against
    "draws": "of Bernoulli draws instead of the decoder's means",
    "real": "of training images instead of samples: the ceiling",
    "shuffled": "with the samples' labels shuffled: the floor",
}


@dataclass(frozen=True)
class Metric:
    """What a metric is; `words` say what it measures."""

    name: str
    words: str
    unit: str = NATS
    decimals: int = 2
    higher_is_better: bool = False
    source: str = ""  # where it is defined, or what it may be compared with
    share: bool = False  # of 1; shown in per cent, so that it has no unit

    @property
    def sign(self) -> int:
        """What a value is multiplied by so that lower is better."""
        return -1 if self.higher_is_better else 1


def _share(name: str, words: str, source: str = "") -> Metric:
    return Metric(name, words, "", 2, True, source, share=True)


def _chance(name: str, words: str, source: str = "") -> Metric:
    """A share of which more is not better."""
    return Metric(name, words, "", 2, source=source, share=True)


def _fine(name: str, words: str, source: str) -> Metric:
    return Metric(name, words, decimals=3, source=source)


# Of samples, by the judge's features: over all images, and within each digit.
_BESIDE_REAL = (
    Metric("frechet", "the squared Fréchet distance of the features", "features²"),
    _share(
        "precision", "samples in the ball of a real image", "Kynkäänniemi et al. 2019"
    ),
    _share("recall", "real images in the ball of a sample", "Kynkäänniemi et al. 2019"),
    Metric(
        "density",
        "the balls of real images that a sample lies in, over 5",
        "of real images'",
        3,
        higher_is_better=True,
    ),
    _share("coverage", "real images with a sample in their ball", "Naeem et al. 2020"),
    Metric(
        "diversity",
        "the standard deviation over that of real images",
        "of real images'",
        2,
        higher_is_better=True,
    ),
)
_NO_DIGITS = {
    "noise": "its pixels in random order",
    "inverted": "digits in black on white",
    "flipped": "mirrored digits",
    "rotated": "digits turned by 90°",
    "fashion": "Fashion-MNIST",
}

# Of every run, in the order in which they are shown.
_OF_RUNS = (
    Metric("neg_elbo", "the bound on −log p(x given y): recon + kl, never weighted"),
    Metric("recon", "the reconstruction term, E_q[−log p(x given y, z)]"),
    Metric("kl", "KL(q(z given x, y) ‖ p(z given y))"),
    Metric("active_units", "latent dimensions that the model uses", "units", 1),
    Metric("loss", "what was minimised: recon + β·kl, or a K-sample bound"),
    _share(
        "label_fidelity",
        "the share of prior samples that the judge reads as the digit asked for",
    ),
    _share(
        "label_fidelity_worst", "the label fidelity of the digit where it is lowest"
    ),
    _share(
        "transfer_fidelity",
        "the share of images whose z, carried over by whitening and decoded as another "
        "digit, is read as that digit",
    ),
    _chance("label_in_z", "how often z alone names the digit; chance is 10 %"),
    Metric(
        "sample_diversity",
        "the standard deviation within a digit over that of real images",
        "of real images'",
        2,
        higher_is_better=True,
    ),
    _share("sample_coverage", "the share of real images that have a sample near"),
    _share(
        "judge_accuracy", "the share of real test images that the judge reads right"
    ),
    _share("accuracy", "of a judge: the share of real images that it reads right"),
)


@dataclass(frozen=True)
class Estimator:
    """A part of an evaluation: the function `name` of cvae/evaluation/<name>.py.

    It is called with the model, the test images and a `Request`, and returns a
    `Measured` (see estimator.py). `draws` is the setting that it cannot do without, K
    or LABEL_K; `of_labels` says that a plain VAE has no answer to it.
    """

    name: str
    title: str  # on the page
    metrics: tuple[Metric, ...] = ()
    draws: str = ""
    of_labels: bool = False

    def load(self) -> Callable[..., Any]:
        """The function; its module may import scikit-learn, which takes seconds."""
        module = importlib.import_module(f"cvae.evaluation.{self.name}")
        function: Callable[..., Any] = getattr(module, self.name)
        return function


# The one table of estimators, in the order in which they are computed and shown.
_ESTIMATORS = (
    Estimator(
        "nll",
        "Likelihood",
        draws="K",
        metrics=(
            Metric(
                "nll",
                "the importance-sampled estimate of −log p(x given y)",
                source="Burda et al. 2016, eq. 8; with one sample it is −ELBO",
            ),
            Metric(
                "marginal_nll", "−log p(x), p(x given y) averaged over the ten labels"
            ),
            Metric(
                "nll_quadrature",
                "−log p(x given y) as an integral over a grid of z",
                source="exact for one and two latents",
            ),
            Metric(
                "nll_quadrature_doubt",
                "how far the integral is from that with half of the points",
                decimals=4,
                source="its own error is smaller",
            ),
            _fine(
                "nll_bias",
                "how far the importance-sampled nll is above the integral",
                "0 is none",
            ),
            Metric(
                "ess", "the effective number of draws, (Σ w)² / Σ w²", "draws", 1, True
            ),
        ),
    ),
    Estimator(
        "certified",
        "How sure it is",
        draws="K",
        metrics=(
            Metric(
                "bdmc_nll_lower",
                "the lower bound of −log p(x given y) on images that the model drew",
                source="Grosse et al. 2015; in expectation",
            ),
            Metric(
                "bdmc_nll_upper",
                "the upper bound on the same images",
                source="Wu et al. 2017; in expectation",
            ),
            Metric(
                "bdmc_gap", "what is between the two", decimals=3, source="0 is certain"
            ),
            _fine(
                "bdmc_bias",
                "how far the importance-sampled nll is above that upper bound",
                "its bias is this, or up to the gap more",
            ),
            Metric(
                "ais_nll",
                "annealed importance sampling of −log p(x given y), first test images",
                source="Wu et al. 2017; an upper bound in expectation",
            ),
            _fine(
                "ais_bias",
                "how far the importance-sampled nll of these images is above it",
                "0 is none",
            ),
        ),
    ),
    Estimator(
        "gaps",
        "What the bound misses",
        draws="K",
        metrics=(
            _fine(
                "approximation_gap",
                "log p(x given y) less the bound of the image's best diagonal Gaussian",
                "Cremer et al. 2018, eq. 6",
            ),
            _fine(
                "amortisation_gap",
                "the bound of the best diagonal Gaussian less that of the encoder's",
                "Cremer et al. 2018, eq. 6",
            ),
            Metric(
                "inference_gap", "the sum of both", decimals=3, source="log p − ELBO"
            ),
            Metric(
                "neg_elbo_encoder", "−ELBO of these images with the encoder's Gaussian"
            ),
            Metric(
                "neg_elbo_local", "−ELBO of these images with the best Gaussian of each"
            ),
        ),
    ),
    Estimator(
        "rate_distortion",
        "Rate and distortion",
        metrics=(
            Metric(
                "rd_rate",
                "KL(p(z given x, y) ‖ p(z given y)) of the exact posterior",
                source="Huang et al. 2020, β = 1",
            ),
            Metric(
                "rd_distortion",
                "E[−log p(x given y, z)] under the exact posterior",
                source="Huang et al. 2020, β = 1",
            ),
            Metric("rd_nll", "the sum of both", source="an upper bound of nll"),
            Metric(
                "rate_excess",
                "the encoder's rate above the decoder's curve at the same distortion",
                source="0: no encoder could do better",
            ),
        ),
    ),
    Estimator(
        "labels",
        "Labels",
        draws="LABEL_K",
        of_labels=True,
        metrics=(
            _share(
                "label_accuracy",
                "the share of images whose label argmax p(y given x) names",
            ),
            Metric("label_log_loss", "−log p(y given x) of the true label", NATS, 3),
            _chance(
                "label_calibration_error",
                "how far the accuracy is from the confidence, over 15 bins of it",
                "Guo et al. 2017",
            ),
            *(
                _share(
                    f"auroc_{kind}{name}",
                    f"how often {score} of a digit is above that of {of}",
                )
                for name, of in _NO_DIGITS.items()
                for kind, score in (("", "log p(x)"), ("ratio_", "log p(x) / p₀(x)"))
            ),
        ),
    ),
    Estimator(
        "fidelity",
        "Control",
        of_labels=True,
        metrics=(
            _share(
                "transfer_fidelity_same_z",
                "the share of images whose z as it is, decoded as another digit, is "
                "read as that digit",
            ),
        ),
    ),
    Estimator(
        "samples",
        "Samples",
        metrics=(
            *_BESIDE_REAL[:-1],
            *(
                replace(
                    each, name=f"digit_{each.name}", words=f"{each.words}, by digit"
                )
                for each in _BESIDE_REAL
            ),
            _share(
                "classification_accuracy",
                "real test images read right by a network that was trained on samples",
                "Ravuri & Vinyals 2019",
            ),
            Metric(
                "nearest_train", "the distance to the nearest training image", "pixels"
            ),
            _chance(
                "copied",
                "how often a training image is nearer than one held back; chance: 50 %",
            ),
        ),
    ),
    Estimator(
        "latents",
        "Latents",
        metrics=(
            Metric("information", "I(x; z) of these N images, at most ln N"),
            Metric(
                "information_upper", "a bound from above on I(x; z) of all such images"
            ),
            Metric(
                "information_in_digit", "I(x; z given y), what z tells beyond the label"
            ),
            Metric(
                "label_information", "I(y; z), what z tells of the label; at most ln 10"
            ),
            Metric("aggregate_kl", "KL(q(z given y) ‖ p(z given y))"),
            Metric("marginal_kl", "KL(q(z) ‖ p(z))"),
            Metric(
                "total_correlation", "KL(q(z) ‖ Π_j q(z_j))", source="Chen et al. 2018"
            ),
            Metric(
                "dimension_kl", "Σ_j KL(q(z_j) ‖ p(z_j))", source="Chen et al. 2018"
            ),
            _chance(
                "label_in_z_neighbours",
                "how often the neighbours in z name the digit, all test images",
            ),
            _chance("label_in_z_linear", "the same by a linear classifier"),
            _chance("label_in_z_chance", "the share of the commonest digit"),
        ),
    ),
)
ESTIMATORS = {estimator.name: estimator for estimator in _ESTIMATORS}
METRICS = (*_OF_RUNS, *(m for each in _ESTIMATORS for m in each.metrics))
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
    whole, name = name, re.sub(r"_(is\d+(_\d+)?|n\d+)$", "", name.removesuffix(ERROR))
    stem, end = split_baseline(name)
    known = BY_NAME.get(stem) or Metric(name, name, "")
    if end:
        known = replace(known, name=name, words=f"{known.words}, {BASELINES[end]}")
    if whole.endswith(ERROR):
        return replace(known, name=whole, words=f"the standard error of {name}")
    return known


def split_baseline(name: str) -> tuple[str, str]:
    """A figure and what it is held against: recall, real of `recall_real`."""
    stem, _, end = name.rpartition("_")
    return (stem, end) if stem in BY_NAME and end in BASELINES else (name, "")


def number(
    value: float, key: str, *, error: float | None = None, sign: bool = False
) -> str:
    """A value as its metric deserves, ± its error; a share in per cent: `99.30 %`."""
    if math.isnan(value):
        return "nan"
    known = metric(key)
    scale, per_cent = (100, " %") if known.share else (1, "")
    shown = f"{scale * value:{'+' if sign else ''}.{known.decimals}f}"
    if error is not None:
        shown += f" ± {scale * error:.{known.decimals}f}"
    return shown.replace("-", "−") + per_cent


def mean_sd(values: Sequence[float], key: str) -> str:
    """mean ± sd (of the sample, n − 1); of a single value itself, of none a dash."""
    if not len(values):
        return "–"
    sd = statistics.stdev(values) if len(values) > 1 else None
    return number(statistics.fmean(values), key, error=sd)


def headline(figures: dict[str, float]) -> float:
    """The run's bound: of the test images, else the latest known; nan if none is."""
    keys = [f"{split}/{HEADLINE}" for split in ("test", "val", "train")]
    return next((figures[key] for key in keys if key in figures), math.nan)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as a Markdown table, the first as its head."""
    head, *lines = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|---" * len(rows[0]) + "|", *lines])

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

NATS, REAL = "nats per image", "of real images'"
ERROR = "_se"  # the end of a key: the standard error of the metric without it
BASELINES = {  # the end of a name: what a metric of samples is held against
    "draws": "of Bernoulli draws instead of the decoder's means",
    "real": "of training images instead of samples: the ceiling",
    "shuffled": "with the samples' labels shuffled: the floor",
}


@dataclass(frozen=True)
class Metric:
    """What a metric is; `words` say what it measures, and where it is defined."""

    name: str
    words: str
    unit: str = NATS
    decimals: int = 2
    higher_is_better: bool = False
    share: bool = False  # of 1; shown in per cent, so that it has no unit

    @property
    def sign(self) -> int:
        """What a value is multiplied by so that lower is better."""
        return -1 if self.higher_is_better else 1


def _nats(decimals: int = 2, **words: str) -> tuple[Metric, ...]:
    return tuple(Metric(name, w, decimals=decimals) for name, w in words.items())


def _shares(*, better: bool = True, **words: str) -> tuple[Metric, ...]:
    """Shares; of those that are not `better`, more is not better."""
    return tuple(Metric(n, w, "", 2, better, share=True) for n, w in words.items())


# Of samples, by the classifier's features: over all images, and within each digit.
_BESIDE_REAL = (
    Metric("frechet", "the squared Fréchet distance of the features", "features²"),
    *_shares(
        precision="samples in the ball of a real image (Kynkäänniemi et al. 2019)",
        recall="real images in the ball of a sample (Kynkäänniemi et al. 2019)",
    ),
    Metric("density", "the balls that a sample lies in, over 5", REAL, 3, True),
    *_shares(coverage="real images with a sample in their ball (Naeem et al. 2020)"),
    Metric("diversity", "standard deviation over that of real images", REAL, 2, True),
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
    *_nats(
        neg_elbo="the bound on −log p(x given y): recon + kl, never weighted",
        recon="the reconstruction term, E_q[−log p(x given y, z)]",
        kl="KL(q(z given x, y) ‖ p(z given y))",
    ),
    Metric("active_units", "latent dimensions that the model uses", "units", 1),
    *_nats(loss="the minimised loss: recon + β·kl, or a K-sample bound"),
    *_shares(
        label_fidelity="prior samples classified as the digit asked for",
        label_fidelity_worst="the label fidelity of the digit where it is lowest",
        transfer_fidelity="images classified as the other digit that their z, carried "
        "over by whitening, is decoded as",
    ),
    *_shares(better=False, label_in_z="how often z names the digit; chance is 10 %"),
    Metric("sample_diversity", "spread within a digit over real", REAL, 2, True),
    *_shares(
        sample_coverage="real images that have a sample near",
        judge_accuracy="real test images that the classifier classifies correctly",
        accuracy="real images that a classifier classifies correctly",
    ),
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
            *_nats(
                nll="−log p(x given y), importance-sampled (Burda et al. 2016, eq. 8)",
                marginal_nll="−log p(x), p(x given y) averaged over all labels",
                nll_quadrature="−log p(x given y) as an integral over a grid of z",
            ),
            *_nats(4, nll_quadrature_doubt="change of it with half of the points"),
            *_nats(
                3,
                nll_bias="the importance-sampled nll less the integral",
                nll_gain="the nll with the next fewer draws of the curve less this one",
            ),
            Metric("ess", "effective draws, (Σ w)² / Σ w²", "draws", 1, True),
        ),
    ),
    Estimator(
        "certified",
        "How sure it is",
        draws="K",
        metrics=(
            *_nats(
                bdmc_nll_lower="lower bound of −log p(x given y) on images that the "
                "model drew (Grosse et al. 2015)",
                bdmc_nll_upper="upper bound on the same images (Wu et al. 2017)",
                ais_nll="−log p(x given y) of the first test images by annealed "
                "importance sampling, an upper bound in expectation (Wu et al. 2017)",
            ),
            *_nats(
                3,
                bdmc_gap="what is between the two bounds",
                bdmc_bias="the importance-sampled nll less that upper bound",
                ais_bias="the importance-sampled nll of these images less ais_nll",
            ),
        ),
    ),
    Estimator(
        "gaps",
        "What the bound misses",
        draws="K",
        metrics=(
            *_nats(
                3,
                approximation_gap="log p(x given y) less the bound of the image's best "
                "diagonal Gaussian (Cremer et al. 2018, eq. 6)",
                amortisation_gap="the bound of the best diagonal Gaussian less that of "
                "the encoder's (Cremer et al. 2018, eq. 6)",
                inference_gap="the sum of both, log p(x given y) − ELBO",
            ),
            *_nats(
                neg_elbo_encoder="−ELBO of these images with the encoder's Gaussian",
                neg_elbo_local="−ELBO of these images with the best Gaussian of each",
            ),
        ),
    ),
    Estimator(
        "rate_distortion",
        "Rate and distortion",
        metrics=_nats(
            rd_rate="KL(p(z given x, y) ‖ p(z given y)) of the exact posterior (Huang "
            "et al. 2020, β = 1)",
            rd_distortion="E[−log p(x given y, z)] under the exact posterior",
            rd_nll="the sum of both, an upper bound of nll",
            rate_excess="the encoder's rate above the decoder's curve at the same "
            "distortion; at 0 no encoder could do better",
        ),
    ),
    Estimator(
        "labels",
        "Labels",
        draws="LABEL_K",
        of_labels=True,
        metrics=(
            *_shares(label_accuracy="images whose label argmax p(y given x) names"),
            *_nats(3, label_log_loss="−log p(y given x) of the true label"),
            *_shares(
                better=False,
                label_calibration_error="accuracy against confidence, over 15 bins of "
                "it (Guo et al. 2017)",
            ),
            *(
                Metric(
                    f"auroc_{kind}{name}",
                    f"how often {score} of a digit is above that of {of}",
                    unit="",
                    higher_is_better=True,
                    share=True,
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
        metrics=_shares(
            transfer_fidelity_same_z="images classified as the other digit that their "
            "z as it is is decoded as"
        ),
    ),
    Estimator(
        "samples",
        "Samples",
        metrics=(
            *_BESIDE_REAL[:-1],
            *(
                replace(m, name=f"digit_{m.name}", words=f"{m.words}, by digit")
                for m in _BESIDE_REAL
            ),
            *_shares(
                classification_accuracy="real test images that a network trained on "
                "samples classifies correctly (Ravuri & Vinyals 2019)",
            ),
            Metric("nearest_train", "distance to the nearest training image", "pixels"),
            *_shares(
                better=False,
                copied="a training image is nearer than one held back; chance: 50 %",
            ),
        ),
    ),
    Estimator(
        "latents",
        "Latents",
        metrics=(
            *_nats(
                information="I(x; z) of these N images, at most ln N",
                information_upper="a bound from above on I(x; z) of all such images",
                information_in_digit="I(x; z given y), what z tells beyond the label",
                label_information="I(y; z), what z tells of the label",
                aggregate_kl="KL(q(z given y) ‖ p(z given y))",
                marginal_kl="KL(q(z) ‖ p(z))",
                total_correlation="KL(q(z) ‖ Π_j q(z_j)) (Chen et al. 2018)",
                dimension_kl="Σ_j KL(q(z_j) ‖ p(z_j)) (Chen et al. 2018)",
            ),
            *_shares(
                better=False,
                label_in_z_neighbours="how often the neighbours in z name the digit",
                label_in_z_linear="how often a linear classifier of z names the digit",
                label_in_z_chance="the share of the commonest digit",
            ),
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
    """A metric and what it is held against: recall, real of `recall_real`."""
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

"""The numbers of the README and of docs/results.md as tables, mean ± sd over seeds."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Sequence

from analysis.reading import latent
from analysis.reading.needed import BEST, SINGLE, SWEEPS, Needed
from cvae.evaluation import metrics
from cvae.evaluation.metrics import FIDELITY, TRANSFER, markdown
from cvae.run.folder import RunFolder
from cvae.spec.fields import Model, Spec
from cvae.sweep import table

TO_BEAT = {  # by the sources that README names
    "seed_notebook": "127.82 [1]",
    "best_two": "127.82 [1]",
    "plain_vae": "138.26 [1]",
    "pytorch_example": "105.55 [2]",
    "best_mlp": "82.32 (K = 50: 80.78) [3], of x 84.59 [4]",
    "best_conv": "of x 81.08 · 79.10 [5]",
}
BOUND, WORST = "test/neg_elbo", "test/label_fidelity_worst"
NLL, NAMED = "test/nll_is5000", "test/label_accuracy_is100"
NAMED_IS = (NAMED, "test/label_accuracy_is20")
LEARNED, OF_DRAWS = "test/classification_accuracy", "test/classification_accuracy_draws"
COVERAGE, CEILING = "test/coverage_draws", "test/coverage_real"
COVERED = (
    " Coverage: real test images that have a sample near, by the features of the CNN "
    "(Naeem et al. 2020); in brackets as many training images in the samples' place."
)
HEAD = (
    *("experiment", "network", "seeds", "test neg_elbo", "test kl", "test nll_is5000"),
    *("label fidelity (worst digit)", "transfer", "label accuracy"),
    *("classification accuracy (of draws)", "to beat"),
)

BEST_HEAD = (
    *("experiment", "network", "seeds", "test neg_elbo", "nll of x given y"),
    *("nll of x", "label fidelity (worst digit)", "transfer", "label accuracy"),
    *("classification accuracy (of draws)", "coverage of draws (of real images)"),
    *("training", "to beat"),
)


def results(needed: Needed) -> str:
    """The single specs, each with all its finished seeds: bound and control."""
    seeds = {name: needed.over_seeds(name) for name in SINGLE}
    rows = [list(HEAD)]
    for name, folders in seeds.items():
        about = [f"`{name}`", network(needed.spec(name)), str(len(folders))]
        bounds = [mean_sd(folders, key) for key in (BOUND, "test/kl", NLL)]
        shares = [percent(values(folders, key)) for key in (TRANSFER, NAMED)]
        control, learned = fidelity(folders), _beside(folders, LEARNED, OF_DRAWS)
        beaten = TO_BEAT.get(name, "–")
        rows.append([*about, *bounds, control, *shares, learned, beaten])
    gained = mean(seeds["plain_vae"]) - mean(seeds["seed_notebook"])
    every = [folder for folders in seeds.values() for folder in folders]
    return (
        f"{markdown(rows)}\n\n{made_on(every)} ± is the standard deviation over seeds. "
        f"The label lowers the bound of the two-dimensional network by {gained:.1f} "
        f"nats.{judged(every)}{reviewed(every)}"
    )


def best(needed: Needed) -> str:
    """The best models, of dynamically binarised pixels: bound, likelihood, control."""
    rows, every = [list(BEST_HEAD)], []
    for name in BEST:
        if not (folders := needed.over_seeds(name)):
            continue
        every += folders
        about = [f"`{name}`", network(needed.spec(name)), str(len(folders))]
        bounds = [mean_sd(folders, BOUND), drawn(folders, "test/nll_is")]
        bounds.append(drawn(folders, "test/marginal_nll_is"))
        control = [fidelity(folders), percent(values(folders, TRANSFER))]
        named = percent([v for k in NAMED_IS for v in values(folders, k)])
        took = statistics.mean(values(folders, "time/training")) / 60
        learned = _beside(folders, LEARNED, OF_DRAWS)
        coverage = _beside(folders, COVERAGE, CEILING)
        rows.append([*about, *bounds, *control, named, learned, coverage])
        rows[-1] += [f"{took:.0f} min", TO_BEAT.get(name, "–")]
    covered = COVERED if values(every, COVERAGE) else ""
    return f"{markdown(rows)}\n\n{made_on(every)}{covered}"


def drawn(folders: Sequence[RunFolder], start: str) -> str:
    """mean ± sd of a metric that was sampled; its name ends in the number of draws."""
    every = {key for folder in folders for key in folder.metrics}
    cells = [
        f"{mean_sd(folders, key)} (K = {key.removeprefix(start)})"
        for key in sorted(every)
        if key.startswith(start)
    ]
    return ", ".join(cells) or "–"


def sweeps(needed: Needed) -> str:
    """Each sweep: its question, its command, and its figures over seeds."""
    parts = []
    for name in SWEEPS:
        plan = needed.plan(name)
        question = re.sub(r"\s+", " ", plan.header.partition("\nExpected")[0])
        command = f"`make sweep CONFIG={needed.path(name)}`"
        rows = table.summary(plan, table.rows(plan, needed.runs))
        made = made_on([folder for _, folder in needed.children(name)])
        parts += [f"## {name}", f"{question} {command}", markdown(rows), made]
    return "\n\n".join(parts)


def latents(needed: Needed) -> str:
    """How far the digit can be read from z, with and without the label as an input."""
    conditional, plain = (
        latent.encode(needed.run(name)) for name in ("seed_notebook", "plain_vae")
    )
    with_label, without, pixels = (
        100 * latent.neighbour_accuracy(points, plain.labels)
        for points in (conditional.mu, plain.mu, plain.pixels)
    )
    return (
        f"With the label as an input the {latent.NEIGHBOURS} nearest neighbours in z "
        f"name the digit of {with_label:.1f} % of the test images, without it of "
        f"{without:.1f} %. Always naming the commonest would be right for "
        f"{100 * plain.commonest:.1f} %, neighbours in the pixels are for "
        f"{pixels:.1f} %."
    )


def values(folders: Sequence[RunFolder], key: str) -> list[float]:
    """A metric of the runs that have it."""
    return [folder.metrics[key] for folder in folders if key in folder.metrics]


def mean(folders: Sequence[RunFolder]) -> float:
    return statistics.mean(values(folders, BOUND))


def mean_sd(folders: Sequence[RunFolder], key: str) -> str:
    """mean ± sd of a metric; of a single run its value."""
    return metrics.mean_sd(values(folders, key), key)


def percent(shares: Sequence[float]) -> str:
    """Shares of 1 as `98.7 ± 0.2 %`; of one its value, of none a dash."""
    if not shares:
        return "–"
    sd = f" ± {100 * statistics.stdev(shares):.1f}" if len(shares) > 1 else ""
    return f"{100 * statistics.mean(shares):.1f}{sd} %"


def fidelity(folders: Sequence[RunFolder]) -> str:
    """Label fidelity, and in brackets the worst digit of the worst seed."""
    worst = values(folders, WORST)
    lowest = f" ({100 * min(worst):.1f})" if worst else ""
    return percent(values(folders, FIDELITY)) + lowest


def _beside(folders: Sequence[RunFolder], key: str, other: str) -> str:
    """A share, and in brackets the mean of another one."""
    others = values(folders, other)
    bracket = f" ({100 * statistics.mean(others):.1f})" if others else ""
    return percent(values(folders, key)) + bracket


def judged(folders: Sequence[RunFolder]) -> str:
    """What the shares mean, with the accuracy of the judge that reads the samples."""
    right = dict.fromkeys(values(folders, "test/judge_accuracy"))
    if not right:
        return ""
    judges = ", ".join(f"{100 * accuracy:.2f} %" for accuracy in right)
    return (
        " Label fidelity: samples from the prior that are read as the digit asked for, "
        "in brackets the worst digit of the worst seed; transfer: z of a test image "
        "decoded as another digit and read as that one. They are read by a CNN that is "
        f"right on {judges} of the real test images."
    )


def reviewed(folders: Sequence[RunFolder]) -> str:
    """What the figures of `make evaluate WHAT=…` mean, where a run has them."""
    if not any(values(folders, key) for key in (NLL, NAMED, LEARNED)):
        return ""
    return (
        " Of the seeds that `make evaluate WHAT=…` was asked for: nll_is5000; label "
        "accuracy: test images whose label argmax p(y given x) names, by Bayes' rule; "
        "classification accuracy: real test images that a network reads right which "
        "learned from 10,000 samples alone, decoder means or (in brackets) Bernoulli "
        "draws."
    )


def network(spec: Spec) -> str:
    """`794-512-256-2, 15 epochs`: the widths up to the latent, and what is unusual."""
    usual = Model(conditional=spec.model.conditional)
    labels = 10 if spec.model.conditional else 0
    widths = (784 + labels, *spec.model.hidden, spec.model.latent_dim)
    words = ["-".join(map(str, widths))]
    if spec.model.architecture != usual.architecture:
        words.append(spec.model.architecture)
    if spec.model.residual:
        words.append("residual")
    if spec.model.normalisation != usual.normalisation:
        words.append(f"{spec.model.normalisation} normalisation")
    if spec.model.prior != usual.prior:
        words.append(f"{spec.model.prior} prior")
    if spec.model.label_scale != usual.label_scale:
        words.append(f"label × {spec.model.label_scale:g}")
    return ", ".join([*words, f"{spec.training.epochs} epochs"])


def made_on(folders: Sequence[RunFolder]) -> str:
    """On what the runs were made, from their own facts."""
    facts = [folder.info["facts"] for folder in folders]
    machines = dict.fromkeys(fact.get("gpu", fact["processor"]) for fact in facts)
    torches = dict.fromkeys(fact["version.torch"] for fact in facts)
    return (
        f"Nats per image, lower is better; made on {', '.join(machines)} with "
        f"torch {', '.join(torches)}."
    )


TABLES: dict[str, tuple[tuple[str, ...], Callable[[Needed], str]]] = {
    "results": (SINGLE, results),
    "best": (BEST, best),
    "latents": (("seed_notebook", "plain_vae"), latents),
    "sweeps": (SWEEPS, sweeps),
}

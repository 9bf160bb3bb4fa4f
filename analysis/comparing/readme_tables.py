"""The numbers of the README and of docs/results.md as tables, mean ± sd over seeds."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Sequence
from statistics import fmean as mean
from typing import Any

from analysis.comparing.proofs import NLL, NLL_OF_X, proof
from analysis.reading import latent
from analysis.reading.needed import BEST, SINGLE, SWEEPS, Needed
from cvae.errors import RunNotFound
from cvae.evaluation import metrics
from cvae.evaluation.metrics import FIDELITY, TRANSFER, markdown
from cvae.run.folder import RunFolder
from cvae.spec.fields import Model, Spec
from cvae.sweep import table

SOURCES = (
    "[1] best of 50 epochs of the notebooks lyeoni/pytorch-mnist-CVAE and -VAE. [2] "
    "pytorch/examples. [3] nbip/IWAE with the label, 3,280 epochs, evaluated with "
    "K = 5,000. [4] the same without a label, one stochastic layer, doubly "
    "reparameterised. [5] diagonal posterior; 79.10 with an IAF posterior. [6] Burda "
    "et al. 2016, Table 1, 3,280 epochs."
)
PUBLISHED = {  # of the same quantity as the bound or the NLL of the row
    "seed_notebook": "bound 127.82 [1]",
    "plain_vae": "bound 138.26 [1]",
    "lyeoni": "bound 127.82 [1]",
    "pytorch_example": "bound 105.55 [2]",
    "best_mlp": "NLL 80.78, k = 50; 82.32, k = 1 [3]",
}
BOUND = "test/neg_elbo"
REAL = "test/judge_accuracy"  # the same classifier on real test images
BEATEN = (  # best row, metric (or its start), published, its source, what differs
    (
        *("lyeoni", BOUND, 127.82, "[1]"),
        "like for like; ours is the last of the 50 epochs, theirs the best",
    ),
    (
        *("best_two", BOUND, 127.82, "[1]"),
        "not like for like: 200 epochs, input noise, batch size, optimizer, schedule",
    ),
    (
        *("best_mlp", NLL, 80.78, "[3], k = 50"),
        "flow prior, 40 latents instead of 100, residual layers; trained with k = 1",
    ),
    (
        *("best_mlp", NLL_OF_X, 84.32, "[4], k = 50"),
        "as above; ours is conditional and summed over the labels",
    ),
    (
        *("best_conv", NLL_OF_X, 81.08, "[5]"),
        "ours is conditional and summed over the labels; flow prior; other layers",
    ),
)
PAPERS = {  # sweep over k: published by k and the source; ours has 1/100 of the epochs
    "iwae_table1": ({1: 86.76, 5: 85.54, 50: 84.78}, "[6]"),
    "iwae_conditional": ({1: 82.32, 5: 81.41, 50: 80.78}, "[3]"),
}
EPOCHS = "1/100 of the epochs; batches of 100 instead of 20; schedule; one seed"
DETAILS = {  # head of a column: keys (or starts of keys) of the metric
    "kl (nats)": ("test/kl",),
    "NLL of x (nats)": (NLL_OF_X,),
    "worst digit": ("test/label_fidelity_worst",),
    "transfer": (TRANSFER,),
    "of the same z": (f"{TRANSFER}_same_z",),
    "label accuracy": ("test/label_accuracy_is",),
}
QUALITY = {
    "classification accuracy": ("test/classification_accuracy",),
    "of draws": ("test/classification_accuracy_draws",),
    "of real images": ("test/classification_accuracy_real",),
    "coverage of draws": ("test/coverage_draws",),
    "coverage of real images": ("test/coverage_real",),
}
MOST = 7  # columns of a table
UNUSUAL = {  # fields of a network, and the words for a value that is not the default
    "architecture": "{}",
    "residual": "residual",
    "normalisation": "{} normalisation",
    "prior": "{} prior",
    "label_scale": "label × {:g}",
}


def results(needed: Needed) -> str:
    """One row per experiment with all its finished seeds: bound, NLL and control."""
    head = ["experiment", "bound (nats)", "NLL (nats)", "label fidelity"]
    rows = [[*head, "published (nats)"]]
    seeds = _rows(needed)
    for name, folders in seeds.items():
        pixels = ", binarised pixels" if name in BEST else ""
        about = f"`{name}` (n = {len(folders)}){pixels}"
        cells = [mean_sd(folders, BOUND), nll(folders, NLL), cited(folders, FIDELITY)]
        rows.append([about, *cells, PUBLISHED.get(name, "–")])
    every = [folder for folders in seeds.values() for folder in folders]
    cited_here = SOURCES.partition(" [4]")[0]
    return (
        f"{markdown(rows)}\n\n{made_on(every)} ± is the standard deviation over n "
        f"seeds{_test_images(needed)}. NLL is of one seed, of x given y (of x without "
        "a label), by K draws or the integral over two latents. Label fidelity is of "
        "10,000 samples of one seed ± its binomial error, or of 1,000 of each seed "
        f"(n = …).{judged(every)} k draws are for training, K for evaluation. "
        f"{cited_here}"
    )


def _rows(needed: Needed) -> dict[str, list[RunFolder]]:
    """The finished seeds of each experiment that has some."""
    seeds = {name: needed.over_seeds(name) for name in SINGLE}
    same = _finished(needed, "lyeoni")
    seeds["lyeoni"] = [run for swept, run in same if swept["model.conditional"]]
    seeds |= {name: needed.over_seeds(name) for name in BEST}
    return {name: folders for name, folders in seeds.items() if folders}


def _test_images(needed: Needed) -> str:
    """What the test images and their binarisation add to the sd over seeds."""
    known = proof(needed.over_seeds("best_mlp"))
    if not known:
        return ""
    (logs, _), count = known, len(known[0][NLL])
    over_images = statistics.stdev(logs[NLL_OF_X]) / math.sqrt(count)
    again = latent.redrawn(needed.run("best_mlp"))
    return (
        f"; the choice of test images adds {over_images:.2f} (`best_mlp`: sd over "
        f"images / √{count:,}), one drawing of the binarised ones {again:.2f} (by the "
        "gradient of log p(x given y) in x)"
    )


def nll(folders: Sequence[RunFolder], metric: str) -> str:
    """−log p by the proof file of one seed, else by the draws that were recorded."""
    known = proof(folders)
    if known is None or metric not in known[0]:
        return drawn(folders, metric)
    logs, facts = known
    how = f"K = {int(facts['K']):,}" if "K" in facts else "integral"
    if metric == NLL_OF_X and "K" in facts:
        how += f", {facts['others']} of each other label"
    return f"{metrics.number(mean(logs[metric]), BOUND)} ({how})"


def best(needed: Needed) -> str:
    """The best rows beside what is published: both numbers, and what differs."""
    rows = [["experiment", "number", "published", "ours", "difference", "what differs"]]
    seeds = _rows(needed)
    for name, metric, published, source, differs in BEATEN:
        folders = seeds.get(name, [])
        about = [f"`{name}`", _word(metric), f"{published} {source}"]
        rows.append([*about, *_ours(folders, metric, published), differs])
    for name, (by_k, source) in PAPERS.items():
        for swept, folder in _finished(needed, name):
            k = swept["objective.importance_samples"]
            word = "NLL of x given y" if folder.spec().model.conditional else "NLL of x"
            about = [f"`{name}`, k = {k}", word, f"{by_k[k]} {source}"]
            rows.append([*about, *_ours([folder], NLL, by_k[k]), EPOCHS])
    return (
        f"{markdown(rows)}\n\nNats per image, lower is better. k draws are for "
        "training, K for evaluation. NLL of x is at most that of x given y + ln 10. "
        f"{SOURCES}"
    )


def _finished(needed: Needed, sweep: str) -> list[tuple[dict[str, Any], RunFolder]]:
    try:
        return needed.children(sweep)
    except RunNotFound:
        return []


def _ours(
    folders: Sequence[RunFolder], metric: str, published: float
) -> tuple[str, str]:
    """Our number and its difference from the published one, which may be a tie."""
    keys = _keys(folders, metric)
    if not keys:
        return "–", "–"
    found = values(folders, keys[-1])
    ours, value = f"{mean_sd(folders, keys[-1])}{_draws(keys[-1])}", mean(found)
    if (known := proof(folders)) and metric in known[0]:
        value = mean(known[0][metric])
        several = f"; {ours}, n = {len(found)}" if metric == NLL else ""
        ours = f"{nll(folders, metric)}{several}"
    sd = statistics.stdev(found) if len(found) > 1 else 0.0
    apart = metrics.number(value - published, BOUND, sign=True)
    return ours, f"{apart}, a tie" if abs(value - published) < sd else apart


def details(needed: Needed) -> str:
    """All else that is known of each experiment, in tables of few columns."""
    seeds = _rows(needed)
    every = [folder for folders in seeds.values() for folder in folders]
    rows = [["experiment", "network", "training"]]
    rows += [
        [f"`{name}`", network(folders[0].spec()), _training(folders)]
        for name, folders in seeds.items()
    ]
    parts = [markdown(rows)]
    for columns in (DETAILS, QUALITY):
        rows = [["experiment", *columns]]
        for name, folders in seeds.items():
            cells = [_detail(folders, *starts) for starts in columns.values()]
            if set(cells) != {"–"}:
                rows.append([f"`{name}`", *cells])
        parts.append(markdown(rows))
    words = (
        "Worst digit: the label fidelity of the digit where it is lowest. Transfer: z "
        "of a test image, carried over by whitening, decoded as another digit and "
        "classified as that one; of the same z: z as it is. With a flow as p(z given "
        "y), z itself holds the digit. Label accuracy: test images whose label argmax "
        "p(y given x) names, by Bayes' rule. Classification accuracy: real test images "
        "that a classifier trained on 10,000 samples classifies correctly; samples are "
        "decoder means or Bernoulli draws. Coverage: real test images that have a "
        "sample near, by the features of the CNN (Naeem et al. 2020)."
    )
    gained = mean(values(seeds["plain_vae"], BOUND))
    gained -= mean(values(seeds["seed_notebook"], BOUND))
    meaning = (
        f" Of the {gained:.1f} nats by which the label lowers the bound of the "
        f"two-dimensional network, ln 10 = {math.log(10):.1f} pay for the label "
        "itself. Grey neg_elbo and nll are upper bounds of the mean NLL of dynamically "
        "binarised pixels, no likelihoods on [0, 1]."
    )
    return "\n\n".join([*parts, f"{words}{judged(every)}{meaning}"])


def _detail(folders: Sequence[RunFolder], start: str) -> str:
    """mean ± sd of a metric, or what is cited of a share."""
    keys = _keys(folders, start)
    if start.endswith("_is"):
        return nll(folders, start)
    return cited(folders, start) if keys else "–"


def cited(folders: Sequence[RunFolder], key: str) -> str:
    """A share of the most samples ± its binomial error, else mean ± sd over seeds."""
    for folder in folders:
        for name, value in folder.metrics.items():
            if re.fullmatch(f"{key}_n\\d+", name):
                error = folder.metrics[f"{name}{metrics.ERROR}"]
                return metrics.number(value, name, error=error)
    n = f" (n = {len(folders)})" if key == FIDELITY and values(folders, key) else ""
    return f"{mean_sd(folders, key)}{n}"


def _training(folders: Sequence[RunFolder]) -> str:
    """Minutes of training, and on what: `5 min (NVIDIA H100 80GB HBM3)`."""
    times: dict[str, list[float]] = {}
    for folder in folders:
        if seconds := folder.metrics.get("time/training"):
            times.setdefault(machine(folder), []).append(seconds / 60)
    return "; ".join(f"{mean(t):.0f} min ({on})" for on, t in times.items()) or "–"


def _keys(folders: Sequence[RunFolder], start: str) -> list[str]:
    """The metrics of a name; of one that ends in `_is` for each number of draws."""
    every = {key for folder in folders for key in folder.metrics}
    if not start.endswith("_is"):
        return [start] if start in every else []
    found = [key for key in every if key.removeprefix(start).isdigit()]
    return sorted(found, key=lambda key: int(key.removeprefix(start)))


def _word(metric: str) -> str:
    return {BOUND: "bound", NLL: "NLL of x given y", NLL_OF_X: "NLL of x"}[metric]


def _draws(key: str) -> str:
    """`(K = 5000)` of a metric that was sampled."""
    count = key.rpartition("_is")[2]
    return f" (K = {int(count):,})" if count.isdigit() else ""


def drawn(folders: Sequence[RunFolder], start: str) -> str:
    """mean ± sd of a metric that was sampled, with the most draws, and their number."""
    keys = _keys(folders, start)
    return f"{mean_sd(folders, keys[-1])}{_draws(keys[-1])}" if keys else "–"


def sweeps(needed: Needed) -> str:
    """Each sweep: its question, its command, and its figures over seeds."""
    parts = []
    for name in SWEEPS:
        plan = needed.plan(name)
        question = re.sub(r"\s+", " ", plan.header.partition("\nExpected")[0])
        command = f"`make sweep CONFIG={needed.path(name)}`"
        rows = table.summary(plan, table.rows(plan, needed.runs))
        made = made_on([folder for _, folder in needed.children(name)])
        tables = [markdown(part) for part in few_columns(rows)]
        parts += [f"### {name}", f"{question} {command}", *tables, made]
    return "\n\n".join(parts)


def few_columns(rows: Sequence[Sequence[str]]) -> list[list[list[str]]]:
    """A sweep's table as tables of at most MOST columns; the swept fields in each."""
    fields = rows[0].index("n")
    ends = range(fields, len(rows[0]), MOST - fields)
    return [
        [[*row[:fields], *row[start : start + MOST - fields]] for row in rows]
        for start in ends
    ]


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
        f"With the label as an input, the {latent.NEIGHBOURS} nearest neighbours in z "
        f"classify {with_label:.1f} % of the test images correctly, without it "
        f"{without:.1f} %. Always naming the most frequent digit gives "
        f"{100 * plain.commonest:.1f} %, nearest neighbours in pixels {pixels:.1f} %."
    )


def values(folders: Sequence[RunFolder], key: str) -> list[float]:
    """A metric of the runs that have it."""
    return [folder.metrics[key] for folder in folders if key in folder.metrics]


def mean_sd(folders: Sequence[RunFolder], key: str) -> str:
    """mean ± sd of a metric; of a single run its value."""
    return metrics.mean_sd(values(folders, key), key)


def judged(folders: Sequence[RunFolder]) -> str:
    """The classifier that reads the samples, by its accuracy."""
    known = dict.fromkeys(values(folders, REAL))
    if not known:
        return ""
    shares = " or ".join(metrics.number(accuracy, REAL) for accuracy in known)
    return f" A CNN with {shares} test accuracy classifies the samples."


def network(spec: Spec) -> str:
    """`794-512-256-2, 15 epochs`: the widths up to the latent, and what is unusual."""
    usual = Model(conditional=spec.model.conditional)
    labels = 10 if spec.model.conditional else 0
    widths = (784 + labels, *spec.model.hidden, spec.model.latent_dim)
    words = ["-".join(map(str, widths))]
    words += [
        text.format(value)
        for field, text in UNUSUAL.items()
        if (value := getattr(spec.model, field)) != getattr(usual, field)
    ]
    return ", ".join([*words, f"{spec.training.epochs} epochs"])


def machine(folder: RunFolder) -> str:
    facts = folder.info["facts"]
    return str(facts.get("gpu", facts["processor"]))


def made_on(folders: Sequence[RunFolder]) -> str:
    """On what the runs were made, from their own facts."""
    machines = dict.fromkeys(map(machine, folders))
    torches = dict.fromkeys(each.info["facts"]["version.torch"] for each in folders)
    return (
        f"Nats per image, lower is better; made on {', '.join(machines)} with "
        f"torch {', '.join(torches)}."
    )


# The specs and sweeps that a table needs. The best ones take hours: where they are not
# finished, `results` and `details` leave them out.
TABLES: dict[str, tuple[tuple[str, ...], Callable[[Needed], str]]] = {
    "results": (SINGLE, results),
    "latents": (("seed_notebook", "plain_vae"), latents),
    "best": (("best_two", *BEST), best),
    "details": (SINGLE, details),
    "sweeps": (SWEEPS, sweeps),
}

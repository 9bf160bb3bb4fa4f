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

SOURCES = (
    "[1] best epoch of the notebooks lyeoni/pytorch-mnist-CVAE and -VAE. [2] "
    "pytorch/examples. [3] nbip/IWAE with the label. [4] the same, one stochastic "
    "layer, K = 50. [5] diagonal · IAF posterior."
)
PUBLISHED = {  # of the same quantity as the bound or the NLL of the row
    "seed_notebook": "bound 127.82 [1]",
    "best_two": "bound 127.82 [1]",
    "plain_vae": "bound 138.26 [1]",
    "pytorch_example": "bound 105.55 [2]",
    "best_mlp": "NLL 82.32 to 80.78 [3]",
    "best_conv": "–",
}
BOUND, NLL, NLL_OF_X = "test/neg_elbo", "test/nll_is", "test/marginal_nll_is"
REAL = "test/judge_accuracy"  # the same classifier on real test images
BEATEN = (  # best row, metric (or its start), published, its source, what differs
    (
        *("best_two", BOUND, 127.82, "[1]"),
        "200 epochs instead of 50; batch size, learning rate and schedule",
    ),
    (
        *("best_mlp", NLL, 80.78, "[3], k = 50"),
        "flow prior, 40 latents instead of 100, residual layers; trained with k = 1",
    ),
    (
        *("best_mlp", NLL_OF_X, 84.59, "[4]"),
        "as above; ours is conditional and summed over the labels",
    ),
    (
        *("best_conv", NLL_OF_X, 81.08, "[5], diagonal posterior"),
        "ours is conditional and summed over the labels; flow prior; other layers",
    ),
)
DETAILS = {  # head of a column: keys (or starts of keys) of the metric
    "kl (nats)": ("test/kl",),
    "NLL of x (nats)": (NLL_OF_X,),
    "worst digit": ("test/label_fidelity_worst",),
    "transfer": (TRANSFER,),
    "label accuracy": ("test/label_accuracy_is",),
}
QUALITY = {
    "classification accuracy": ("test/classification_accuracy",),
    "of draws": ("test/classification_accuracy_draws",),
    "coverage of draws": ("test/coverage_draws",),
    "of real images": ("test/coverage_real",),
    "training (minutes)": ("time/training",),
}
MOST = 7  # columns of a table


def results(needed: Needed) -> str:
    """One row per experiment with all its finished seeds: bound, NLL and control."""
    head = ["experiment", "bound (nats)", "NLL (nats)"]
    rows = [[*head, "label fidelity (real images)", "published (nats)"]]
    every: list[RunFolder] = []
    seeds = {name: needed.over_seeds(name) for name in (*SINGLE, *BEST)}
    for name, folders in seeds.items():
        if not folders:
            continue
        every += folders
        pixels = "" if name in SINGLE else ", binarised pixels"
        about = f"`{name}` (n = {len(folders)}){pixels}"
        bounds = [mean_sd(folders, BOUND), drawn(folders, NLL)]
        rows.append([about, *bounds, fidelity(folders), PUBLISHED.get(name, "–")])
    gained = mean(seeds["plain_vae"]) - mean(seeds["seed_notebook"])
    return (
        f"{markdown(rows)}\n\n{made_on(every)} ± is the standard deviation over n "
        "seeds. The label lowers the bound of the two-dimensional network by "
        f"{gained:.1f} nats. Nats of grey and of binarised pixels are not comparable. "
        f"{SOURCES}"
    )


def best(needed: Needed) -> str:
    """The best rows beside what is published: both numbers, and what differs."""
    rows = [["experiment", "number", "published", "ours", "difference", "what differs"]]
    for name, metric, published, source, differs in BEATEN:
        folders = needed.over_seeds(name)
        keys = _keys(folders, metric)
        if not keys:
            rows.append([f"`{name}`", _word(metric), f"{published} {source}", "–", "–"])
            rows[-1].append(differs)
            continue
        apart = statistics.mean(values(folders, keys[-1])) - published
        ours = f"{mean_sd(folders, keys[-1])}{_draws(keys[-1])}"
        number = metrics.number(apart, keys[-1], sign=True)
        about = [f"`{name}`", _word(metric), f"{published} {source}", ours, number]
        rows.append([*about, differs])
    return f"{markdown(rows)}\n\nNats per image, lower is better. {SOURCES}"


def details(needed: Needed) -> str:
    """All else that is known of each experiment, in tables of few columns."""
    parts = []
    seeds = {name: needed.over_seeds(name) for name in (*SINGLE, *BEST)}
    seeds = {name: folders for name, folders in seeds.items() if folders}
    every = [folder for folders in seeds.values() for folder in folders]
    rows = [["experiment", "network"]]
    rows += [[f"`{name}`", network(needed.spec(name))] for name in seeds]
    parts.append(markdown(rows))
    for columns in (DETAILS, QUALITY):
        rows = [["experiment", *columns]]
        for name, folders in seeds.items():
            cells = [_detail(folders, *starts) for starts in columns.values()]
            if set(cells[: len(columns) - 1]) != {"–"}:
                rows.append([f"`{name}`", *cells])
        parts.append(markdown(rows))
    words = (
        "Worst digit: the label fidelity of the digit where it is lowest, in the worst "
        "seed. Transfer: z of a test image, decoded as another digit and classified as "
        "that one. Label accuracy: test images whose label argmax p(y given x) names, "
        "by Bayes' rule. Classification accuracy: real test images that a classifier "
        "trained on 10,000 samples classifies correctly; samples are decoder means or "
        "Bernoulli draws. Coverage: real test images that have a sample near, by the "
        "features of the CNN (Naeem et al. 2020)."
    )
    return "\n\n".join([*parts, f"{words}{judged(every)}"])


def _detail(folders: Sequence[RunFolder], start: str) -> str:
    """mean ± sd of a metric; a share in per cent; minutes for seconds."""
    keys = _keys(folders, start)
    if not keys:
        return "–"
    numbers = [value for key in keys for value in values(folders, key)]
    if start == "test/label_fidelity_worst":
        return f"{100 * min(numbers):.1f} %"
    if start == "time/training":
        return f"{statistics.mean(numbers) / 60:.0f}"
    if metrics.metric(keys[-1]).unit == "of 1":
        return percent(numbers)
    return drawn(folders, start) if start.endswith("_is") else mean_sd(folders, start)


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
    """Label fidelity, and in brackets the same classifier's accuracy on real images."""
    real = values(folders, REAL)
    beside = f" ({100 * statistics.mean(real):.2f} %)" if real else ""
    return percent(values(folders, FIDELITY)) + beside


def judged(folders: Sequence[RunFolder]) -> str:
    """The classifier that reads the samples, by its accuracy."""
    known = dict.fromkeys(values(folders, REAL))
    shares = " or ".join(f"{100 * accuracy:.2f} %" for accuracy in known)
    return f" A CNN with {shares} test accuracy classifies the samples." * bool(known)


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


# The specs and sweeps that a table needs. The best ones take hours: where they are not
# finished, `results` and `details` leave them out.
TABLES: dict[str, tuple[tuple[str, ...], Callable[[Needed], str]]] = {
    "results": (SINGLE, results),
    "latents": (("seed_notebook", "plain_vae"), latents),
    "best": (("best_two", *BEST), best),
    "details": (SINGLE, details),
    "sweeps": (SWEEPS, sweeps),
}

"""The numbers of the README and of docs/results.md as tables, mean ± sd over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

from analysis.reading import latent
from analysis.reading.needed import SINGLE, SWEEPS, Needed
from cvae import metrics, mnist
from cvae.run.folder import RunFolder
from cvae.spec.fields import Spec
from cvae.spec.variants import SEEDS
from cvae.tracking.note import markdown

SCORE = "test/neg_elbo"
TO_BEAT = {  # by the sources that README names
    "seed_notebook": "127.82 [1]",
    "plain_vae": "138.26 [1]",
    "pytorch_example": "105.55 [2]",
}


def results(needed: Needed) -> str:
    """The single specs: mean ± sd of the test bound over seeds."""
    rows = [["experiment", "network", "test neg_elbo", "test kl", "to beat"]]
    seeds = {n: [folder for _, folder in needed.children(n)] for n in SINGLE}
    for name, folders in seeds.items():
        figures = [over_seeds(folders, f"test/{key}") for key in ("neg_elbo", "kl")]
        about = [f"`{name}`", network(needed.spec(name))]
        rows.append([*about, *figures, TO_BEAT.get(name, "–")])
    every = [folder for folders in seeds.values() for folder in folders]
    gained = mean(seeds["plain_vae"]) - mean(seeds["seed_notebook"])
    return (
        f"{markdown(rows)}\n\n{made_on(every, needed.seeds)} The label lowers "
        f"the bound of the two-dimensional network by {gained:.1f} nats."
    )


def sweeps(needed: Needed) -> str:
    """The test bound of each sweep, mean ± sd over its seeds, all in one table."""
    rows: list[list[str]] = []
    every: list[RunFolder] = []
    for name in SWEEPS:
        children = needed.children(name)
        groups: dict[tuple[str, ...], list[RunFolder]] = {}
        for swept, folder in children:
            point = tuple(str(v) for key, v in swept.items() if key != SEEDS)
            groups.setdefault(point, []).append(folder)
            every.append(folder)
        keys = [key.partition(".")[2] for key in children[0][0] if key != SEEDS]
        cells = {point: over_seeds(group, SCORE) for point, group in groups.items()}
        (corner, *across), *lines = pivot(keys, cells)
        seeds = len(next(iter(groups.values())))
        rows.append([f"**`{name}`**, {seeds} seeds: {corner}"])
        rows[-1] += [f"**{value}**" for value in across]
        rows += lines
    width = max(map(len, rows))
    rows = [[*row, *[""] * (width - len(row))] for row in rows]
    head = ["sweep", *[""] * (width - 1)]
    return f"{markdown([head, *rows])}\n\n{made_on(every)}"


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


def pivot(keys: Sequence[str], cells: Mapping[tuple[str, ...], str]) -> list[list[str]]:
    """The rows of a table of `cells` by their point: the last key's values go across.

    Keys that change in step make one heading.
    """
    down = list(dict.fromkeys(point[:-1] for point in cells))
    across = list(dict.fromkeys(point[-1] for point in cells))
    if len(cells) < len(down) * len(across):
        names = (" · ".join(point) for point in cells)
        in_step = zip(names, cells.values(), strict=True)
        return pivot([" · ".join(keys)], {(name,): cell for name, cell in in_step})
    corner = keys[-1] if len(keys) == 1 else f"{' · '.join(keys[:-1])} ↓ {keys[-1]} →"
    rows = [
        [" · ".join(point) or SCORE, *(cells[(*point, a)] for a in across)]
        for point in down
    ]
    return [[corner, *across], *rows]


def mean(folders: Sequence[RunFolder], key: str = SCORE) -> float:
    return statistics.mean(folder.metrics[key] for folder in folders)


def over_seeds(folders: Sequence[RunFolder], key: str) -> str:
    """mean ± sd of a metric; of a single run its value."""
    return metrics.mean_sd([folder.metrics[key] for folder in folders], key)


def network(spec: Spec) -> str:
    """`794-512-256-2, 15 epochs`: the widths up to the latent."""
    labels = mnist.CLASSES if spec.model.conditional else 0
    widths = (784 + labels, *spec.model.hidden, spec.model.latent_dim)
    return f"{'-'.join(map(str, widths))}, {spec.training.epochs} epochs"


def made_on(folders: Sequence[RunFolder], seeds: int = 0) -> str:
    """On what the runs were made, from their own facts."""
    facts = [folder.info["facts"] for folder in folders]
    machines = dict.fromkeys(fact.get("gpu", fact["processor"]) for fact in facts)
    torches = dict.fromkeys(fact["version.torch"] for fact in facts)
    over = f", mean ± sd over {seeds} seeds" if seeds > 1 else ""
    return (
        f"Nats per image, lower is better{over}; made on {', '.join(machines)} with "
        f"torch {', '.join(torches)}."
    )


TABLES: dict[str, tuple[tuple[str, ...], Callable[[Needed], str]]] = {
    "results": (SINGLE, results),
    "sweeps": (SWEEPS, sweeps),
    "latents": (("seed_notebook", "plain_vae"), latents),
}

"""Train again what a row or figure of README stands on, and compare with `results/`.

    make reproduce ONLY="seed_notebook beta" JOBS=2

The published seeds are trained side by side, and what is finished is not trained again.
A figure is reproduced if the mean of your seeds lies where, by Student's t, 99 % of
such means would lie if they differed from the published ones by chance alone.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import t as student

from analysis.comparing.readme_tables import TABLES
from analysis.drawing.readme_figures import EXHIBITS
from analysis.reading import arguments
from analysis.reading.needed import SEEDED, SWEEPS, Needed
from cvae.errors import NotReproduced
from cvae.evaluation.metrics import FIDELITY, markdown, mean_sd, number
from cvae.run.folder import RunFolder
from cvae.spec.document import split_overrides
from cvae.spec.variants import SEEDS

SCORES = ("test/neg_elbo", FIDELITY)
SHARE = 0.99  # of the means that chance alone makes, in `allowed`
MIN_TOLERANCE = 0.01  # nats, or of 1: allowed however near the seeds lie together


@dataclass(frozen=True)
class Compared:
    """A figure of one setting: its values over published seeds and over one's own."""

    setting: str
    key: str
    published: Sequence[float]
    own: Sequence[float]

    @property
    def difference(self) -> float:
        return statistics.mean(self.own) - statistics.mean(self.published)

    @property
    def allowed(self) -> float:
        """How far the two means may be apart; nan if one seed has no spread."""
        n, m = len(self.published), len(self.own)
        if n < 2:
            return math.nan
        quantile = float(student.ppf((1 + SHARE) / 2, n - 1))
        spread = statistics.stdev(self.published) * math.sqrt(1 / n + 1 / m)
        return max(MIN_TOLERANCE, quantile * spread)

    @property
    def within(self) -> str:
        if math.isnan(self.allowed):
            return "one seed: no spread"
        return "yes" if abs(self.difference) <= self.allowed else "no"


def compare_seeds(name: str, published: Needed, own: Needed) -> Iterator[Compared]:
    """Every setting of a spec or sweep, by the figures that both sides have."""
    groups = [runs_by_setting(name, needed) for needed in (published, own)]
    for setting, folders in groups[0].items():
        for key in SCORES:
            sides = [
                [folder.metrics[key] for folder in some if key in folder.metrics]
                for some in (folders, groups[1][setting])
            ]
            if all(sides):
                yield Compared(setting, key, *sides)


def runs_by_setting(name: str, needed: Needed) -> dict[str, list[RunFolder]]:
    """The runs of each setting over its seeds, by what was swept."""
    if name in SEEDED:
        return {name: needed.over_seeds(name)}
    by_setting: dict[str, list[RunFolder]] = {}
    for swept, folder in needed.children(name):
        point = (f"{k.partition('.')[2]}={v}" for k, v in swept.items() if k != SEEDS)
        by_setting.setdefault(" ".join([name, *point]), []).append(folder)
    return by_setting


def _names() -> dict[str, tuple[str, ...]]:
    """What can be reproduced, and the specs and sweeps that it stands on."""
    alone = {name: (name,) for name in (*SEEDED, *SWEEPS)}
    figures = {name: exhibit.needs for name, exhibit in EXHIBITS.items()}
    return figures | {name: table[0] for name, table in TABLES.items()} | alone


def main(
    only: str, jobs: int | None, changes: str, offline: bool, runs: Path, results: Path
) -> None:
    """`make reproduce`."""
    known = _names()
    asked = arguments.chosen_names(only, list(known))
    overrides = tuple(split_overrides(changes))
    published = Needed(results, overrides)
    head = ["setting", "figure", "published", "own", "difference", "allowed", "within"]
    rows, failed = [head], list[str]()
    for name in dict.fromkeys(need for one in asked for need in known[one]):
        published.make(name, once=False, jobs=None, offline=True)  # or says it is not
        seeds = len(published.over_seeds(name)) if name in SEEDED else 1
        own = Needed(runs, overrides, seeds)
        own.make(name, once=False, jobs=jobs, offline=offline)
        for one in compare_seeds(name, published, own):
            sides = (mean_sd(values, one.key) for values in (one.published, one.own))
            apart_by = number(one.difference, one.key, sign=True)
            ends = (apart_by, number(one.allowed, one.key))
            rows.append([one.setting, one.key, *sides, *ends, one.within])
            if one.within == "no":
                failed.append(f"{one.setting}: {one.key}")
    print(markdown(rows))
    if failed:
        raise NotReproduced(f"not reproduced: {'; '.join(failed)}")

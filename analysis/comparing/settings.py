"""Runs that differ only in their seed taken together, and set against each other."""

from __future__ import annotations

import difflib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.comparing import significance
from analysis.comparing.significance import Summary
from analysis.reading.runs import Run, Runs
from cvae import metrics
from cvae.errors import RunNotFound

# What may differ between runs that are one and the same experiment.
NO_MATTER = (
    *("name", "data.root", "training.seed", "training.device"),
    *("tracking.", "evaluation."),
)
MISSING = math.nan


@dataclass(frozen=True)
class Side:
    """The runs that share the values of some fields, ordered by seed."""

    values: dict[str, Any]
    runs: tuple[Run, ...]
    pooled: tuple[str, ...] = ()  # fields besides the seed that differ among them

    @cached_property
    def label(self) -> str:
        said = [f"{short(key)} = {text(value)}" for key, value in self.values.items()]
        return ", ".join(said) or "all runs"

    @property
    def seeds(self) -> int:
        return len({run.seed for run in self.runs})

    def column(self, metric: str) -> NDArray[np.float64]:
        """The finite values of a metric, one a run."""
        found = [run.metrics.get(metric, MISSING) for run in self.runs]
        return np.array([value for value in found if math.isfinite(value)])

    def summary(self, metric: str) -> Summary:
        return significance.summary(self.column(metric))


@dataclass(frozen=True)
class Difference:
    """A side less the one it is set against: of pairs, or of means if none pair up.

    p is nan with too few seeds; it is of the permutation test, welch of Welch's, and
    adjusted is p controlled for all the sides (Benjamini & Hochberg 1995).
    """

    pairs: int
    found: Summary
    p: float
    welch: float
    adjusted: float = MISSING


@dataclass(frozen=True)
class Comparison:
    """All sides by one metric, in the order of their values; best and the reference."""

    metric: str
    sides: tuple[Side, ...]
    summaries: tuple[Summary, ...]
    best: Side
    against: Side
    differences: tuple[Difference | None, ...]  # None for the reference itself


def alike(runs: Sequence[Run]) -> tuple[list[Run], list[Run], list[Run]]:
    """Those to be compared, repetitions, and those on other data than most.

    The same spec run twice is one observation: the newest stays. Nats of grey and of
    binarised pixels, or of two data sets, are not the same unit: the most common stays.
    """
    kinds = Counter((run.digest, run.fields["data.binarize"]) for run in runs)
    common = kinds.most_common(1)[0][0]
    newest: dict[str, Run] = {}
    other, repeated = [], []
    for run in sorted(runs, key=lambda run: run.started):
        if (run.digest, run.fields["data.binarize"]) != common:
            other.append(run)
            continue
        identity = _identity(run)
        if identity in newest:
            repeated.append(newest[identity])
        newest[identity] = run
    return list(newest.values()), repeated, other


def swept(runs: Sequence[Run]) -> list[str]:
    """The fields that set sides apart, in the spec's order."""
    table = Runs("", tuple(runs))
    return [key for key in table.differing if not key.startswith(NO_MATTER)]


def field_named(name: str, runs: Sequence[Run]) -> str:
    """The dotted field meant by `model.latent_dim` or `latent_dim`.

    Raises:
        RunNotFound: no such field, or it is the same in all runs.
    """
    known = [key for key in runs[0].fields if not key.startswith(("name", "tracking"))]
    fitting = [key for key in known if name in (key, short(key))]
    differing = Runs("", tuple(runs)).differing
    if not fitting:
        near = difflib.get_close_matches(name[:80], [*known, *map(short, known)], 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise RunNotFound(f"no field {name[:80]!r}{hint}")
    for key in fitting:
        if key in differing:
            return key
    value = text(runs[0].fields[fitting[0]])
    rest = ", ".join(swept(runs)) or "only the seed"
    raise RunNotFound(f"{fitting[0]} is {value} in all runs; what differs: {rest}")


def sides(runs: Sequence[Run], by: Sequence[str] = ()) -> tuple[Side, ...]:
    """The runs by the values of the fields `by`, or of all that sets them apart."""
    apart = swept(runs)
    keys = list(by) or apart
    groups: dict[str, list[Run]] = {}
    for run in runs:
        values = json.dumps([run.fields.get(key) for key in keys])
        groups.setdefault(values, []).append(run)
    made = [
        Side(
            {key: members[0].fields.get(key) for key in keys},
            tuple(sorted(members, key=lambda run: run.seed)),
            tuple(key for key in swept(members) if key not in keys),
        )
        for members in groups.values()
    ]
    return tuple(sorted(made, key=lambda side: [rank(v) for v in side.values.values()]))


def compare(
    sides: Sequence[Side], metric: str, against: Side | None = None
) -> Comparison:
    """Each side by a metric and set against one of them, the best if none is named."""
    kept = tuple(side for side in sides if len(side.column(metric)))
    summaries = tuple(side.summary(metric) for side in kept)
    sign = -1 if metrics.metric(metric).higher_is_better else 1
    best = kept[min(range(len(kept)), key=lambda at: sign * summaries[at].mean)]
    reference = against or best
    found = [
        None if side is reference else difference(side, reference, metric)
        for side in kept
    ]
    ps = significance.adjusted([each.p if each else MISSING for each in found])
    differences = tuple(
        replace(each, adjusted=p) if each else None
        for each, p in zip(found, ps, strict=True)
    )
    return Comparison(metric, kept, summaries, best, reference, differences)


def difference(side: Side, against: Side, metric: str) -> Difference:
    """`side` less `against`, run by run where the two have runs that only differ in
    what sets the sides apart; the same seed among them."""
    keys = tuple(side.values)
    other = {_identity(run, but=keys): run for run in against.runs}
    pairs = [
        run.metrics.get(metric, MISSING) - other[identity].metrics.get(metric, MISSING)
        for run in side.runs
        if (identity := _identity(run, but=keys)) in other
    ]
    paired = np.array([value for value in pairs if math.isfinite(value)])
    one, two = side.column(metric), against.column(metric)
    if len(paired):
        found = significance.summary(paired)
    else:
        mean = float(one.mean() - two.mean())
        found = Summary(0, mean, MISSING, *significance.interval(one, two))
    p = welch = MISSING
    enough = min(side.seeds, against.seeds, len(one), len(two)) >= significance.ENOUGH
    if enough and (side.pooled or against.pooled):
        if len(paired) >= significance.ENOUGH:
            p = significance.paired_test(paired)
    elif enough:
        p = significance.permutation_test(one, two)
        welch = significance.welch(one, two)
    return Difference(len(paired), found, p, welch)


def short(key: str) -> str:
    return key.rpartition(".")[2]


def text(value: Any) -> str:
    """A field's value as one writes it in a spec."""
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)


def _identity(run: Run, but: Sequence[str] = ()) -> str:
    return json.dumps(
        [
            (key, value)
            for key, value in sorted(run.fields.items())
            if (key == "training.seed" or not key.startswith(NO_MATTER))
            and key not in but
        ]
    )


def rank(value: Any) -> tuple[int, float, str]:
    """Numbers by size, then everything else by its text."""
    if isinstance(value, (int, float)):
        return 0, float(value), ""
    if isinstance(value, (list, tuple)) and all(isinstance(v, int) for v in value):
        return 1, float(sum(value)), text(value)
    return 2, 0.0, text(value)

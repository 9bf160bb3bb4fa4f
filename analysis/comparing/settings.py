"""Runs that differ only in their seed taken together, and set against each other."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.comparing import significance
from analysis.comparing.significance import Summary
from analysis.reading.runs import RunRow, Runs
from cvae.errors import RunNotFound
from cvae.evaluation import metrics
from cvae.spec.document import nearest

# What may differ between runs that are one and the same experiment.
IRRELEVANT = (
    *("name", "data.root", "training.seed", "training.device"),
    *("tracking.", "evaluation."),
)
MISSING = math.nan


@dataclass(frozen=True)
class Setting:
    """The runs that share the values of some fields, ordered by seed."""

    values: dict[str, Any]
    runs: tuple[RunRow, ...]
    pooled: tuple[str, ...] = ()  # fields besides the seed that differ among them

    @cached_property
    def label(self) -> str:
        return label(self.values) or "all runs"

    @property
    def lines(self) -> str:
        """The label with a line for each field, for a legend beside a figure."""
        return self.label.replace(", ", "\n")

    @property
    def seeds(self) -> int:
        return len({run.seed for run in self.runs})

    def column(self, metric: str) -> NDArray[np.float64]:
        """The finite values of a metric, one a run."""
        values = [run.metrics.get(metric, MISSING) for run in self.runs]
        return np.array([value for value in values if math.isfinite(value)])

    def summary(self, metric: str) -> Summary:
        return significance.summary(self.column(metric))


@dataclass(frozen=True)
class Difference:
    """A setting minus the reference: of pairs of runs, or of means if none pair up.

    p is of the permutation test, nan with too few seeds; adjusted is p controlled for
    all settings (Benjamini & Hochberg 1995).
    """

    pairs: int
    summary: Summary
    p: float
    adjusted: float = MISSING


@dataclass(frozen=True)
class Comparison:
    """All settings by one metric, in the order of their values; best and reference."""

    metric: str
    chosen_on: str  # the metric that the best is chosen by
    settings: tuple[Setting, ...]
    summaries: tuple[Summary, ...]
    best: Setting
    reference: Setting
    differences: tuple[Difference | None, ...]  # None for the reference itself

    @property
    def rows(self) -> list[tuple[Setting, Summary, Difference | None]]:
        return list(zip(self.settings, self.summaries, self.differences, strict=True))


def comparable(
    runs: Sequence[RunRow],
) -> tuple[list[RunRow], list[RunRow], list[RunRow]]:
    """Those to be compared, repetitions, and those on other data than most.

    The same spec run twice is one observation: the newest stays. Nats of grey and of
    binarised pixels, or of two data sets, are not the same unit: the most common stays.
    """
    kinds = Counter((run.digest, run.fields["data.binarize"]) for run in runs)
    common = kinds.most_common(1)[0][0]
    newest: dict[str, RunRow] = {}
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


def swept_fields(runs: Sequence[RunRow]) -> list[str]:
    """The fields that set the settings apart, in the spec's order."""
    table = Runs("", tuple(runs))
    return [key for key in table.differing if not key.startswith(IRRELEVANT)]


def find_field(name: str, runs: Sequence[RunRow]) -> str:
    """The dotted field meant by `model.latent_dim` or `latent_dim`.

    Raises:
        RunNotFound: no such field, or it is the same in all runs.
    """
    known = [key for key in runs[0].fields if not key.startswith(("name", "tracking"))]
    fitting = [key for key in known if name in (key, short(key))]
    differing = Runs("", tuple(runs)).differing
    if not fitting:
        raise RunNotFound(f"no field {name[:80]!r}{nearest(name[:80], known)}")
    if of_these := [key for key in fitting if key in differing]:
        return of_these[0]
    value = text(runs[0].fields[fitting[0]])
    rest = ", ".join(swept_fields(runs)) or "only the seed"
    raise RunNotFound(f"{fitting[0]} is {value} in all runs; what differs: {rest}")


def group_by(runs: Sequence[RunRow], by: Sequence[str] = ()) -> tuple[Setting, ...]:
    """The runs by the values of the fields `by`, or of all that sets them apart."""
    keys, rows = list(by) or swept_fields(runs), Runs("", tuple(runs)).fields
    places = rows.groupby(keys).indices.values() if keys else [range(len(runs))]
    made = []
    for members in ([runs[at] for at in group] for group in places):
        made.append(
            Setting(
                {key: members[0].fields.get(key) for key in keys},
                tuple(sorted(members, key=lambda run: run.seed)),
                tuple(key for key in swept_fields(members) if key not in keys),
            )
        )
    return tuple(sorted(made, key=lambda s: [*map(sort_key, s.values.values())]))


def compare_settings(
    settings: Sequence[Setting], metric: str, reference: Setting | None = None
) -> Comparison:
    """Each setting by a metric and set against the reference, or against the best.

    The best is chosen on the validation images where every setting has that figure, so
    that the test figure of the best is not itself the result of a choice.
    """
    kept = tuple(each for each in settings if len(each.column(metric)))
    chosen_on = re.sub("^test/", "val/", metric)
    if not all(len(each.column(chosen_on)) == len(each.runs) for each in kept):
        chosen_on = metric
    sign = metrics.metric(metric).sign
    best = min(kept, key=lambda each: sign * float(each.column(chosen_on).mean()))
    reference = reference or best
    differences = [
        None if each is reference else difference(each, reference, metric)
        for each in kept
    ]
    ps = significance.adjusted([each.p if each else MISSING for each in differences])
    return Comparison(
        metric,
        chosen_on,
        kept,
        tuple(each.summary(metric) for each in kept),
        best,
        reference,
        tuple(
            replace(each, adjusted=p) if each else None
            for each, p in zip(differences, ps, strict=True)
        ),
    )


def difference(setting: Setting, reference: Setting, metric: str) -> Difference:
    """`setting` minus `reference`, run by run where two runs differ in nothing else.

    Two such runs share the seed, too. p asks for MIN_SEEDS seeds of each, not runs.
    """
    keys = tuple(setting.values)
    other = {_identity(run, but=keys): run for run in reference.runs}
    pairs = [
        (run.seed, run.metrics.get(metric, MISSING) - twin.metrics.get(metric, MISSING))
        for run in setting.runs
        if (twin := other.get(_identity(run, but=keys)))
    ]
    paired = np.array([value for _, value in pairs if math.isfinite(value)])
    seeds = {seed for seed, value in pairs if math.isfinite(value)}
    one, two = setting.column(metric), reference.column(metric)
    if len(paired):
        summary = significance.summary(paired)
    else:
        mean = float(one.mean() - two.mean())
        summary = Summary(0, mean, MISSING, *significance.interval(one, two))
    p = MISSING
    counts = setting.seeds, reference.seeds, len(one), len(two)
    if min(counts) >= significance.MIN_SEEDS:
        if not (setting.pooled or reference.pooled):
            p = significance.permutation_test(one, two)
        elif len(seeds) >= significance.MIN_SEEDS:
            p = significance.permutation_test(paired)
    return Difference(len(paired), summary, p)


def differing_fields(one: Setting, other: Setting) -> dict[str, Any]:
    """The fields in which `one` is not like `other`, with the values of `one`."""
    return {k: v for k, v in one.values.items() if text(v) != text(other.values[k])}


def label(values: dict[str, Any]) -> str:
    return ", ".join(f"{short(key)} = {text(value)}" for key, value in values.items())


def short(key: str) -> str:
    return key.rpartition(".")[2]


def text(value: Any) -> str:
    """A field's value as one writes it in a spec."""
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)


def _identity(run: RunRow, but: Sequence[str] = ()) -> str:
    return json.dumps(
        [
            (key, value)
            for key, value in sorted(run.fields.items())
            if (key == "training.seed" or not key.startswith(IRRELEVANT))
            and key not in but
        ]
    )


def sort_key(value: Any) -> tuple[int, float, str]:
    """Numbers by size, then everything else by its text."""
    if isinstance(value, (int, float)):
        return 0, float(value), ""
    if isinstance(value, (list, tuple)) and all(isinstance(v, int) for v in value):
        return 1, float(sum(value)), text(value)
    return 2, 0.0, text(value)

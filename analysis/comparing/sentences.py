"""A comparison in words: one sentence a setting, and what to be careful about."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from analysis.comparing import tables
from analysis.comparing.settings import (
    Comparison,
    Difference,
    Setting,
    differing_fields,
)
from analysis.comparing.significance import MIN_SEEDS
from cvae.evaluation import metrics
from cvae.evaluation.metrics import FIDELITY

MIN_FIDELITY = 0.95  # of prior samples are read as asked; less is warned of


def verdicts(comparison: Comparison) -> list[str]:
    """One a setting, the best first: how good it is, how far from the reference."""
    metric = comparison.metric
    unit = metrics.metric(metric).unit
    lines: list[str] = []
    for setting, whole, each in comparison.rows:
        amount = f"{metrics.mean_sd(setting.column(metric).tolist(), metric)} {unit}"
        n = "one run" if whole.n == 1 else f"n = {whole.n}"
        head = f"{setting.label}: {amount.strip()} ({n})"
        is_best = setting is comparison.best
        if is_best and len(comparison.settings) > 1:
            head += ", the best"
        distance = _distance(each, setting, comparison) if each else ""
        lines.insert(0 if is_best else len(lines), f"{head}{distance}.")
    if (more := len(lines) - tables.LONGEST) > 0:
        lines[tables.LONGEST :] = [f"{more} more settings are in statistics.csv."]
    return lines


def _distance(each: Difference, setting: Setting, comparison: Comparison) -> str:
    """`; 1.00 ± 0.61 worse than the best (5 pairs by seed, …)`."""
    metric, reference = comparison.metric, comparison.reference
    summary = each.summary
    whom = "the best" if reference is comparison.best else reference.label
    sd = None if math.isnan(summary.sd) else summary.sd
    amount = metrics.number(abs(summary.mean), metric, error=sd)
    worse = metrics.metric(metric).sign * summary.mean > 0
    verdict = f"{amount} {'worse' if worse else 'better'} than {whom}"
    if summary.mean == 0:
        verdict = f"the same as {whom}"
    details = []
    if each.pairs:
        what = "run" if setting.pooled or reference.pooled else "seed"
        pairs = "a single pair" if each.pairs == 1 else f"{each.pairs} pairs"
        details.append(f"{pairs} by {what}")
    if not math.isnan(summary.low):
        interval = tables.interval_text(summary.low, summary.high, metric)
        details.append(f"95 % interval {interval}")
    if not math.isnan(each.p):
        p = tables.p_value(each.adjusted)
        details.append(f"adjusted p {p if p[0] == '<' else f'= {p}'}")
    if (fields := len(differing_fields(setting, reference))) > 1:
        details.append(f"they differ in {fields} fields, so the cause is unclear")
    return f"; {verdict} ({', '.join(details)})"


def cautions(comparison: Comparison) -> list[str]:
    every = comparison.settings
    notes = []
    if len(every) > 1:
        chosen = comparison.chosen_on
        where = "reported on test" if chosen != comparison.metric else "and reported"
        notes.append(f"The best setting is chosen on {chosen}, {where}.")
    if pooled := sorted({key for setting in every for key in setting.pooled}):
        notes.append(
            f"Each setting pools runs that differ in {', '.join(pooled)}. Compare the "
            "paired differences, which hold these fields fixed, not mean ± sd."
        )
    seeds = [setting.seeds for setting in every]
    if len(seeds) > 1 and min(seeds) < MIN_SEEDS:
        few = sum(count < MIN_SEEDS for count in seeds)
        notes.append(
            f"No p-values for {few} of {len(seeds)} settings, which have fewer than "
            f"{MIN_SEEDS} seeds."
        )
    return [*notes, *_control(comparison)]


def shown_digits(figures: Mapping[str, float], key: str = FIDELITY) -> str:
    """The share of a picture's digits that are the digit asked for, for its caption."""
    what = "samples" if key == FIDELITY else "test images decoded as another digit"
    if key not in figures:
        return f" The share of {what} that show the digit asked for was not measured."
    many = [figures[each] for each in figures if re.fullmatch(f"{key}_n\\d+", each)]
    share, accuracy = [figures[key], *many][-1], figures.get("test/judge_accuracy")
    classifier = f" with {100 * accuracy:.2f} % test accuracy" if accuracy else ""
    few = f" Under {100 * MIN_FIDELITY:g} %, the label does not decide the digit alone."
    return (
        f" A CNN{classifier} reads {100 * share:.2f} % of {what} as the digit asked "
        f"for.{few * (share < MIN_FIDELITY)}"
    )


def _control(comparison: Comparison) -> list[str]:
    """Warnings where the best setting's samples do not carry the asked label."""
    known = [each for each in comparison.settings if len(each.column(FIDELITY))]
    if comparison.best not in known:
        return []

    def fidelity(setting: Setting) -> float:
        return float(setting.column(FIDELITY).mean())

    notes, control = [], max(known, key=fidelity)
    best = fidelity(comparison.best)
    if fidelity(control) > best:
        notes.append(
            f"The setting with the best {comparison.metric} obeys labels less well: "
            f"its {FIDELITY} is {100 * best:.1f} %, that of {control.label} "
            f"is {100 * fidelity(control):.1f} %. METRIC={FIDELITY} compares by it."
        )
    if best < MIN_FIDELITY:
        notes.append(
            f"Only {100 * best:.1f} % of the best setting's samples show the digit "
            "asked for."
        )
    return notes

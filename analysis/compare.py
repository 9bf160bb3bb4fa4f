"""Runs compared: tables, curves, the rate–distortion plane, what the seeds can say.

make compare SWEEP=latent_beta BY=model.latent_dim
python -m analysis.compare --experiment cvae --formats png,svg
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.comparing import settings, tables
from analysis.comparing.settings import Comparison, Difference, Side
from analysis.comparing.significance import ENOUGH, Summary
from analysis.reading import arguments, attach
from analysis.reading.runs import Run, Runs
from cvae import metrics
from cvae.errors import RunNotFound, guarded


@dataclass(frozen=True)
class Result:
    """A comparison, and in words what was found and what was left out."""

    runs: Runs
    found: Comparison
    sentences: tuple[str, ...]  # one a side
    notes: tuple[str, ...]

    @property
    def best(self) -> Run:
        """The best run of the best side."""
        sign = -1 if metrics.metric(self.found.metric).higher_is_better else 1
        return min(
            (run for run in self.found.best.runs if _finite(run, self.found.metric)),
            key=lambda run: sign * run.metrics[self.found.metric],
        )


@dataclass(frozen=True)
class Picture:
    """A figure on disk: its PNG first."""

    name: str
    caption: str
    files: tuple[Path, ...]


def compare(
    runs: Runs,
    *,
    metric: str = "test/neg_elbo",
    by: Sequence[str] = (),
    against: str = "",
) -> Result:
    """Group the finished runs, set every group against one, say what was left out.

    Args:
        by: fields whose values make the sides; all that differ if none is named.
        against: the reference side, such as "beta=1"; the best one if left out.

    Raises:
        RunNotFound: no finished run has the metric; no such field or side.
    """
    finished = [run for run in runs.rows if run.status == "FINISHED"]
    scored = [run for run in finished if metric in run.metrics]
    sound = [run for run in scored if _finite(run, metric)]
    if not sound:
        raise RunNotFound(_nothing_to_compare(runs, finished, scored, metric))
    kept, repeated, other = settings.alike(sound)
    keys = [settings.field_named(name, kept) for name in by]
    every = settings.sides(kept, keys)
    found = settings.compare(every, metric, _side_named(against, every))
    left_out = {
        "not finished": [run for run in runs.rows if run.status != "FINISHED"],
        f"without {metric}": [run for run in finished if metric not in run.metrics],
        f"with a {metric} that is not finite": [r for r in scored if r not in sound],
        "repeated with the same spec, the newest counts": repeated,
        "on other data or other pixels, in other nats": other,
    }
    notes = [
        f"left out, {why}: {_named(members, metric)}"
        for why, members in left_out.items()
        if members
    ]
    if runs.unreadable:
        broken = "; ".join(f"{name}: {why}" for name, why in runs.unreadable.items())
        notes.append(f"left out, {len(runs.unreadable)} unreadable: {broken}")
    notes += _cautions(found)
    return Result(runs, found, tuple(_sentences(found)), tuple(notes))


def draw(result: Result, out: Path, formats: Sequence[str] = ("png",)) -> list[Picture]:
    """Every figure of the comparison, written to `out`."""
    from analysis.drawing import plots, style  # matplotlib takes a second to load

    return [
        Picture(name, caption, tuple(style.save(figure, out / f"{name}.png", formats)))
        for name, (figure, caption) in plots.figures(result.runs, result.found).items()
    ]


def write(result: Result, out: Path, formats: Sequence[str] = ("png",)) -> list[Path]:
    """compare.md, runs.csv, statistics.csv and the figures; the files written.

    Raises:
        OSError: the folder cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    pictures = draw(result, out, formats)
    page = out / "compare.md"
    page.write_text(markdown(result, pictures), encoding="utf-8")
    drawn = [file for picture in pictures for file in picture.files]
    return [page, *write_tables(result, out), *drawn]


def write_tables(result: Result, out: Path) -> list[Path]:
    """A line a run, and a line a side with every number of the comparison."""
    return [
        tables.write_csv(result.runs.table(), out / "runs.csv"),
        tables.write_csv(tables.statistics(result.found), out / "statistics.csv"),
    ]


def markdown(result: Result, pictures: Sequence[Picture]) -> str:
    """The comparison as a page that stands next to its pictures."""
    escaped = tables.escaped
    parts = [f"# {escaped(result.runs.name)} compared by {result.found.metric}"]
    parts += ["\n".join(f"- {escaped(sentence)}" for sentence in result.sentences)]
    if result.notes:
        parts += ["\n".join(f"- {escaped(note)}" for note in result.notes)]
    parts += ["## Settings", tables.markdown(tables.sides(result.found)), METHOD]
    parts += [
        f"![{picture.name}]({picture.files[0].name})\n\n{picture.caption}"
        for picture in pictures
    ]
    rows = tables.runs(result.runs.rows, result.runs.differing, result.best)
    return "\n\n".join([*parts, "## Runs", tables.markdown(rows)]) + "\n"


METHOD = (
    "n counts runs; ± is their sample standard deviation. Intervals are 95 % bootstrap "
    "intervals of the mean (BCa, 9,999 resamples); for fewer than five runs they are "
    "too narrow. Differences are of runs paired by seed where the seeds agree. p is of "
    "a permutation test of the means, exact where it can be, adjusted for all settings "
    "(Benjamini and Hochberg). A best setting that was found on the same runs makes "
    "differences to it look slightly large."
)


def _sentences(found: Comparison) -> list[str]:
    """One a side, the best first: how good it is, and how far from the reference."""
    said: list[str] = []
    for side, whole, each in zip(
        found.sides, found.summaries, found.differences, strict=True
    ):
        head = f"{side.label}: {_amount(whole, found.metric)}"
        if side is found.best:
            head += ", the best" if len(found.sides) > 1 else ""
        at = 0 if side is found.best else len(said)
        said.insert(at, f"{head}{_apart(each, side, found) if each else ''}.")
    if (more := len(said) - tables.LONGEST) > 0:
        said[tables.LONGEST :] = [f"{more} more settings are in statistics.csv."]
    return said


def _amount(whole: Summary, metric: str) -> str:
    mean, unit = metrics.number(whole.mean, metric), metrics.metric(metric).unit
    if whole.n == 1:
        return f"{mean} {unit} (one run)".replace("  ", " ")
    sd = metrics.number(whole.sd, metric)
    return f"{mean} ± {sd} {unit} (n = {whole.n})".replace("  ", " ")


def _apart(each: Difference, side: Side, found: Comparison) -> str:
    metric, against = found.metric, found.against
    gap = each.found
    worse = (gap.mean > 0) != metrics.metric(metric).higher_is_better
    how = metrics.number(abs(gap.mean), metric)
    if not math.isnan(gap.sd):
        how += f" ± {metrics.number(gap.sd, metric)}"
    whom = "the best" if against is found.best else against.label
    verdict = f"{how} {'worse' if worse else 'better'} than {whom}"
    if gap.mean == 0:
        verdict = f"the same as {whom}"
    details = []
    if each.pairs:
        what = "run" if side.pooled or against.pooled else "seed"
        pairs = "pair" if each.pairs == 1 else "pairs"
        details.append(f"{each.pairs} {pairs} by {what}")
    if not math.isnan(gap.low):
        low, high = tables.between(gap.low, gap.high, metric).split(" to ")
        details.append(f"95 % interval {low} to {high}")
    if math.isnan(each.p):
        details.append(f"too few seeds for a test, which takes {ENOUGH}")
    else:
        p = tables.p_value(each.adjusted)
        details.append(f"adjusted p {p if p[0] == '<' else f'= {p}'}")
    return f"; {verdict} ({', '.join(details)})"


def _cautions(found: Comparison) -> list[str]:
    pooled = sorted({key for side in found.sides for key in side.pooled})
    notes = []
    if pooled:
        notes.append(
            f"each setting pools runs that differ in {', '.join(pooled)}: compare by "
            "the paired differences, which hold these fixed, not by mean ± sd"
        )
    seeds = [side.seeds for side in found.sides]
    if len(seeds) > 1 and min(seeds) < ENOUGH:
        few = sum(count < ENOUGH for count in seeds)
        notes.append(
            f"too few seeds: {few} of {len(seeds)} settings have under {ENOUGH}, and "
            "no p-value"
        )
    return notes


def _side_named(wanted: str, every: Sequence[Side]) -> Side | None:
    """The side meant by `beta=1` or `latent_dim=2, beta=1`."""
    if not wanted:
        return None
    asked = {part.strip() for part in wanted.replace(" ", "").split(",")}
    for side in every:
        values = {
            f"{name}={settings.text(value)}".replace(" ", "")
            for key, value in side.values.items()
            for name in (key, settings.short(key))
        }
        if asked <= values:
            return side
    known = "; ".join(side.label for side in every[:8])
    raise RunNotFound(f"no side {wanted[:80]!r} to compare with; there is {known}")


def _nothing_to_compare(
    runs: Runs, finished: list[Run], scored: list[Run], metric: str
) -> str:
    if not finished:
        states = ", ".join(
            f"{run.name} ({run.status.lower()})" for run in runs.rows[:8]
        )
        return f"none of {len(runs.rows)} runs is finished: {states}"
    if scored:
        return f"no run's {metric} is finite: {_named(scored, metric)}"
    known = sorted({key for run in finished for key in run.metrics if "test/" in key})
    return f"no finished run has {metric[:80]!r}; there is {', '.join(known) or 'none'}"


def _named(members: Sequence[Run], metric: str) -> str:
    """How many, and which with their status or the value that is no number."""
    shown = []
    for run in members[:8]:
        value = run.metrics.get(metric, 0.0)
        what = run.status.lower() if run.status != "FINISHED" else ""
        what = what or ("" if math.isfinite(value) else str(value))
        shown.append(f"{run.name} ({what})" if what else run.name)
    more = f" and {len(members) - 8} more" if len(members) > 8 else ""
    return f"{len(members)}: {', '.join(shown)}{more}"


def _finite(run: Run, metric: str) -> bool:
    return math.isfinite(run.metrics.get(metric, math.nan))


def main(words: Sequence[str] | None = None) -> int:
    options = arguments.parser("compare", __doc__).parse_args(words)
    return guarded(lambda: _main(options))


def _main(options: argparse.Namespace) -> None:
    formats = arguments.formats(options)
    runs = arguments.selected(options)
    result = compare(
        runs,
        metric=options.metric,
        by=options.by.replace(",", " ").split(),
        against=options.against,
    )
    out = arguments.folder(options, runs, "compare")
    files = write(result, out, formats)
    for line in (*result.sentences, *result.notes):
        print(line)
    print(f"{out}/: {', '.join(file.name for file in files)}")
    print(attach.attach(runs, files, "compare"))


if __name__ == "__main__":
    sys.exit(main())

"""Runs compared: tables, curves, the rate–distortion plane, what the seeds can say.

make compare SWEEP=latent_beta BY=model.latent_dim
python -m cvae compare --experiment cvae --formats png,svg
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from analysis.comparing import proofs, sentences, settings, tables
from analysis.comparing.settings import Comparison, Setting
from analysis.reading import arguments, attach
from analysis.reading.runs import RunRow, Runs
from cvae.errors import RunNotFound
from cvae.evaluation import metrics

if TYPE_CHECKING:
    from analysis.drawing.plates import Plate


@dataclass(frozen=True)
class Result:
    """A comparison, and in words what it says and what was left out."""

    runs: Runs
    comparison: Comparison
    sentences: tuple[str, ...]  # one a setting
    notes: tuple[str, ...]

    @property
    def best(self) -> RunRow:
        """The best run of the best setting, by what the setting was chosen on."""
        key = self.comparison.chosen_on
        sign = metrics.metric(key).sign
        finite = [run for run in self.comparison.best.runs if _has_finite(run, key)]
        return min(finite, key=lambda run: sign * run.metrics[key])


def compare(
    runs: Runs,
    *,
    metric: str = "test/neg_elbo",
    by: Sequence[str] = (),
    against: str = "",
) -> Result:
    """Group the finished runs, compare each group with one, say what was left out.

    Args:
        by: fields whose values make the settings; all that differ if none is named.
        against: the reference, such as "beta=1"; the best setting if left out.

    Raises:
        RunNotFound: no finished run has the metric; no such field or setting.
    """
    finished = [run for run in runs.rows if run.status == "FINISHED"]
    scored = [run for run in finished if metric in run.metrics]
    finite = [run for run in scored if _has_finite(run, metric)]
    if not finite:
        raise RunNotFound(_nothing_to_compare(runs, finished, scored, metric))
    kept, repeated, other = settings.comparable(finite)
    keys = [settings.find_field(name, kept) for name in by]
    every = settings.group_by(kept, keys)
    comparison = settings.compare_settings(every, metric, _reference(against, every))
    left_out = {
        "not finished": [run for run in runs.rows if run.status != "FINISHED"],
        f"without {metric}": [run for run in finished if metric not in run.metrics],
        f"with a {metric} that is not finite": [
            run for run in scored if not _has_finite(run, metric)
        ],
        "repeated with the same spec (the newest counts)": repeated,
        "on other data or with other pixels, so not comparable": other,
    }
    notes = [
        f"Left out, {why}: {_list_runs(members, metric)}."
        for why, members in left_out.items()
        if members
    ]
    if runs.unreadable:
        broken = "; ".join(f"{name}: {why}" for name, why in runs.unreadable.items())
        notes.append(f"Left out, {len(runs.unreadable)} unreadable: {broken}")
    notes += [*proofs.paired(comparison), *sentences.cautions(comparison)]
    return Result(runs, comparison, tuple(sentences.verdicts(comparison)), tuple(notes))


def draw(result: Result) -> list[Plate]:
    """Every figure of the comparison with its caption."""
    from analysis.drawing import plots  # matplotlib takes a second to load

    return plots.draw_comparison(result.runs, result.comparison)


def write(result: Result, out: Path, formats: Sequence[str] = ("png",)) -> list[Path]:
    """runs.csv, statistics.csv and the figures; the files written.

    Raises:
        OSError: the folder cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    drawn = [file for plate in draw(result) for file in plate.save(out, formats)]
    return [*write_tables(result, out), *drawn]


def write_tables(result: Result, out: Path) -> list[Path]:
    """A line a run, and a line a setting with every number of the comparison."""
    written = [out / "runs.csv", out / "statistics.csv"]
    result.runs.table().to_csv(written[0], index=False)
    tables.statistics(result.comparison).to_csv(written[1], index=False)
    return written


def _reference(wanted: str, every: Sequence[Setting]) -> Setting | None:
    """The setting meant by `beta=1` or `latent_dim=2, beta=1`."""
    if not wanted:
        return None
    asked = {part.strip() for part in wanted.replace(" ", "").split(",")}
    for setting in every:
        values = {
            f"{name}={settings.text(value)}".replace(" ", "")
            for key, value in setting.values.items()
            for name in (key, settings.short(key))
        }
        if asked <= values:
            return setting
    known = "; ".join(setting.label for setting in every[:8])
    raise RunNotFound(f"no setting {wanted[:80]!r} to compare with; there is {known}")


def _nothing_to_compare(
    runs: Runs, finished: list[RunRow], scored: list[RunRow], metric: str
) -> str:
    if not finished:
        return f"no run is finished; {_list_runs(runs.rows, metric)}"
    if scored:
        return f"no run's {metric} is finite: {_list_runs(scored, metric)}"
    known = sorted({key for run in finished for key in run.metrics if "test/" in key})
    return f"no finished run has {metric[:80]!r}; there is {', '.join(known) or 'none'}"


def _list_runs(members: Sequence[RunRow], metric: str) -> str:
    """How many, and which with their status or the value that is no number."""
    shown = []
    for run in members[:8]:
        value = run.metrics.get(metric, 0.0)
        what = run.status.lower() if run.status != "FINISHED" else ""
        what = what or ("" if math.isfinite(value) else str(value))
        shown.append(f"{run.title} ({what})" if what else run.title)
    more = f" and {len(members) - 8} more" if len(members) > 8 else ""
    return f"{len(members)}: {', '.join(shown)}{more}"


def _has_finite(run: RunRow, metric: str) -> bool:
    return math.isfinite(run.metrics.get(metric, math.nan))


def compare_selected(options: SimpleNamespace, runs: Runs) -> Result:
    """The comparison that the options ask for."""
    by = options.by.replace(",", " ").split()
    return compare(runs, metric=options.metric, by=by, against=options.against)


def main(**asked: Any) -> None:
    """`make compare`."""
    options = SimpleNamespace(**asked)
    formats = arguments.formats(options.formats)
    runs = arguments.selected_runs(options)
    result = compare_selected(options, runs)
    out = arguments.output_folder(options, runs, "compare")
    files = write(result, out, formats)
    print(*result.sentences, *result.notes, sep="\n")
    print(f"{out}/: {', '.join(file.name for file in files)}")
    if options.attach:
        print(attach.attach(runs, files, "compare"))

"""The results of `make evaluate WHAT=…` for one run, on one page with standard errors.

    make evaluate RUN=seed-notebook WHAT=all
    python -m cvae page --run seed-notebook

Everything is read from `evaluation/` in the run's folder; nothing is computed again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from analysis.comparing import tables
from analysis.drawing import evaluation_plots, style
from analysis.drawing.plates import Plate
from analysis.reading.attach import attach_to_run
from analysis.report import embedded
from analysis.templates import render
from cvae.errors import RunNotFound
from cvae.evaluation.estimator import Measured
from cvae.evaluation.metrics import (
    BASELINES,
    ESTIMATORS,
    metric,
    number,
    split_baseline,
)
from cvae.loading.loaded import LoadedRun, load_run
from cvae.run.evaluation import Facts, Stored, directory, load_parts
from cvae.run.find import display_name

# The pictures of an estimator; one without an entry has its table alone.
DRAWINGS: dict[str, Callable[[Measured, Facts], list[Plate]]] = {
    "nll": evaluation_plots.draw_nll,
    "certified": evaluation_plots.draw_certified,
    "rate_distortion": evaluation_plots.draw_rate_distortion,
    "labels": evaluation_plots.draw_labels,
    "samples": evaluation_plots.draw_samples,
    "latents": evaluation_plots.draw_latents,
}


def write(run: LoadedRun, out: Path) -> Path:
    """evaluation.html, which holds its figures.

    Raises:
        RunNotFound: nothing of this run was evaluated yet.
        Damaged: a file of an evaluation is not what was written.
    """
    every = load_parts(directory(run.folder))
    stored = {name: part for name, part in every.items() if part[0].figures}
    if not stored:
        raise RunNotFound(
            f"{run.folder.name} was not evaluated yet: make evaluate "
            f'RUN={run.folder.name} WHAT="{" ".join(ESTIMATORS)}"'
        )
    out.mkdir(parents=True, exist_ok=True)
    sections = []
    with style.house(), tempfile.TemporaryDirectory() as aside:
        for name in (name for name in ESTIMATORS if name in stored):
            measured, facts = stored[name]
            plates = DRAWINGS[name](measured, facts) if name in DRAWINGS else []
            figures = [embedded(each, each.save(Path(aside))[0]) for each in plates]
            section = {"of": ESTIMATORS[name], "rows": rows(measured), "facts": facts}
            sections.append(section | {"figures": figures})
    content = {
        "name": display_name(run.folder),
        "model": run.model,
        "sections": sections,
        "commands": _commands(run.folder.name, stored),
        "columns": tables.columns,
    }
    page = out / "evaluation.html"
    page.write_text(render("evaluation.html.j2", content), encoding="utf-8")
    return page


def rows(measured: Measured) -> list[tables.Row]:
    """One row per metric: value ± standard error, unit, meaning.

    Metrics of samples have a column for each baseline beside them.
    """
    split = {name: split_baseline(name) for name in measured.figures}
    columns = [end for end in BASELINES if end in {end for _, end in split.values()}]
    listed = []
    for name in dict.fromkeys(stem for stem, _ in split.values()):
        known = metric(f"test/{name}")
        beside = {end: _estimate(measured, f"{name}_{end}") for end in columns}
        listed.append(
            {"metric": name, "value ± standard error": _estimate(measured, name)}
            | beside
            | {"unit": known.unit, "what it is": known.words}
        )
    return listed


def _estimate(measured: Measured, name: str) -> str:
    """value ± standard error; empty where there is none."""
    if name not in measured.figures:
        return ""
    error = measured.errors.get(name)
    return number(measured.figures[name], f"test/{name}", error=error)


def _commands(run: str, stored: Stored) -> list[str]:
    """The commands that measure the same again: one for each pair of draws."""
    asked: dict[str, list[str]] = {}
    for name in (name for name in ESTIMATORS if name in stored):
        facts = stored[name][1]
        counts = f"K={facts['samples']} LABEL_K={facts['label_samples']}"
        asked.setdefault(counts, []).append(name)
    return [
        f'make evaluate RUN={run} {counts} WHAT="{" ".join(names)}"'
        for counts, names in asked.items()
    ]


def main(run: str | None, out: Path | None, attach: bool, runs: Path) -> None:
    """`python -m cvae page`, the end of `make evaluate WHAT=…`."""
    loaded = load_run(run, runs=runs)
    page = write(loaded, out or Path("reports") / loaded.folder.name / "evaluation")
    print(f"{page}: open it in a browser")
    if attach:
        home = directory(loaded.folder)
        files = [page, *sorted([*home.glob("*.csv"), *home.glob("*.json")])]
        print(attach_to_run(loaded, runs, files, "evaluation"))

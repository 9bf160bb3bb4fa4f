"""The results of `make evaluate WHAT=…` for one run, on one page with standard errors.

    make evaluate RUN=seed-notebook WHAT=all
    python -m cvae page --run seed-notebook

Everything is read from `evaluation/` in the run's folder; nothing is computed again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from analysis.comparing import tables
from analysis.drawing import (
    information_plots,
    label_plots,
    latent_plates,
    likelihood_plots,
    sample_plots,
    style,
)
from analysis.drawing.plates import Plate
from analysis.reading import arguments
from analysis.reading.attach import attach_to_run
from analysis.report import embedded, render
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

PIXELS = {
    "none": "grey",
    "threshold": "thresholded",
    "dynamic": "randomly binarised",
}


# The pictures of an estimator; one without an entry has its table alone.
Drawing = Callable[[Measured, Facts], list[Plate]]
DRAWINGS: dict[str, Drawing] = {
    "nll": likelihood_plots.draw_nll,
    "certified": likelihood_plots.draw_certified,
    "gaps": likelihood_plots.draw_gaps,
    "rate_distortion": likelihood_plots.draw_rate_distortion,
    "labels": label_plots.draw_labels,
    "samples": sample_plots.draw_samples,
    "latents": information_plots.draw_latents,
}


def write(run: LoadedRun, out: Path) -> Path:
    """evaluation.html, which holds its figures.

    Raises:
        RunNotFound: nothing of this run was evaluated yet.
        Damaged: a file of an evaluation is not what was written.
    """
    stored = load_parts(directory(run.folder))
    if not stored:
        raise RunNotFound(
            f"{run.folder.name} was not evaluated yet: make evaluate "
            f'RUN={run.folder.name} WHAT="{" ".join(ESTIMATORS)}"'
        )
    out.mkdir(parents=True, exist_ok=True)
    parts = [name for name in ESTIMATORS if name in stored]
    content: dict[str, Any] = {
        "title": f"{display_name(run.folder)}: evaluation",
        "subtitle": _subtitle(run, stored[parts[0]][1]),
        "sections": [],
        "commands": _commands(run.folder.name, stored),
    }
    with style.house(), tempfile.TemporaryDirectory() as aside:
        for name in parts:
            measured, facts = stored[name]
            draw = DRAWINGS.get(name, _no_pictures)
            figures = [
                embedded(plate.name, plate.caption, plate.save(Path(aside))[0])
                for plate in draw(measured, facts)
            ]
            content["sections"].append(
                {
                    "title": ESTIMATORS[name].title,
                    "rows": rows(measured),
                    "settings": _settings(name, measured, facts),
                    "figures": figures,
                }
            )
    page = out / "evaluation.html"
    page.write_text(render("evaluation.html.j2", content), encoding="utf-8")
    return page


def _no_pictures(measured: Measured, facts: Facts) -> list[Plate]:
    return []


def rows(measured: Measured) -> list[tables.Row]:
    """One row per metric: value ± standard error, unit, meaning, source.

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
            | {
                "unit": known.unit,
                "what it is": known.words,
                "reference": known.source,
            }
        )
    return listed


def _estimate(measured: Measured, name: str) -> str:
    """value ± standard error; empty where there is none."""
    if name not in measured.figures:
        return ""
    error = measured.errors.get(name)
    return number(measured.figures[name], f"test/{name}", error=error)


def _subtitle(run: LoadedRun, facts: Facts) -> str:
    kind = "Conditional" if run.model.classes else "Plain"
    return (
        f"{kind} VAE with {latent_plates.dimensions(run.model.latent_dim)}, "
        f"{facts['images']:,} test images, {PIXELS[facts['pixels']]} pixels. ± is the "
        "standard error over images."
    )


def _draws(name: str, measured: Measured, facts: Facts) -> dict[str, int]:
    """The draws of z per image that a part made, by the variable that sets them."""
    counts = {"K": facts["samples"], "LABEL_K": facts["label_samples"]}
    drawn = {key: n for key, n in counts.items() if key == ESTIMATORS[name].draws}
    if any("marginal_nll" in figure for figure in measured.figures):
        drawn["LABEL_K"] = facts["label_samples"]
    return drawn


def _settings(name: str, measured: Measured, facts: Facts) -> str:
    """How a part was measured, in a line."""
    words = {"K": "draws of z per image", "LABEL_K": "at most per image for each label"}
    drawn = _draws(name, measured, facts)
    parts = [f"{key} = {count:,} {words[key]}" for key, count in drawn.items()]
    threads = f"{facts['threads']} thread{'s' * (facts['threads'] > 1)}"
    parts += [
        f"{facts['seconds']:.0f} s on {threads}",
        f"{facts['cpu_seconds']:.0f} CPU seconds",
        f"peak memory {facts['peak_memory'] / 1e9:.1f} GB",
        f"commit {facts['commit'][:8]}",
    ]
    return "; ".join(parts) + "."


def _commands(run: str, stored: Stored) -> list[str]:
    """The commands that measure the same again: one for each number of draws."""
    asked: dict[str, list[str]] = {}
    for name in (name for name in ESTIMATORS if name in stored):
        drawn = _draws(name, *stored[name])
        words = " ".join(f"{key}={count}" for key, count in drawn.items())
        fitting = [known for known in asked if {*words.split()} <= {*known.split()}]
        asked.setdefault(fitting[0] if fitting else words, []).append(name)
    return [
        " ".join(
            filter(
                None, [f"make evaluate RUN={run}", words, f'WHAT="{" ".join(names)}"']
            )
        )
        for words, names in asked.items()
    ]


def main(words: Sequence[str] | None = None) -> int:
    options = arguments.COMMON | arguments.ONE_RUN
    return arguments.command("page", __doc__, options, _main, words)


def _main(options: argparse.Namespace) -> None:
    run = load_run(options.run, runs=options.runs)
    out = options.out or Path("reports") / run.folder.name / "evaluation"
    page = write(run, out)
    print(f"{page}: open it in a browser")
    if options.attach:
        home = directory(run.folder)
        files = [page, *sorted([*home.glob("*.csv"), *home.glob("*.json")])]
        print(attach_to_run(run, options.runs, files, "evaluation"))


if __name__ == "__main__":
    sys.exit(main())

"""What `make evaluate WHAT=…` found of one run, on one page with its errors.

    make evaluate RUN=seed-notebook WHAT=all
    python -m analysis.evaluation --run seed-notebook

Everything is read from `evaluation/` in the run's folder; nothing is computed again.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from analysis.comparing import tables
from analysis.drawing import (
    information_plots,
    label_plots,
    likelihood_plots,
    sample_plots,
)
from analysis.drawing.plates import Plate
from analysis.reading import arguments
from analysis.reading.attach import attach_to_run
from analysis.reading.load import load_runs
from analysis.reading.runs import RunRow
from analysis.report import embedded, render
from cvae.errors import RunNotFound
from cvae.evaluation.measured import Measured
from cvae.evaluation.metrics import BASELINES, metric, number, split_baseline
from cvae.loading.samples import Run, load_run
from cvae.run import measurements
from cvae.run.find import display_name
from cvae.run.measurements import Facts
from cvae.spec.identity import flatten

PIXELS = {"none": "grey", "threshold": "threshold", "dynamic": "dynamic"}


# What runs have in common whose points stand in one plane, besides the network.
SHARED = (
    *("data.root", "data.binarize", "data.corrupt", "data.train_images"),
    "objective.importance_samples",
)


class Section(NamedTuple):
    """A part of the evaluation as the page shows it."""

    title: str
    draw: Callable[[Measured, Facts], list[Plate]]


# By the part's name, in the order of the page.
SECTIONS = {
    "nll": Section("Likelihood", likelihood_plots.draw_nll),
    "certified": Section("How sure it is", likelihood_plots.draw_certified),
    "gaps": Section("What the bound misses", likelihood_plots.draw_gaps),
    "rate_distortion": Section(
        "Rate and distortion", likelihood_plots.draw_rate_distortion
    ),
    "labels": Section("Labels", label_plots.draw_labels),
    "samples": Section("Samples", sample_plots.draw_samples),
    "latents": Section("Latents", information_plots.draw_latents),
}


def write(run: Run, out: Path, others: Sequence[RunRow] = ()) -> list[Path]:
    """evaluation.html, evaluation.md and its pictures; the files written.

    `others` are runs whose points are drawn beside the model's own curve.

    Raises:
        RunNotFound: nothing of this run was evaluated yet.
        Damaged: a file of an evaluation is not what was written.
    """
    stored = measurements.load(measurements.directory(run.folder))
    if not stored:
        raise RunNotFound(
            f"{run.folder.name} was not evaluated yet: make evaluate "
            f'RUN={run.folder.name} WHAT="{" ".join(SECTIONS)}"'
        )
    out.mkdir(parents=True, exist_ok=True)
    parts = [name for name in SECTIONS if name in stored]
    betas = other_betas(run, others)
    content: dict[str, Any] = {
        "title": f"{display_name(run.folder)}: what a reviewer asks",
        "subtitle": _subtitle(run, stored[parts[0]][1]),
        "sections": [],
        "command": f'make evaluate RUN={run.folder.name} WHAT="{" ".join(parts)}"',
    }
    drawn = []
    for name in parts:
        section, (measured, facts) = SECTIONS[name], stored[name]
        figures = []
        for plate in section.draw(measured, facts | {"betas": betas}):
            (png,) = plate.save(out)
            figures.append(embedded(plate.name, plate.caption, png, "png"))
            drawn.append(png)
        content["sections"].append(
            {
                "title": section.title,
                "rows": rows(measured),
                "settings": _settings(facts),
                "figures": figures,
            }
        )
    pages = [out / "evaluation.html", out / "evaluation.md"]
    for page in pages:
        page.write_text(render(f"{page.name}.j2", content), encoding="utf-8")
    return [*pages, *drawn]


def rows(measured: Measured) -> list[tables.Row]:
    """A row a figure: value ± standard error, what it is, what it is defined by.

    Figures of samples have a column for each thing that they are held against.
    """
    split = {name: split_baseline(name) for name in measured.figures}
    columns = [end for end in BASELINES if end in {end for _, end in split.values()}]
    listed = []
    for name in dict.fromkeys(stem for stem, _ in split.values()):
        known = metric(f"test/{name}")
        beside = {end: _estimate(measured, f"{name}_{end}") for end in columns}
        listed.append(
            {"figure": name, "value ± standard error": _estimate(measured, name)}
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
    said = number(measured.figures[name], f"test/{name}")
    if name in measured.errors:
        said += f" ± {number(measured.errors[name], f'test/{name}')}"
    return said


def other_betas(run: Run, others: Sequence[RunRow]) -> list[tuple[float, float, float]]:
    """β, kl and recon of the same network and data with another β: means over runs."""
    own = flatten(run.spec)
    same = [key for key in own if key.startswith("model.") or key in SHARED]
    by_beta: dict[float, list[tuple[float, float]]] = {}
    for other in others:
        if all(other.fields.get(key) == own[key] for key in same):
            kl, recon = (other.metrics.get(f"test/{key}") for key in ("kl", "recon"))
            beta = other.fields["objective.beta"]
            if kl is not None and recon is not None and beta != own["objective.beta"]:
                by_beta.setdefault(beta, []).append((kl, recon))
    means = []
    for beta, points in sorted(by_beta.items()):
        kls, recons = zip(*points, strict=True)
        means.append((beta, statistics.fmean(kls), statistics.fmean(recons)))
    return means


def _subtitle(run: Run, facts: Facts) -> str:
    kind = "Conditional" if run.model.classes else "Plain"
    return (
        f"{kind} VAE with {run.model.latent_dim} latent dimensions, "
        f"{facts['images']:,} test images, {PIXELS[facts['pixels']]} pixels. ± is the "
        "standard error over images."
    )


def _settings(facts: Facts) -> str:
    took = f"{facts['cpu_seconds']:.0f} CPU seconds in {facts['seconds']:.0f} s"
    threads = f"{facts['threads']} thread{'s' * (facts['threads'] > 1)}"
    return (
        f"K = {facts['samples']:,} draws of z an image, {facts['label_samples']:,} for "
        f"each label; {took} on {threads}, at most {facts['peak_memory'] / 1e9:.1f} GB "
        f"until then; commit {facts['commit'][:8]}."
    )


def main(words: Sequence[str] | None = None) -> int:
    options = arguments.COMMON | arguments.ONE_RUN
    return arguments.command("evaluation", __doc__, options, _main, words)


def _main(options: argparse.Namespace) -> None:
    run = load_run(options.run, runs=options.runs)
    out = options.out or Path("reports") / run.folder.name / "evaluation"
    every = load_runs(runs=options.runs)
    files = write(run, out, every.rows)
    print(f"{files[0]}: {len(files) - 2} figures; {files[1].name} beside it")
    home = measurements.directory(run.folder)
    values = sorted([*home.glob("*.csv"), *home.glob("*.json")])
    print(attach_to_run(run, options.runs, [*files, *values], "evaluation"))


if __name__ == "__main__":
    sys.exit(main())

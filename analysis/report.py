"""One self-contained HTML page about runs, with its numbers as CSV.

make report SWEEP=latent_beta
python -m cvae report --experiment cvae
"""

from __future__ import annotations

import base64
import datetime
import io
import shlex
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from PIL import Image

from analysis import compare
from analysis.compare import Result
from analysis.comparing import sentences, tables
from analysis.drawing.plates import Plate
from analysis.reading import arguments, attach
from analysis.reading.runs import RunRow, Runs
from analysis.templates import render
from cvae.evaluation.metrics import mean_sd
from cvae.run.folder import SweepFolder
from cvae.tracking.note import applicable_header

GRIDS = {
    "digits": "Samples from the prior: each row is one label, each column is one z.",
    "reconstructions": "Test images, and below each its reconstruction.",
}
MAX_GRIDS = 60  # settings whose digits are shown side by side: 1 MB
MACHINE = {"device": "device", "GPU": "gpu"}
MACHINE |= {key: key for key in ("processor", "threads", "system")}
VERSIONS = ("python", "torch", "numpy", "mlflow")


def write(result: Result, out: Path, again: str = "") -> list[Path]:
    """report.html, which holds its figures, and both tables; the files written.

    Args:
        again: the command that writes this report.

    Raises:
        OSError: the folder cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    content = _page_content(result, again)
    with tempfile.TemporaryDirectory() as aside:
        content["figures"] = [
            embedded(plate, plate.save(Path(aside), ["svg"])[0])
            for plate in compare.draw(result)
        ]
    words = {"digits": sentences.shown_digits(result.best.metrics)}
    if not result.best.fields["model.conditional"]:
        words = {}
    content["beside"] = _digits_by_setting(result)
    content["samples"] = [
        picture(name, caption + words.get(name, ""), data)
        for name, caption in GRIDS.items()
        if (data := result.runs.file(result.best, f"figures/{name}.png"))
    ]
    page = out / "report.html"
    page.write_text(render("report.html.j2", content), encoding="utf-8")
    return [page, *compare.write_tables(result, out)]


def embedded(plate: Plate, file: Path) -> dict[str, str]:
    """A figure as the templates take it, on the page itself."""
    kind = "svg+xml" if file.suffix == ".svg" else "png"
    return picture(plate.name, plate.caption, file.read_bytes(), kind)


def picture(name: str, caption: str, data: bytes, kind: str = "png") -> dict[str, str]:
    uri = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return {"name": name, "caption": caption, "data": uri}


def _page_content(result: Result, again: str) -> dict[str, Any]:
    """The text of the page, as plain values; the template escapes them."""
    runs, best = result.runs, result.best
    what = "sweep" if runs.sweep else "experiment" if runs.experiment else "runs"
    count = f"{len(runs.rows)} {'run' if len(runs.rows) == 1 else 'runs'}"
    return {
        "title": f"{runs.name}: {result.comparison.metric} of {count}",
        "subtitle": f"A report of the {what} {runs.name}, {_when(runs)}.",
        "questions": _questions(runs),
        "sentences": result.sentences,
        "notes": result.notes,
        "settings": tables.settings(result.comparison),
        "scores": tables.other_scores(result.comparison),
        "runs": tables.runs(runs.rows, runs.differing, best),
        "best": best.title,
        "facts": _facts(runs),
        "commands": _commands(runs, again),
        "columns": tables.columns,
        "longest": tables.LONGEST,
    }


def _digits_by_setting(result: Result) -> list[dict[str, str]]:
    """The digits of each setting's first seed, a column one z in all of them.

    At one pixel a pixel (grids are saved at two), for there may be many settings.
    """
    shown: list[dict[str, str]] = []
    comparison = result.comparison
    for setting, whole, _ in comparison.rows[:MAX_GRIDS]:
        data = result.runs.file(setting.runs[0], "figures/digits.png")
        if len(comparison.rows) == 1 or not data:
            continue
        file = io.BytesIO()
        with Image.open(io.BytesIO(data)) as drawn:
            drawn.reduce(2).save(file, format="PNG")
        score = mean_sd(setting.column(comparison.metric).tolist(), comparison.metric)
        caption = f"{setting.label}: {score} (n = {whole.n})"
        shown.append(picture(setting.label, caption, file.getvalue()))
    return shown


def _questions(runs: Runs) -> list[str]:
    """The head comment of the sweep's file, or of each spec that was run."""
    if runs.sweep:
        header = SweepFolder(runs.place / "sweeps" / runs.sweep).info.get("header")
        if header:
            return [header]
    every = (applicable_header(run.folder.info) for run in runs.rows if run.folder)
    return [header for header in dict.fromkeys(every) if header]


def _facts(runs: Runs) -> list[tuple[str, str]]:
    """Where the numbers come from: each value there is, most runs have one."""

    def of(key: str) -> str:
        return _different(run.facts.get(key, "") for run in runs.rows)

    seconds = sum(run.seconds for run in runs.rows if run.seconds == run.seconds)
    versions = [f"{name} {of(f'version.{name}')}" for name in VERSIONS]
    facts = {
        "runs": f"{len(runs.rows)}, {len(runs.finished)} of them finished",
        "time": f"{seconds:.0f} s in all",
        "commit": _different(run.commit for run in runs.rows),
        **{name: of(key) for name, key in MACHINE.items()},
        "versions": ", ".join(v for v in versions if not v.endswith(" ")),
        "data digest": _different(run.digest for run in runs.rows),
        "experiment": _different(run.experiment for run in runs.rows),
    }
    return [(name, value) for name, value in facts.items() if value]


def _different(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values if value))


def _commands(runs: Runs, again: str) -> list[tuple[str, str]]:
    """Every command that made a run, once, and the one that makes this page."""
    commits, commands = {run.commit for run in runs.rows} - {""}, []
    if len(commits) == 1:
        commands.append(("The code of these runs:", f"git checkout {commits.pop()}"))
    makers: dict[str, list[RunRow]] = {}
    for run in runs.rows:
        makers.setdefault(run.command, []).append(run)
    for command, made in makers.items():
        shown = ", ".join(run.title for run in made[:4])
        more = f" and {len(made) - 4} more" if len(made) > 4 else ""
        commands.append((f"{shown}{more}:", command or "not known"))
    return [*commands, ("This page:", again)] if again else commands


def _when(runs: Runs) -> str:
    ends = (f(run.started for run in runs.rows) for f in (min, max))
    first, last = (datetime.datetime.fromtimestamp(t, datetime.UTC) for t in ends)
    if first.date() == last.date():
        return f"run on {first.date()}"
    return f"run from {first.date()} to {last.date()}"


def main(**asked: Any) -> None:
    """`make report`."""
    options = SimpleNamespace(**asked)
    runs = arguments.selected_runs(options)
    result = compare.compare_selected(options, runs)
    out = arguments.output_folder(options, runs, "report")
    files = write(result, out, _report_command(options))
    print(*result.sentences, *result.notes, sep="\n")
    print(f"{files[0]}: {len(runs.rows)} runs; {files[1].name}, {files[2].name}")
    if options.attach:
        print(attach.attach(runs, files, "report"))


def _report_command(options: SimpleNamespace) -> str:
    asked = {
        name.upper(): getattr(options, name)
        for name in ("experiment", "sweep", "run", "by", "against")
    }
    if options.metric != "test/neg_elbo":
        asked["METRIC"] = options.metric
    said = [f"{name}={shlex.quote(value)}" for name, value in asked.items() if value]
    return " ".join(["make report", *said])

"""Every figure and number of README, made from runs; those not finished are run first.

    make figures JOBS=2
    python -m analysis.figures --only "digits results"

Figures and the page results.md go to docs/, tables to README between their markers.
Made again from the same runs, not one byte differs.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from analysis import latent, sheets, style
from analysis.gallery import EXHIBITS, Drawn
from analysis.needed import SINGLE, SWEEPS, Needed
from cvae import grids, mnist, table
from cvae.checkpoint import write_atomic
from cvae.exits import guarded
from cvae.folder import RunFolder
from cvae.plan import SEEDS
from cvae.samples import RUNS
from cvae.spec import Spec

SCORE = "test/neg_elbo"
TO_BEAT = {  # by the sources that README names
    "seed_notebook": "127.82 [1]",
    "plain_vae": "138.26 [1]",
    "pytorch_example": "105.55 [2]",
}


def results(needed: Needed) -> str:
    """The single specs: mean ± sd of the test bound over seeds."""
    lines = [
        "| experiment | network | test neg_elbo | test kl | to beat |",
        "|---|---|---|---|---|",
    ]
    every: list[RunFolder] = []
    for name in SINGLE:
        folders = needed.repeated(name)
        bound, kl = (spread(folders, f"test/{key}") for key in ("neg_elbo", "kl"))
        cells = [f"`{name}`", network(needed.spec(name)), bound, kl]
        lines.append(f"| {' | '.join(cells)} | {TO_BEAT.get(name, '–')} |")
        every += folders
    return "\n".join([*lines, "", f"*{made_on(every, needed.seeds)}*"])


def sweeps(needed: Needed) -> str:
    """The test bound of each sweep, a table a sweep."""
    parts, every = [], []
    for name in SWEEPS:
        children = needed.children(name)
        groups: dict[tuple[str, ...], list[RunFolder]] = {}
        for swept, folder in children:
            point = tuple(str(v) for key, v in swept.items() if key != SEEDS)
            groups.setdefault(point, []).append(folder)
            every.append(folder)
        keys = [key.partition(".")[2] for key in children[0][0] if key != SEEDS]
        cells = {point: spread(found, SCORE) for point, found in groups.items()}
        seeds = len(next(iter(groups.values())))
        parts.append(f"`{name}`, {seeds} seeds:\n\n{pivot(keys, cells)}")
    return "\n\n".join([*parts, f"*{made_on(every)}*"])


def latents(needed: Needed) -> str:
    """How far the label can be read from z, with and without it as an input."""
    lines = []
    for name in ("seed_notebook", "plain_vae"):
        run = needed.run(name)
        lines.append(f"- `{name}`: {sheets.mixing(run, latent.encode(run))}")
    return "\n".join(lines)


TABLES: dict[str, tuple[tuple[str, ...], Callable[[Needed], str]]] = {
    "results": (SINGLE, results),
    "sweeps": (SWEEPS, sweeps),
    "latents": (("seed_notebook", "plain_vae"), latents),
}


def figures(
    needed: Needed,
    names: Sequence[str],
    *,
    out: Path,
    readme: Path,
    jobs: int | None = None,
    offline: bool = False,
) -> list[Path]:
    """Run what is missing, draw the exhibits and fill the tables that `names` names.

    Returns:
        The files written, README last. The page results.md is for all names at once.

    Raises:
        ValueError: a table has no markers in README.
        SystemExit: a run failed; with its exit code.
    """
    tables = [name for name in TABLES if name in names]
    exhibits = [name for name in EXHIBITS if name in names]
    text = readme.read_text(encoding="utf-8")
    for name in tables:
        text = replaced(text, name, "", readme)  # before hours of training
    needs = [n for name in tables for n in TABLES[name][0]]
    needs += [n for name in exhibits for n in EXHIBITS[name].needs]
    for name in dict.fromkeys(needs):
        seeds = needed.seeds if "results" in tables else 1
        needed.make(name, seeds, jobs=jobs, offline=offline)
    out.mkdir(parents=True, exist_ok=True)
    drawn = [each for name in exhibits for each in EXHIBITS[name].draw(needed)]
    written = [save(each, out) for each in drawn]
    found = {name: TABLES[name][1](needed) for name in tables}
    if set(names) == {*TABLES, *EXHIBITS}:
        written.append(write_page(needed, drawn, out))
    for name, table_text in found.items():
        text = replaced(text, name, table_text, readme)
    write_atomic(readme, text.encode())
    return [*written, readme]


def save(drawn: Drawn, out: Path) -> Path:
    if isinstance(drawn.figure, Figure):
        return style.save(drawn.figure, out / drawn.name)[0]
    grids.save_png(drawn.figure, out / f"{drawn.name}.png")
    return out / f"{drawn.name}.png"


def replaced(text: str, name: str, table_text: str, path: Path) -> str:
    """`text` with what stands between the markers of `name` exchanged.

    Raises:
        ValueError: there is not exactly one pair of markers.
    """
    begin, end = f"<!-- figures:{name} -->", f"<!-- /figures:{name} -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"{path}: must hold {begin} and {end}, each once")
    before, rest = text.split(begin)
    if end not in rest:
        raise ValueError(f"{path}: {end} must come after {begin}")
    return f"{before}{begin}\n{table_text}\n{end}{rest.split(end)[1]}"


def write_page(needed: Needed, drawn: Sequence[Drawn], out: Path) -> Path:
    """results.md: every figure with its caption, every sweep with all its figures."""
    parts = ["# Results", "Made by `make figures`, to be changed there."]
    for each in drawn:
        if each.caption:
            parts.append(f"![{each.name}]({each.name}.png)\n\n{each.caption}")
    for name in SWEEPS:
        plan = needed.plan(name)
        question = re.sub(r"\s+", " ", plan.header.partition("\nExpected")[0])
        lines = [f"| {' | '.join(line)} |" for line in table.summary(plan, needed.runs)]
        lines.insert(1, re.sub(r"[^|]+", "---", lines[0]))
        command = f"`make sweep CONFIG={needed.path(name)}`"
        parts += [f"## {name}", f"{question} {command}", "\n".join(lines)]
    page = out / "results.md"
    write_atomic(page, ("\n\n".join(parts) + "\n").encode())
    return page


def pivot(keys: Sequence[str], cells: Mapping[tuple[str, ...], str]) -> str:
    """A Markdown table of `cells` by their point: the last key's values go across.

    Keys that change in step make one heading.
    """
    down = list(dict.fromkeys(point[:-1] for point in cells))
    across = list(dict.fromkeys(point[-1] for point in cells))
    if len(cells) < len(down) * len(across):
        names = (" · ".join(point) for point in cells)
        in_step: dict[tuple[str, ...], str] = {
            (n,): cell for n, cell in zip(names, cells.values(), strict=True)
        }
        return pivot([" · ".join(keys)], in_step)
    head = keys[-1] if len(keys) == 1 else f"{' · '.join(keys[:-1])} ↓ {keys[-1]} →"
    lines = [f"| {head} | {' | '.join(across)} |", "|---" * (len(across) + 1) + "|"]
    for point in down:
        name = " · ".join(point) or SCORE
        lines.append(f"| {name} | {' | '.join(cells[(*point, a)] for a in across)} |")
    return "\n".join(lines)


def spread(folders: Sequence[RunFolder], key: str) -> str:
    """mean ± sd of a metric; of a single run its value."""
    values = [folder.metrics[key] for folder in folders]
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


def network(spec: Spec) -> str:
    """`794-512-256-2, 15 epochs`: the widths up to the latent."""
    labels = mnist.CLASSES if spec.model.conditional else 0
    widths = (784 + labels, *spec.model.hidden, spec.model.latent_dim)
    return f"{'-'.join(map(str, widths))}, {spec.training.epochs} epochs"


def made_on(folders: Sequence[RunFolder], seeds: int = 0) -> str:
    """On what the runs were made, from their own facts."""
    facts = [folder.info["facts"] for folder in folders]
    machines = dict.fromkeys(fact.get("gpu", fact["processor"]) for fact in facts)
    torches = dict.fromkeys(fact["version.torch"] for fact in facts)
    over = f", mean ± sd over {seeds} seeds" if seeds > 1 else ""
    return (
        f"Nats per image, lower is better{over}; made on {', '.join(machines)} with "
        f"torch {', '.join(torches)}."
    )


def main(words: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(words)

    def act() -> None:
        everything = [*TABLES, *EXHIBITS]
        names = re.findall(r"[^\s,]+", options.only) or everything
        if wrong := [name for name in names if name not in everything]:
            raise ValueError(f"{wrong[0]!r}: there is {', '.join(everything)}")
        overrides = tuple(re.split(r"\s+(?=[\w.]+=)", options.set.strip()))
        needed = Needed(options.runs, tuple(filter(None, overrides)), options.seeds)
        files = figures(
            needed,
            names,
            out=options.out,
            readme=options.readme,
            jobs=options.jobs,
            offline=options.offline,
        )
        print("\n".join(map(str, files)))

    return guarded(act, interrupted="interrupted; the same command goes on")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.figures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--only", default="", help=f"of {', '.join([*TABLES, *EXHIBITS])}")
    add("--jobs", type=int, help="runs of a sweep at once; one a core if none")
    add("--seeds", type=int, default=3, help="of each single experiment")
    add("--set", default="", metavar="'a.b=1 c.d=2'", help="overrides, for a try-out")
    add("--offline", action="store_true", help="publish later, with sync")
    add("--runs", type=Path, default=RUNS, help="folder of runs")
    add("--out", type=Path, default=Path("docs"), help="folder of the figures")
    add("--readme", type=Path, default=Path("README.md"), help="whose tables to fill")
    return parser


if __name__ == "__main__":
    sys.exit(main())

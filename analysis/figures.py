"""Every figure and number of README, made from runs; those not finished are run first.

    make figures JOBS=2
    python -m analysis.figures --only "digits results"

Figures and the page results.md go to docs/, tables to README between their markers.
Made again from the same runs, not one byte differs.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from analysis.comparing.readme_tables import TABLES
from analysis.drawing import style
from analysis.drawing.readme_figures import EXHIBITS, Drawn
from analysis.reading import arguments
from analysis.reading.needed import SWEEPS, Needed
from cvae import grids
from cvae.errors import guarded
from cvae.files import write_atomic
from cvae.run.folder import RUNS
from cvae.spec.document import split_overrides
from cvae.sweep import table
from cvae.tracking.note import markdown


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
        needed.make(name, once="results" not in tables, jobs=jobs, offline=offline)
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
        command = f"`make sweep CONFIG={needed.path(name)}`"
        rows = table.summary(plan, table.rows(plan, needed.runs))
        parts += [f"## {name}", f"{question} {command}", markdown(rows)]
    page = out / "results.md"
    write_atomic(page, ("\n\n".join(parts) + "\n").encode())
    return page


def main(words: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(words)

    def act() -> None:
        everything = [*TABLES, *EXHIBITS]
        names = re.findall(r"[^\s,]+", options.only) or everything
        if wrong := [name for name in names if name not in everything]:
            raise ValueError(f"{wrong[0]!r}: there is {', '.join(everything)}")
        overrides = tuple(split_overrides(options.set))
        needed = Needed(options.runs, overrides, options.seeds)
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
    parser = arguments.bare("figures", __doc__)
    add = parser.add_argument
    add("--only", default="", help=f"of {', '.join([*TABLES, *EXHIBITS])}")
    add("--jobs", type=int, help="runs of a sweep at once; one a core if none")
    add("--seeds", type=int, default=1, help="of each single experiment")
    add("--set", default="", metavar="'a.b=1 c.d=2'", help="overrides, for a try-out")
    add("--offline", action="store_true", help="publish later, with sync")
    add("--runs", type=Path, default=RUNS, help="folder of runs")
    add("--out", type=Path, default=Path("docs"), help="folder of the figures")
    add("--readme", type=Path, default=Path("README.md"), help="whose tables to fill")
    return parser


if __name__ == "__main__":
    sys.exit(main())

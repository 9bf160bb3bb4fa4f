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

from analysis.comparing.readme_tables import TABLES
from analysis.comparing.tables import write_page
from analysis.drawing.plates import Plate
from analysis.drawing.readme_figures import EXHIBITS
from analysis.reading import arguments
from analysis.reading.needed import SWEEPS, Needed
from cvae.files import write_atomic
from cvae.spec.document import split_overrides
from cvae.sweep import table
from cvae.tracking.note import markdown


def make_figures(
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
    written = [file for each in drawn for file in each.save(out)]
    texts = {name: TABLES[name][1](needed) for name in tables}
    if set(names) == {*TABLES, *EXHIBITS}:
        written.append(write_results(needed, drawn, out))
    for name, table_text in texts.items():
        text = replaced(text, name, table_text, readme)
    write_atomic(readme, text.encode())
    return [*written, readme]


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


def write_results(needed: Needed, drawn: Sequence[Plate], out: Path) -> Path:
    """results.md: every figure with its caption, every sweep with all its figures."""
    parts = ["# Results", "Made by `make figures`, to be changed there."]
    parts += [each.markdown for each in drawn if each.caption]
    for name in SWEEPS:
        plan = needed.plan(name)
        question = re.sub(r"\s+", " ", plan.header.partition("\nExpected")[0])
        command = f"`make sweep CONFIG={needed.path(name)}`"
        rows = table.summary(plan, table.rows(plan, needed.runs))
        parts += [f"## {name}", f"{question} {command}", markdown(rows)]
    return write_page(out / "results.md", parts)


def main(words: Sequence[str] | None = None) -> int:
    options: arguments.Options = {
        "--only": {"default": "", "help": f"of {', '.join([*TABLES, *EXHIBITS])}"},
        "--jobs": {"type": int, "help": "runs of a sweep at once; one a core if none"},
        "--seeds": {"type": int, "default": 1, "help": "of each single experiment"},
        "--set": {"default": "", "metavar": "'a.b=1 c.d=2'", "help": "for a try-out"},
        "--offline": {"action": "store_true", "help": "publish later, with sync"},
        "--readme": {"type": Path, "default": Path("README.md"), "help": "to fill"},
    }
    later = "interrupted; the same command goes on"
    return arguments.command(
        "figures", __doc__, options | arguments.COMMON, _main, words, interrupted=later
    )


def _main(options: argparse.Namespace) -> None:
    everything = [*TABLES, *EXHIBITS]
    names = re.findall(r"[^\s,]+", options.only) or everything
    if wrong := [name for name in names if name not in everything]:
        raise ValueError(f"{wrong[0]!r}: there is {', '.join(everything)}")
    overrides = tuple(split_overrides(options.set))
    files = make_figures(
        Needed(options.runs, overrides, options.seeds),
        names,
        out=options.out or Path("docs"),
        readme=options.readme,
        jobs=options.jobs,
        offline=options.offline,
    )
    print(*files, sep="\n")


if __name__ == "__main__":
    sys.exit(main())

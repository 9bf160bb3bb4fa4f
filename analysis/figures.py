"""Every figure and number of README, from the published runs or from one's own.

    make figures                     from results/, nothing is trained
    make figures FROM=runs JOBS=2    from runs/, what is not finished is trained first
    python -m cvae figures --only "digits results"

Figures go to docs/, tables to README and docs/results.md between their markers. A row
of README's table is one experiment with all its finished seeds; `--seeds` says how many
to train. Made again from the same runs, not one byte differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from analysis.comparing.readme_tables import TABLES
from analysis.drawing import style
from analysis.drawing.plates import Plate
from analysis.drawing.readme_figures import EXHIBITS
from analysis.reading import arguments
from analysis.reading.needed import Needed
from analysis.templates import render
from cvae.errors import RunNotFound
from cvae.run import published
from cvae.run.files import write_atomic
from cvae.spec.document import split_overrides

BEGIN, END = "<!-- figures:{} -->", "<!-- /figures:{} -->"
PUBLISHED = Path("results")
IN_RESULTS = ("best", "details", "latents", "sweeps")  # of results.md; one is README's


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
        The files written, the pages last. results.md is made anew with all names, with
        some only its tables are filled.

    Raises:
        ValueError: a table has no markers in its page.
        SystemExit: a run failed; with its exit code.
    """
    tables = [name for name in TABLES if name in names]
    exhibits = [name for name in EXHIBITS if name in names]
    anew = {*tables, *exhibits} == {*TABLES, *EXHIBITS}
    results = out / "results.md"
    pages = {name: results if name in IN_RESULTS else readme for name in tables}
    texts = {results: results_page([])} if anew else {}
    for name, page in pages.items():
        if page not in texts:
            texts[page] = page.read_text(encoding="utf-8")
        replace_section(texts[page], name, "", page)  # said before hours of training
    needs = [n for name in tables for n in TABLES[name][0]]
    needs += [n for name in exhibits for n in EXHIBITS[name].needs]
    for name in dict.fromkeys(needs):
        needed.make(name, once="results" not in tables, jobs=jobs, offline=offline)
    out.mkdir(parents=True, exist_ok=True)
    with style.house():
        drawn = [each for name in exhibits for each in EXHIBITS[name].draw(needed)]
    written = [file for each in drawn for file in each.save(out)]
    if anew:
        texts[results] = results_page(drawn)
    for name, page in pages.items():
        texts[page] = replace_section(texts[page], name, TABLES[name][1](needed), page)
    for page, text in texts.items():
        write_atomic(page, text.encode())
    return [*written, *texts]


def replace_section(text: str, name: str, table_text: str, path: Path) -> str:
    """`text` with what stands between the markers of `name` exchanged.

    Raises:
        ValueError: there is not exactly one pair of markers.
    """
    begin, end = BEGIN.format(name), END.format(name)
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"{path}: must hold {begin} and {end}, each once")
    before, after = text.partition(begin)[0], text.partition(end)[2]
    return f"{before}{begin}\n{table_text}\n{end}{after}"


def results_page(drawn: Sequence[Plate]) -> str:
    """results.md: contents, the tables' places, every figure under a heading."""
    shown = {plate.name: plate.markdown for plate in drawn if plate.caption}
    return render("results.md.j2", {"shown": shown})


def main(
    only: str,
    jobs: int | None,
    seeds: int,
    changes: str,
    offline: bool,
    runs: Path,
    readme: Path,
    out: Path,
) -> None:
    """`make figures`."""
    everything = [*TABLES, *EXHIBITS]
    names = arguments.chosen_names(only, everything) or everything
    if runs == PUBLISHED and published.at(PUBLISHED) is None:
        raise RunNotFound(
            f"nothing is published in {PUBLISHED}/; make figures FROM=runs trains what "
            "the figures are drawn from"
        )
    needed = Needed(runs, tuple(split_overrides(changes)), seeds)
    files = make_figures(
        needed, names, out=out, readme=readme, jobs=jobs, offline=offline
    )
    print(*files, sep="\n")

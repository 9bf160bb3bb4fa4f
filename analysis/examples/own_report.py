"""A report of one's own: python -m analysis.examples.own_report [EXPERIMENT]"""

import sys
from pathlib import Path

from analysis import compare
from analysis.reading.load import load_runs
from cvae.cli.exits import guarded


def report() -> None:
    experiment = sys.argv[1] if sys.argv[1:] else "cvae"
    result = compare.compare(load_runs(experiment=experiment), metric="test/kl")
    page = Path("reports") / "own" / "page.md"
    lines = [f"# The least information: {result.best.title}", *result.sentences]
    for plate in compare.draw(result):
        lines.append(plate.markdown)
        plate.save(page.parent)
    page.write_text("\n\n".join(lines))


if __name__ == "__main__":
    sys.exit(guarded(report))

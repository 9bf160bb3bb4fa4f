"""A report of one's own: python -m analysis.examples.own_report EXPERIMENT"""

import sys
from pathlib import Path

from analysis import compare
from analysis.reading.load import load_runs

result = compare.compare(load_runs(experiment=sys.argv[1]), metric="test/kl")
page = Path("reports") / "own" / "page.md"
plates = compare.draw(result)
lines = [f"# The least information: {result.best.name}", *result.sentences]
for plate in plates:
    plate.save(page.parent)
    lines.append(plate.markdown)
page.write_text("\n\n".join(lines))

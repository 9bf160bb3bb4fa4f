"""The results of `make bench` against their goals, in one table.

python -m benchmarks.summary        (the end of make bench)
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.start import Row, table

RATES = {"speed.json": "all threads", "one.json": "one thread"}
RATIOS = {"jax": 1.2, "floor": 0.85}
BOUND, LIKELIHOOD = 0.75, 0.7


def rows(folder: Path) -> Iterator[Row]:
    """A row for each goal of which the folder has the measurement."""
    results: dict[str, Any] = {
        path.name: json.loads(path.read_text()) for path in folder.glob("*.json")
    }
    for name, threads in RATES.items():
        for case in results.get(name, {}).get("rates", []):
            what = f"{case['case']}, batch {case['batch']}, {threads}: ours/"
            for way, goal in RATIOS.items():
                if way in case["ratios"]:
                    yield what + way, case["ratios"][way]["median"], goal
    for name, result in results.get("likelihood.json", {}).items():
        if isinstance(result, dict) and "floor" in result:
            pairs = zip(result["ours"], result["floor"], strict=True)
            share = statistics.median(a / b for a, b in pairs)
            yield f"{name}: ours/floor", share, BOUND if name == "bound" else LIKELIHOOD
    for part in results.get("start.json", {}).values():
        yield from (tuple(row) for row in part)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--folder", type=Path, default=Path("runs/bench"))
    print("\n" + table(list(rows(parser.parse_args().folder))))


if __name__ == "__main__":
    main()

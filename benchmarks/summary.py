"""What `make bench` measured, against its goals, in one table.

python -m benchmarks.summary        (the end of make bench)
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.quality import command_seconds
from benchmarks.start import rest

Row = tuple[str, float, float]  # what, measured, and the goal: at least, or −at most
RATES = {"speed.json": "all threads", "one.json": "one thread"}
RATIOS = {"ours/jax": 1.2, "ours/floor": 0.85}
USUAL, BUSY, EVALUATION, LIKELIHOOD, SWEEP = 6.0, 0.4, 0.7, 0.6, 0.75
OF_JAX, OF_USUAL, FIRST_LINE, REST = 1 / 3, 1 / 10, 4.0, 0.08


def rows(folder: Path) -> Iterator[Row]:
    """A row for each goal of which the folder has the measurement."""
    results = {
        path.name: json.loads(path.read_text()) for path in folder.glob("*.json")
    }
    for name, threads in RATES.items():
        for case in results.get(name, {}).get("rates", []):
            yield from _rates(case, threads)
    if "speed.json" in results and "busy.json" in results:
        yield from _busy(results["speed.json"]["rates"], results["busy.json"]["rates"])
    if quality := results.get("quality.json"):
        yield from _quality(quality)
    for name, result in results.get("likelihood.json", {}).items():
        if isinstance(result, dict) and "floor" in result:
            pairs = zip(result["ours"], result["floor"], strict=True)
            goal = EVALUATION if name == "bound" else LIKELIHOOD
            yield (
                f"{name}: ours/floor",
                statistics.median(a / b for a, b in pairs),
                goal,
            )
    if start := results.get("start.json"):
        yield from _start(start)
    if sweeps := results.get("sweeps.json"):
        share = statistics.median(sweeps["of the floor"])
        yield "eight runs side by side: ours/floor", share, SWEEP


def _rates(case: dict[str, Any], threads: str) -> Iterator[Row]:
    what = f"{case['case']}, batch {case['batch']}, {threads}"
    goals = RATIOS | ({"ours/usual": USUAL} if case["batch"] == 128 else {})
    for ratio, goal in goals.items():
        if ratio in case["ratios"]:
            yield f"{what}: {ratio}", case["ratios"][ratio]["median"], goal


def _busy(quiet: list[dict[str, Any]], busy: list[dict[str, Any]]) -> Iterator[Row]:
    for one, other in zip(quiet, busy, strict=True):
        share = other["images_per_second"]["ours"] / one["images_per_second"]["ours"]
        what = f"{one['case']}, batch {one['batch']}, beside a busy process"
        yield f"{what}: of the quiet rate", share, BUSY


def _quality(result: dict[str, Any]) -> Iterator[Row]:
    took = command_seconds(result)
    what, usual = "from `python` to 105.55", result["usual"]["seconds"]
    if "jax" in took:
        yield f"{what}: ours/jax, seconds", took["ours"] / took["jax"], -OF_JAX
    yield f"{what}: ours/usual, seconds", took["ours"] / usual, -OF_USUAL


def _start(result: dict[str, dict[str, float]]) -> Iterator[Row]:
    again, fresh = result["again"], result["fresh"]
    yield (
        "make experiment, warm: seconds to the first epoch's line",
        again["first line"],
        -FIRST_LINE,
    )
    yield "quickstart, fresh clone: neither training nor imports", rest(fresh), -REST


def table(measured: list[Row]) -> str:
    """The rows as Markdown; ✓ where the goal is met."""
    lines = ["| what | measured | goal | |", "|---|---|---|---|"]
    for what, value, goal in measured:
        met = value >= goal if goal > 0 else value <= -goal
        sign = "≥" if goal > 0 else "≤"
        mark = "✓" if met else "missed"
        lines.append(f"| {what} | {value:.2f} | {sign} {abs(goal):.2f} | {mark} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--folder", type=Path, default=Path("runs/bench"))
    print("\n" + table(list(rows(parser.parse_args().folder))))


if __name__ == "__main__":
    main()

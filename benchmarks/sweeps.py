"""How many variants a minute? Eight runs of the default spec as whole sweep commands.

    one after another   one worker with all threads
    side by side        one worker a core with one thread each
    floor               nothing but the matrix products of their training, side by side

The first two are `python -m cvae sweep` into an empty folder, everything included:
start-up, tracking, checkpoints, grids, evaluation. Rounds are interleaved; the table
gives medians and their range.

    python -m benchmarks.sweeps        (part of make bench)
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.result import keep
from benchmarks.speed import Child
from cvae.run import provenance
from cvae.sweep import sweep

VARIANTS, EPOCHS, ROUNDS = 8, 3, 2
STEPS = 200  # of the floor, a round
IMAGES, BATCH = 55_000, 256  # of the default spec, and its network:
WIDTHS = [[794, 512, 256, 4], [12, 256, 512, 784]]
SPEC = """name: bench
training: {{epochs: {epochs}}}
sweep: {{seeds: {variants}}}
"""


def seconds(workers: int, threads: int, epochs: int) -> float:
    """Wall-clock seconds of the whole sweep.

    Raises:
        CalledProcessError: the sweep failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.yaml"
        path.write_text(SPEC.format(epochs=epochs, variants=VARIANTS))
        command = [sys.executable, "-m", "cvae", "sweep", str(path)]
        command += ["--runs", f"{folder}/runs"]
        command += ["--jobs", str(workers), "--threads", str(threads)]
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        return time.perf_counter() - began


def floor(cores: int, epochs: int) -> float:
    """Variants a minute if each core did one variant's products and nothing else."""
    case = {"widths": WIDTHS, "batch": BATCH * cores, "parts": cores}
    child = Child("floor", case, cores)
    child.seconds(STEPS // 4)
    took = child.seconds(STEPS) / STEPS * (IMAGES / BATCH) * epochs
    child.end()
    return 60 * cores / took


def variants_a_minute(epochs: int, rounds: int) -> dict[str, Any]:
    """Variants a minute of both ways, and how many times more side by side gives."""
    cores = sweep.resources(workers=1).threads
    ways = {"one after another": (1, cores), "side by side": (cores, 1)}
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, (workers, threads) in ways.items():
            rates[way].append(60 * VARIANTS / seconds(workers, threads, epochs))
        rates.setdefault("floor", []).append(floor(cores, epochs))
    alone, beside, products = rates.values()
    measured: dict[str, Any] = {"cores": cores, "epochs": epochs, "per_minute": rates}
    measured["ratios"] = [b / a for a, b in zip(alone, beside, strict=True)]
    measured["of the floor"] = [b / c for b, c in zip(beside, products, strict=True)]
    return measured


def variant_table(measured: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = ["| way | variants a minute |", "|---|---|"]
    lines += [
        f"| {way} | {_with_range(r)} |" for way, r in measured["per_minute"].items()
    ]
    return "\n".join(
        [
            *lines,
            *("", f"side by side: {_with_range(measured['ratios'])} × as many, "),
            f"{_with_range(measured['of the floor'])} of the floor",
        ]
    )


def _with_range(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path, default=Path("runs/bench/sweeps.json"))
    options = parser.parse_args()
    print(
        f"{VARIANTS} variants of {options.epochs} epochs, {options.rounds} interleaved "
        f"rounds, {time.strftime('%Y-%m-%d')}\n"
    )
    measured = variants_a_minute(options.epochs, options.rounds) | provenance.versions()
    print(variant_table(measured))
    keep(measured, options.out)


if __name__ == "__main__":
    main()

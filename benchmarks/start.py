"""How soon does a run begin, and what else than training does it do?

`make experiment` of the quickstart in a copy of the repository, twice: as a fresh clone
does it (data to unpack, steps to compile, a store to make), then again. The table gives
the seconds to the first epoch's line and in all, and the share of what is neither
training nor imports.

    python -m benchmarks.start        (part of make bench)
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.result import keep
from cvae.run.folder import RunFolder

ROOT = Path(__file__).resolve().parent.parent
COMMAND = ["make", f"PY={sys.executable}", "experiment"]
COMMAND += ["CONFIG=experiments/quickstart.yaml"]


def experiment(place: Path, name: str) -> dict[str, float]:
    """Seconds of one run in a copy of the repository.

    Raises:
        CalledProcessError: it failed.
    """
    environment = os.environ | {"XDG_CACHE_HOME": str(place / "cache")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    began, first = time.perf_counter(), 0.0
    with subprocess.Popen(
        [*COMMAND, f"SET=name={name}"],
        cwd=place,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "epoch 1/" in line:
                first = time.perf_counter() - began
    total = time.perf_counter() - began
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, COMMAND)
    (folder,) = (place / "runs").glob(f"{name}-*")
    of_run = {
        key.removeprefix("time/"): value
        for key, value in RunFolder(folder).metrics.items()
        if key.startswith("time/")
    }
    return {"first line": first, "in all": total} | of_run


def rest(one: dict[str, float]) -> float:
    """The share of a run that is neither training nor imports."""
    return 1 - (one["training"] + one["imports"]) / one["in all"]


def table(measured: dict[str, dict[str, float]]) -> str:
    """The result as Markdown; seconds."""
    keys = ["first line", "in all", "training", "imports", "evaluation", "tracking"]
    keys += ["checkpoints"]
    lines = [["", *keys, "neither training nor imports"]]
    lines.append(["---"] * len(lines[0]))
    for name, one in measured.items():
        cells = [f"{one[key]:.1f}" for key in keys]
        lines.append([name, *cells, f"{100 * rest(one):.0f} %"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, default=Path("runs/bench/start.json"))
    options = parser.parse_args()
    measured: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "cvae"
        clone = ["git", "clone", "--quiet", str(ROOT), str(place)]
        subprocess.run(clone, check=True)
        for name in ("fresh", "again"):
            measured[name] = experiment(place, name)
    print(table(measured))
    keep(measured, options.out)


if __name__ == "__main__":
    main()

"""How soon does a run begin, what does it do besides training, how soon is it good?

    begin    one epoch and what is around it, in units of `import torch`: offline until
             "finished", with the publisher and a warm store until the prompt (2 min)
    target   from `python` to a test neg_elbo of 105.55 nats, ours and JAX's (2 min)
    clone    the quickstart as a fresh clone runs it: data to unpack, steps to compile,
             a store to make (1 min)
    beside   images a second with the connected publisher beside it, and without (2 min)
    labels   the ten labels' likelihoods of 10 latents, LABEL_K=100, one thread (1 min)

What is compared runs in turn; the table gives medians of the rounds. It ends with the
table of all results of `make bench` against their goals.

    python -m benchmarks.start --only begin target        (all: part of make bench)
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.speed import keep, parser_of
from cvae.evaluation.metrics import markdown
from cvae.run.folder import RunFolder

ROOT = Path(__file__).resolve().parent.parent
Row = tuple[str, float, float]  # what, measured, and the goal: at least, or −at most
RATES = {"speed.json": "all threads", "one.json": "one thread"}
RATIOS = {"jax": 1.2, "floor": 0.85}
BOUND, LIKELIHOOD = 0.75, 0.7
JAX = {"hidden": [400], "latent": 20, "batch": 256, "quality": True}


def timed(
    words: Sequence[str], place: Path, **variables: str
) -> tuple[dict[str, float], str]:
    """Run a command: seconds to its first epoch's line, to `finished` and in all; and
    its output.

    Raises:
        SystemExit: it failed; the output is shown.
    """
    environment = os.environ | variables
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    began, seconds, output = time.perf_counter(), dict[str, float](), ""
    with subprocess.Popen(
        words,
        cwd=place,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            output += line
            for sign in ("epoch 1/", ": finished"):
                if sign in line:
                    seconds.setdefault(sign, time.perf_counter() - began)
    seconds["in all"] = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(f"{' '.join(words)}: {output}")
    return seconds, output


def python(*words: str, **variables: str) -> tuple[dict[str, float], str]:
    return timed([sys.executable, *words], ROOT, **variables)


def trained(
    spec: str, runs: Path, changes: str = "", *, offline: bool
) -> tuple[dict[str, float], RunFolder]:
    """`cvae run`, and the folder that it made."""
    words = ["-m", "cvae", "run", f"experiments/{spec}.yaml", "--runs", str(runs)]
    words += ["--set", changes, *(["--offline"] if offline else [])]
    seconds, output = python(*words, MLFLOW_TRACKING_URI="")
    name = re.search(r"^(\S+): finished", output, re.MULTILINE)
    assert name, output
    return seconds, RunFolder(runs / name[1])


def begin(runs: Path, rounds: int) -> list[Row]:
    """What one epoch costs besides that epoch."""
    units: list[float] = []
    columns: dict[str, list[float]] = {"offline": [], "first": [], "stored": []}
    trained("quickstart", runs, "training.epochs=1", offline=False)  # makes the store
    for _ in range(rounds):
        units.append(python("-c", "import torch")[0]["in all"])
        for offline in (True, False):
            took, folder = trained(
                "quickstart", runs, "training.epochs=1", offline=offline
            )
            training = folder.metrics["time/training"]
            if offline:
                columns["offline"].append(took[": finished"] - training)
                columns["first"].append(took["epoch 1/"] - training)
            else:
                columns["stored"].append(took["in all"] - training)
    unit = statistics.median(units)
    print(f"import torch: {unit:.2f} s")
    alone, first, stored = (statistics.median(c) / unit for c in columns.values())
    return [
        ("one epoch less its training, offline, of `import torch`", alone, -1.7),
        ("the same with the publisher, until the prompt", stored, -2.2),
        ("first epoch's line less that epoch", first, -1.4),
    ]


def target(runs: Path, rounds: int) -> list[Row]:
    """Whole processes, from `python` to the test bound of the speedrun."""
    ours, jax = [], []
    for _ in range(rounds):
        took, folder = trained("speedrun", runs, offline=True)
        ours.append(took["in all"])
        said = f"ours {ours[-1]:.1f} s, {folder.metrics['test/neg_elbo']:.2f} nats"
        if importlib.util.find_spec("jax"):
            took, output = python("-m", "benchmarks.jit", json.dumps(JAX))
            jax.append(took["in all"])
            said += f"; JAX {jax[-1]:.1f} s, {float(output.split()[-1]):.2f} nats"
        print(said)
    if not jax:
        print("JAX is left out: pip install -r requirements-extra.txt")
        return []
    share = statistics.median(a / b for a, b in zip(ours, jax, strict=True))
    return [("from `python` to 105.55, offline, of JAX's time", share, -0.5)]


def clone(runs: Path, rounds: int) -> list[Row]:
    """The quickstart by make in a new copy of the repository, once."""
    place = runs / "cvae"
    timed(["git", "clone", "--quiet", str(ROOT), str(place)], ROOT)
    words = ["make", f"PY={sys.executable}", "experiment"]
    words.append("CONFIG=experiments/quickstart.yaml")
    cache = {"XDG_CACHE_HOME": str(runs / "cache"), "MLFLOW_TRACKING_URI": ""}
    took, _ = timed(words, place, **cache)
    (folder,) = place.glob("runs/quickstart-*")
    metrics = RunFolder(folder).metrics
    parts = {k.removeprefix("time/"): v for k, v in metrics.items() if "time/" in k}
    print(", ".join(f"{key} {value:.1f} s" for key, value in (took | parts).items()))
    rest = 1 - (parts["training"] + parts["imports"]) / took["in all"]
    return [("quickstart in a fresh clone: neither training nor imports", rest, -0.08)]


def beside(runs: Path, rounds: int) -> list[Row]:
    """Rates of epochs 4 to 8, when the publisher has long been connected."""
    rates: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(rounds):
        for offline, rate in rates.items():
            _, folder = trained(
                "quickstart", runs, "training.epochs=8", offline=offline
            )
            took = [line["seconds"].get("training") for line in folder.records()]
            rate += [1 / seconds for seconds in took[3:] if seconds]
    alone, watched = (statistics.median(rate) for rate in rates.values())
    what = "images a second beside the connected publisher, of without"
    return [(what, watched / alone, 0.97)]


def labels(runs: Path, rounds: int) -> list[Row]:
    """`WHAT=labels` of a run with the default prior, a mixture, once."""
    change = "model.latent_dim=10 training.epochs=5"
    _, folder = trained("quickstart", runs, change, offline=True)
    words = ["-m", "cvae", "evaluate", "--runs", str(runs), "--run", folder.name]
    words += ["--what", "labels", "--label-samples", "100"]
    took, _ = python(*words, OMP_NUM_THREADS="1")
    return [("labels, LABEL_K=100, one thread: seconds", took["in all"], -40.0)]


PARTS: dict[str, Callable[[Path, int], list[Row]]] = {
    part.__name__: part for part in (begin, target, clone, beside, labels)
}


def table(measured: Sequence[Row]) -> str:
    """The rows as Markdown; ✓ where the goal is met."""
    lines = [["what", "measured", "goal", ""]]
    for what, value, goal in measured:
        met = value >= goal if goal > 0 else value <= -goal
        wanted = f"{'≥' if goal > 0 else '≤'} {abs(goal):.2f}"
        lines.append([what, f"{value:.2f}", wanted, "✓" if met else "missed"])
    return markdown(lines)


def rows(folder: Path) -> Iterator[Row]:
    """A row for each goal of `make bench` that the folder has the measurement of."""
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
    parser = parser_of(__doc__, "start")
    parser.set_defaults(rounds=5)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    measured: dict[str, list[Row]] = {}
    for name in options.only:
        with tempfile.TemporaryDirectory() as folder:
            measured[name] = PARTS[name](Path(folder), options.rounds)
        print(table(measured[name]), flush=True)
    keep(measured, options.out)
    print("\n" + table(list(rows(options.out.parent))))


if __name__ == "__main__":
    main()

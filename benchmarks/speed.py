"""How fast is training? Four ways to do it, in turn.

    usual   what tutorials do (benchmarks/usual.py), .item() in every step
    jax     one compiled program an epoch (benchmarks/jit.py); left out, with a word,
            where JAX is not installed
    ours    the engine as the runner uses it
    floor   nothing but the matrix products (benchmarks/floor.py), better of two ways

Rounds are interleaved, so that a busy neighbour hits all of them; the table gives
medians and quartiles of the ratios. `--busy` keeps one core busy meanwhile. `--quality`
trains experiments/speedrun.yaml with five seeds and the usual loop for ten epochs, and
compares time and test neg_elbo.

    make bench        (or: python -m benchmarks.speed --quality)
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.result import keep
from benchmarks.usual import Usual
from cvae import engine, likelihood, mnist
from cvae.model import CVAE
from cvae.run import provenance, runner, state
from cvae.spec.document import load_spec
from cvae.spec.fields import Spec
from cvae.spec.identity import nested

ROUNDS = 7
STEPS = 40  # a round, per way
DEFAULT = Spec(name="default")
PYTORCH_EXAMPLE = {
    "model.conditional": False,
    "model.latent_dim": 20,
    "model.hidden": [400],
    "training.output_bias": "random",
}
CASES: dict[str, dict[str, Any]] = {
    "784-400-20": PYTORCH_EXAMPLE | {"training.batch_size": 128},
    "794-512-256-2": {"training.batch_size": 128},
    "794-512-256-2 (default)": {},
}


def ours(
    spec: Spec, device: torch.device, images: int | None = None
) -> tuple[CVAE, mnist.Images, Iterator[engine.Epoch]]:
    """The engine over the first `images` training images: model, test data, epochs."""
    data = mnist.load_mnist(mnist.SHIPPED_ROOT, train_images=images)
    now = state.assemble(spec, data, device)
    train = data.train.to(device)
    epochs = engine.train(now.trained, now.optimizer, train, spec, now.streams)
    return now.model, data.test.to(device), epochs


class Child:
    """A way in a process of its own, which takes numbers and prints seconds."""

    def __init__(self, module: str, case: dict[str, Any], threads: int) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        if threads == 1:  # XLA knows no number of threads, but the process's cores
            environment["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
        command = [sys.executable, "-m", f"benchmarks.{module}", json.dumps(case)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, env=environment
        )
        if threads == 1:
            cores = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(self.process.pid, cores[-1:])

    def seconds(self, count: int) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def end(self) -> None:
        self.process.communicate()


def others(spec: Spec) -> dict[str, Child]:
    """The ways that run in a process of their own, on as many threads as ours."""
    threads, batch = torch.get_num_threads(), spec.training.batch_size
    latent, hidden = spec.model.latent_dim, spec.model.hidden
    classes = mnist.CLASSES if spec.model.conditional else 0
    halves = [
        [784 + classes, *hidden, 2 * latent],
        [latent + classes, *reversed(hidden), 784],
    ]
    shape = {"widths": halves, "batch": batch}
    found = {"floor": Child("floor", shape | {"parts": 1}, threads)}
    if threads > 1:
        found["floor in parts"] = Child("floor", shape | {"parts": threads}, threads)
    if importlib.util.find_spec("jax"):
        network = {"hidden": hidden, "latent": latent, "classes": classes}
        found["jax"] = Child("jit", network | {"batch": batch}, threads)
    else:
        print("jax is left out: pip install -r requirements-bench.txt\n")
    return found


def measure(case: str, device: torch.device, root: Path, rounds: int) -> dict[str, Any]:
    """Images a second of each way, round by round."""
    fields = CASES[case] | {"training.schedule": "constant"}
    fields |= {"training.learning_rate": 1e-3, "training.epochs": rounds + 1}
    spec = Spec.model_validate(nested({"name": "bench"} | fields))
    cpu, batch = device.type == "cpu", spec.training.batch_size
    steps = STEPS if cpu else min(10 * STEPS, 60_000 // batch)
    images = steps * batch
    few = images // 4 if cpu else images // 10
    usual = Usual(spec, root, device)
    *_, epochs = ours(spec, device, images)
    children = others(spec) if cpu else {}
    rates: dict[str, list[float]] = {}
    for round_ in range(rounds + 1):
        took = {
            "usual": _seconds(lambda: usual.epoch(few), device) * images / few,
            "ours": _seconds(lambda: next(epochs), device),
        }
        for way, child in children.items():
            took[way] = child.seconds(steps if "floor" in way else images)
        if round_:  # the first warms up
            for way, seconds in took.items():
                rates.setdefault(way, []).append(images / seconds)
    for child in children.values():
        child.end()
    if in_parts := rates.pop("floor in parts", None):
        floors = (rates["floor"], in_parts)
        rates["floor"] = max(floors, key=statistics.median)
    return {
        "case": case,
        "batch": batch,
        "device": device.type,
        "threads": torch.get_num_threads(),
        "images_per_second": {w: statistics.median(r) for w, r in rates.items()},
        "rounds": rates,
        "ratios": {
            f"ours/{way}": _quartiles(rates["ours"], rates[way])
            for way in ("usual", "jax", "floor")
            if way in rates
        },
    }


def quality(device: torch.device, root: Path) -> dict[str, Any]:
    """Seconds of training to a test neg_elbo: the usual ten epochs against speedrun.

    One seed of speedrun follows every two usual epochs, so that both meet the same
    weather.
    """
    usual, runs = _usual_alone(root), []
    seconds, score = 0.0, math.nan
    for epoch, found in enumerate(usual, 1):
        seconds, score = seconds + found["seconds"], found["test_neg_elbo"]
        if epoch % 2 == 0:
            runs.append(_speedrun(device, seed=epoch // 2 - 1))
    return {
        "usual": {"seconds": seconds, "test_neg_elbo": score},
        "speedrun": runs,
        "commands": [_commands() for _ in runs],
    }


def _commands() -> dict[str, float]:
    """Seconds of whole processes, from `python` to a test neg_elbo of 105.55."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["cvae", "run", "experiments/speedrun.yaml", "--offline", "--runs"]
        commands = {"ours": [*words, folder]}
        if importlib.util.find_spec("jax"):
            case = {"hidden": [400], "latent": 20, "batch": 256, "quality": True}
            commands["jax"] = ["benchmarks.jit", json.dumps(case)]
        took = {}
        for way, words in commands.items():
            began = time.perf_counter()
            command = [sys.executable, "-m", *words]
            subprocess.run(command, check=True, capture_output=True)
            took[way] = time.perf_counter() - began
    return took


def _speedrun(device: torch.device, *, seed: int) -> dict[str, float]:
    fast = load_spec("experiments/speedrun.yaml", [f"training.seed={seed}"])
    model, test, epochs = ours(fast, device)
    seconds = _seconds(lambda: list(epochs), device)
    score = likelihood.bound(model, test, state.stream(seed, "e"))
    return {"seconds": seconds, "test_neg_elbo": score["neg_elbo"]}


def usual_epochs(root: Path, epochs: int = 10) -> Iterator[dict[str, float]]:
    """Each epoch of the usual loop: its training seconds, and where it got."""
    spec = Spec.model_validate(nested({"name": "usual"} | CASES["784-400-20"]))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    usual = Usual(spec, root, device)
    for _ in range(epochs):
        seconds = _seconds(usual.epoch, device)
        yield {"seconds": seconds, "test_neg_elbo": usual.test_neg_elbo()}


def _usual_alone(root: Path) -> Iterator[dict[str, float]]:
    """`usual_epochs` in a process that does not flush denormals: nobody's loop does.

    It waits between two epochs until the next one is asked for.
    """
    code = (
        "import json, pathlib, sys; from benchmarks import speed\n"
        "for found in speed.usual_epochs(pathlib.Path(sys.argv[1])):\n"
        "    print(json.dumps(found), flush=True); sys.stdin.readline()"
    )
    command = [sys.executable, "-c", code, str(root)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for line in child.stdout:
            yield json.loads(line)
            child.stdin.write("\n")
            child.stdin.flush()
    if child.returncode:
        raise SystemExit(f"the usual loop ended with exit code {child.returncode}")


def _seconds(action: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _quartiles(ours: list[float], other: list[float]) -> dict[str, float]:
    """Of the ratio of two ways, round by round."""
    ratios = [a / b for a, b in zip(ours, other, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {"low": low, "median": middle, "high": high}


def _torchvision_root(folder: Path) -> Path:
    """torchvision wants <root>/MNIST/raw; ours is linked there."""
    mnist.load_mnist(mnist.SHIPPED_ROOT)
    raw = folder / "MNIST" / "raw"
    raw.parent.mkdir(parents=True)
    raw.symlink_to(mnist.SHIPPED_ROOT)
    return folder


def rate_table(results: list[dict[str, Any]]) -> str:
    """The rates as Markdown: thousands of images a second; ratios with quartiles."""
    ways = [w for w in ("usual", "jax", "ours", "floor") if w in results[0]["rounds"]]
    ratios = list(results[0]["ratios"])
    head = ["network", "batch", "device", "threads", *ways, *ratios]
    lines = [head, ["---"] * len(head)]
    for found in results:
        rate = found["images_per_second"]
        cells = [str(found[key]) for key in head[1:4]]
        cells += [f"{rate[way] / 1000:.1f}" for way in ways]
        for key in ratios:
            r = found["ratios"][key]
            cells.append(f"{r['median']:.2f} ({r['low']:.2f}–{r['high']:.2f})")
        lines.append([found["case"], *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@contextlib.contextmanager
def neighbour() -> Iterator[None]:
    """A process that keeps one core busy."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


def quality_table(found: dict[str, Any]) -> str:
    """Time to quality as Markdown."""
    usual, runs = found["usual"], found["speedrun"]
    seconds = [run["seconds"] for run in runs]
    scores = [run["test_neg_elbo"] for run in runs]
    middle = statistics.median(seconds)
    time_range = f"{middle:.2f} ({min(seconds):.2f}–{max(seconds):.2f})"
    score_range = f"{statistics.mean(scores):.2f} (worst {max(scores):.2f})"
    return f"""\
| | training seconds | test neg_elbo |
|---|---|---|
| usual, 10 epochs | {usual["seconds"]:.1f} | {usual["test_neg_elbo"]:.2f} |
| speedrun, {len(runs)} seeds | {time_range} | {score_range} |

usual / speedrun: {usual["seconds"] / middle:.1f} × less time

Seconds from `python` to the test neg_elbo, imports, data and compilation included: {
        ", ".join(
            f"{way} {statistics.median(one[way] for one in found['commands']):.1f}"
            for way in found["commands"][0]
        )
    }"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quality", action="store_true", help="time to quality, too")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--busy", action="store_true", help="beside a busy process")
    parser.add_argument("--case", choices=CASES, action="append", help="only this one")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/speed.json"))
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = runner.pick_device("auto")
    facts = provenance.hardware(device) | {"torch": torch.__version__}
    print(f"{facts}, Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}\n")
    found: dict[str, Any] = {"hardware": facts, "date": time.strftime("%Y-%m-%d")}
    with tempfile.TemporaryDirectory() as folder:
        root = _torchvision_root(Path(folder))
        cases, found["busy"] = options.case or CASES, options.busy
        with neighbour() if options.busy else contextlib.nullcontext():
            found["rates"] = [
                measure(case, device, root, options.rounds) for case in cases
            ]
        print(
            f"Thousands of images a second, medians of "
            f"{options.rounds} interleaved rounds\n"
        )
        print(rate_table(found["rates"]), flush=True)
        if options.quality:
            found["quality"] = quality(device, root)
            print("\n" + quality_table(found["quality"]))
    keep(found, options.out)


if __name__ == "__main__":
    main()

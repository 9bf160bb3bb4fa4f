"""How fast is training? Four ways to do it, in turn.

    usual   what tutorials do (benchmarks/usual.py), .item() in every step
    jax     one compiled program an epoch (benchmarks/jit.py); left out, with a word,
            where JAX is not installed
    ours    the engine as the runner uses it
    floor   nothing but the matrix products (benchmarks/floor.py), better of two ways

Rounds are interleaved, so that a busy neighbour hits all of them; the table gives
medians and quartiles of the ratios. `--busy` keeps one core busy meanwhile.

    python -m benchmarks.speed --threads 1        (part of make bench)
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
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
from cvae import engine, mnist
from cvae.model import CVAE
from cvae.run import provenance, runner, state
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
    children = {"floor": Child("floor", shape | {"parts": 1}, threads)}
    if threads > 1:
        children["floor in parts"] = Child("floor", shape | {"parts": threads}, threads)
    if importlib.util.find_spec("jax"):
        network = {"hidden": hidden, "latent": latent, "classes": classes}
        children["jax"] = Child("jit", network | {"batch": batch}, threads)
    else:
        print("jax is left out: pip install -r requirements-bench.txt\n")
    return children


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
            "usual": seconds_of(lambda: usual.epoch(few), device) * images / few,
            "ours": seconds_of(lambda: next(epochs), device),
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


def seconds_of(action: Callable[[], Any], device: torch.device) -> float:
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


def torchvision_root(folder: Path) -> Path:
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
    for measured in results:
        rate = measured["images_per_second"]
        cells = [str(measured[key]) for key in head[1:4]]
        cells += [f"{rate[way] / 1000:.1f}" for way in ways]
        for key in ratios:
            r = measured["ratios"][key]
            cells.append(f"{r['median']:.2f} ({r['low']:.2f}–{r['high']:.2f})")
        lines.append([measured["case"], *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@contextlib.contextmanager
def neighbour() -> Iterator[None]:
    """A process that keeps one core busy."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
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
    measured: dict[str, Any] = {"hardware": facts, "date": time.strftime("%Y-%m-%d")}
    with tempfile.TemporaryDirectory() as folder:
        root = torchvision_root(Path(folder))
        cases, measured["busy"] = options.case or CASES, options.busy
        with neighbour() if options.busy else contextlib.nullcontext():
            measured["rates"] = [
                measure(case, device, root, options.rounds) for case in cases
            ]
        print(
            f"Thousands of images a second, medians of "
            f"{options.rounds} interleaved rounds\n"
        )
        print(rate_table(measured["rates"]), flush=True)
    keep(measured, options.out)


if __name__ == "__main__":
    main()

"""How fast is training? Seven ways to do it, in turn.

    tutorial, in memory, torch.compile   three usual loops (benchmarks/usual.py)
    jax     one compiled program an epoch (benchmarks/jit.py); left out, with a word,
            where JAX is not installed
    ours    the engine as a run uses it
    floor   nothing but the matrix products of a step, better of two ways

Rounds are interleaved, so that a busy neighbour hits all of them; the table gives
medians and quartiles of the ratios. It takes about four minutes on two cores.

    python -m benchmarks.speed --threads 1        (part of make bench)
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.usual import LOOPS
from cvae import mnist
from cvae.evaluation.metrics import markdown
from cvae.fast.steps import fastest
from cvae.run import provenance, runner, state
from cvae.spec.fields import Spec
from cvae.spec.identity import nested
from cvae.training import Epoch, train_epochs

ROUNDS = 7
STEPS = 40  # a round, per way
CASES: dict[str, dict[str, Any]] = {
    "784-400-20": {
        "model.conditional": False,
        "model.latent_dim": 20,
        "model.hidden": [400],
        "training.output_bias": "random",
        "training.batch_size": 128,
    },
    "794-512-256-2": {"training.batch_size": 128},
    "794-512-256-2 (default)": {},
}


def ours(spec: Spec, device: torch.device, images: int) -> Iterator[Epoch]:
    """Epochs of the engine over the first `images` training images."""
    data = mnist.load_mnist(mnist.SHIPPED_ROOT, train_images=images)
    now = state.assemble(spec, data, device)
    train = data.train.to(device)
    wanted = state.hyperparameters(spec)
    known = now.trained, now.optimizer, train, wanted, now.streams
    return train_epochs(*known, steps=fastest)


class Jax:
    """The way that runs in a process of its own, on as many threads as ours."""

    def __init__(self, spec: Spec) -> None:
        network = {"hidden": spec.model.hidden, "latent": spec.model.latent_dim}
        network["classes"] = 10 if spec.model.conditional else 0
        network["batch"] = spec.training.batch_size
        environment, alone = dict(os.environ), torch.get_num_threads() == 1
        if alone:  # XLA knows no number of threads, but the process's cores
            environment["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
        command = [sys.executable, "-m", "benchmarks.jit", json.dumps(network)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, env=environment
        )
        if alone:
            cores = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(self.process.pid, cores[-1:])

    def seconds(self, images: int) -> float:
        """Those of an epoch of so many images."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{images}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


def products(
    widths: Sequence[Sequence[int]], batch: int, *, backward: bool = True
) -> Callable[[], None]:
    """Every layer's product with its input; its weight's and its input's gradient."""
    layers = []
    for half in widths:
        for fan_in, fan_out in itertools.pairwise(half):
            x, weight = torch.randn(batch, fan_in), torch.randn(fan_out, fan_in)
            grad = torch.randn(batch, fan_out)
            y, dx, dw = (torch.empty_like(part) for part in (grad, x, weight))
            layers.append((x, weight, grad, y, dx, dw))

    def step() -> None:
        for x, weight, _, y, _, _ in layers:
            torch.mm(x, weight.t(), out=y)
        for index, (x, weight, grad, _, dx, dw) in enumerate(layers * backward):
            torch.mm(grad.t(), x, out=dw)
            if index:  # the images need no gradient
                torch.mm(grad, weight, out=dx)

    return step


def floor(
    widths: Sequence[Sequence[int]], batch: int, parts: int
) -> Callable[[int], None]:
    """What does so many steps: with one part all threads work at each product, with
    more each at those of its part of the batch, side by side."""
    each = [products(widths, batch // parts) for _ in range(parts)]
    threads = torch.get_num_threads()

    def work(step: Callable[[], None], steps: int) -> None:
        torch.set_num_threads(threads // parts)  # of this thread
        for _ in range(steps):
            step()

    def act(steps: int) -> None:
        many = [threading.Thread(target=work, args=(step, steps)) for step in each]
        for thread in many:
            thread.start()
        for thread in many:
            thread.join()
        torch.set_num_threads(threads)  # and of those to come

    return act


def floors(spec: Spec) -> dict[str, Callable[[int], None]]:
    """The products of the spec's steps on all threads, and in parts side by side."""
    threads, batch = torch.get_num_threads(), spec.training.batch_size
    latent, hidden = spec.model.latent_dim, spec.model.hidden
    classes = 10 if spec.model.conditional else 0
    halves = (
        [784 + classes, *hidden, 2 * latent],
        [latent + classes, *reversed(hidden), 784],
    )
    parts = {"floor": 1, "floor in parts": threads}
    return {way: floor(halves, batch, count) for way, count in parts.items()}


def measure(case: str, device: torch.device, root: Path, rounds: int) -> dict[str, Any]:
    """Images a second of each way, round by round."""
    fields = CASES[case] | {"training.schedule": "constant"}
    fields |= {"training.learning_rate": 1e-3, "training.epochs": rounds + 1}
    spec = Spec.model_validate(nested({"name": "bench"} | fields))
    cpu, batch = device.type == "cpu", spec.training.batch_size
    steps = STEPS if cpu else min(10 * STEPS, 60_000 // batch)
    images = steps * batch
    few = batch * max(1, steps // (4 if cpu else 10))  # for slow loops
    loops = {way: loop(spec, root, device) for way, loop in LOOPS.items()}
    epochs, products = ours(spec, device, images), floors(spec) if cpu else {}
    jax = Jax(spec) if cpu and importlib.util.find_spec("jax") else None
    rates: dict[str, list[float]] = {}
    for round_ in range(rounds + 1):
        took: dict[str, float] = {}
        for way, loop in loops.items():
            took[way] = seconds_of(partial(loop.epoch, few), device) * images / few
        if jax:
            took["jax"] = jax.seconds(images)
        took["ours"] = seconds_of(lambda: next(epochs), device)
        for way, act in products.items():
            took[way] = seconds_of(partial(act, steps), device)
        if round_:  # the first warms up
            for way, seconds in took.items():
                rates.setdefault(way, []).append(images / seconds)
    if jax:
        jax.process.communicate()
    if in_parts := rates.pop("floor in parts", None):
        rates["floor"] = max(rates["floor"], in_parts, key=statistics.median)
    return {
        "case": case,
        "batch": batch,
        "device": device.type,
        "threads": torch.get_num_threads(),
        "images_per_second": {w: statistics.median(r) for w, r in rates.items()},
        "rounds": rates,
        "ratios": {
            way: quartiles(rates["ours"], rate)
            for way, rate in rates.items()
            if way != "ours"
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


def quartiles(ours: list[float], other: list[float]) -> dict[str, float]:
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


def tables(results: list[dict[str, Any]]) -> str:
    """Thousands of images a second, then ours over each other way with quartiles."""
    head = ["network, batch", "threads"]
    rates = [[*head, *results[0]["images_per_second"]]]
    ratios = [[*head, *(f"ours/{way}" for way in results[0]["ratios"])]]
    cell = "{median:.2f} ({low:.2f}–{high:.2f})"
    for measured in results:
        name = [f"{measured['case']}, {measured['batch']}", str(measured["threads"])]
        each = measured["images_per_second"].values()
        rates.append(name + [f"{rate / 1000:.1f}" for rate in each])
        ratios.append(name + [cell.format(**r) for r in measured["ratios"].values()])
    return f"{markdown(rates)}\n\n{markdown(ratios)}"


def parser_of(description: str | None, name: str) -> argparse.ArgumentParser:
    """The options that benchmarks share."""
    parser = argparse.ArgumentParser(description=description)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path, default=Path(f"runs/bench/{name}.json"))
    return parser


def keep(measured: dict[str, Any], path: Path) -> None:
    """Add a result to a JSON file and say where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | measured, indent=2) + "\n")
    print(f"\n{path}")


def main() -> None:
    parser = parser_of(__doc__, "speed")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = runner.pick_device("auto")
    if not importlib.util.find_spec("jax"):
        print("jax is left out: pip install -r requirements-extra.txt")
    facts = provenance.hardware(device) | {"torch": torch.__version__}
    day = time.strftime("%Y-%m-%d")
    print(f"{facts}, Python {platform.python_version()}, {day}\n")
    with tempfile.TemporaryDirectory() as folder:
        root = torchvision_root(Path(folder))
        rates = [measure(case, device, root, options.rounds) for case in CASES]
    print(f"Thousands of images a second, medians of {options.rounds} rounds\n")
    print(tables(rates))
    keep({"hardware": facts, "date": day, "rates": rates}, options.out)


if __name__ == "__main__":
    main()

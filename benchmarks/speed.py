"""How fast is training? Three ways to do it, side by side in one process.

    usual   what tutorials do (benchmarks/usual.py), .item() in every step
    ours    the engine as the runner uses it
    floor   nothing but the matrix products of forward and backward

Rounds are interleaved, so that a busy neighbour hits all three; the table gives
medians and quartiles of the ratios. `--quality` trains experiments/speedrun.yaml
with five seeds and the usual loop for ten epochs, and compares time and test neg_elbo.

    make bench        (or: python -m benchmarks.speed --quality)
"""

from __future__ import annotations

import argparse
import json
import math
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
from torch import nn

from benchmarks.usual import Usual
from cvae import engine, likelihood, mnist
from cvae.model import CVAE
from cvae.run import provenance, runner, state
from cvae.spec.document import load_spec
from cvae.spec.fields import Spec, nested

ROUNDS = 21
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
    epochs = engine.train(now.model, now.optimizer, train, spec, now.streams)
    return now.model, data.test.to(device), epochs


def floor(spec: Spec, device: torch.device) -> Callable[[], None]:
    """One step's matrix products: every layer forward, weight and input gradients."""
    model = engine.build_model(spec, pixels=784, generator=torch.Generator())
    batch, products = spec.training.batch_size, []
    for half in (model.encoder, model.decoder):
        for layer in (part for part in half if isinstance(part, nn.Linear)):
            fan_out, fan_in = layer.weight.shape
            x = torch.randn(batch, fan_in, device=device)
            weight = torch.randn(fan_out, fan_in, device=device)
            grad = torch.randn(batch, fan_out, device=device)
            y, dx, dw = (torch.empty_like(part) for part in (grad, x, weight))
            products.append((x, weight, grad, y, dx, dw))

    def step() -> None:
        for x, weight, _, y, _, _ in products:
            torch.mm(x, weight.t(), out=y)
        for index, (x, weight, grad, _, dx, dw) in enumerate(products):
            torch.mm(grad.t(), x, out=dw)
            if index:  # the images need no gradient
                torch.mm(grad, weight, out=dx)

    return step


def measure(case: str, device: torch.device, root: Path) -> dict[str, Any]:
    """Images a second of the three ways, round by round."""
    fields = CASES[case] | {"training.schedule": "constant"}
    fields |= {"training.learning_rate": 1e-3, "training.epochs": ROUNDS + 1}
    spec = Spec.model_validate(nested({"name": "bench"} | fields))
    batch = spec.training.batch_size
    steps = STEPS if device.type == "cpu" else min(10 * STEPS, 60_000 // batch)
    images = steps * batch
    usual = Usual(spec, root, device)
    *_, epochs = ours(spec, device, images)
    product = _replayed(floor(spec, device), device)
    rates: dict[str, list[float]] = {"usual": [], "ours": [], "floor": []}
    few = images // 4 if device.type == "cpu" else images // 10
    for round_ in range(ROUNDS + 1):
        took = {
            "usual": _seconds(lambda: usual.epoch(few), device) * images / few,
            "ours": _seconds(lambda: next(epochs), device),
            "floor": _seconds(lambda: [product() for _ in range(steps)], device),
        }
        if round_:  # the first warms up
            for way, seconds in took.items():
                rates[way].append(images / seconds)
    return {
        "case": case,
        "batch": batch,
        "device": device.type,
        "images_per_second": {w: statistics.median(r) for w, r in rates.items()},
        "rounds": rates,
        "ratios": {
            f"ours/{way}": _quartiles(rates["ours"], rates[way])
            for way in ("usual", "floor")
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
    return {"usual": {"seconds": seconds, "test_neg_elbo": score}, "speedrun": runs}


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


def _replayed(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """On a GPU the floor, too, is a replayed graph: products, not launches."""
    if device.type == "cpu":
        return step
    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()

    def replay() -> None:
        assert step is not None  # holds the tensors that the graph writes into
        graph.replay()

    return replay


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
    lines = [
        "| network | batch | device | usual | ours | floor | ours/usual | ours/floor |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for found in results:
        rate = found["images_per_second"]
        cells = [str(found[key]) for key in ("case", "batch", "device")]
        cells += [f"{rate[way] / 1000:.1f}" for way in ("usual", "ours", "floor")]
        for key in ("ours/usual", "ours/floor"):
            r = found["ratios"][key]
            cells.append(f"{r['median']:.2f} ({r['low']:.2f}–{r['high']:.2f})")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


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

usual / speedrun: {usual["seconds"] / middle:.1f} × less time"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quality", action="store_true", help="time to quality, too")
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
        cases = options.case or CASES
        found["rates"] = [measure(case, device, root) for case in cases]
        print(f"Thousands of images a second, medians of {ROUNDS} interleaved rounds\n")
        print(rate_table(found["rates"]), flush=True)
        if options.quality:
            found["quality"] = quality(device, root)
            print("\n" + quality_table(found["quality"]))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=2) + "\n")
    print(f"\n{options.out}")


if __name__ == "__main__":
    main()

"""How many VAEs a second does one GPU train? Side by side, each on a stream of its own.

Each is experiments/speedrun.yaml with a seed of its own, from drawing the weights to
the test bound, as `make sweep ENGINE=threads` runs them but for what a run writes. Also
the seconds of ten epochs of 784-400-20 in batches of 128, alone.

    python -m benchmarks.abreast --abreast 1 4 16 --json out/abreast.json
"""

from __future__ import annotations

import argparse
import queue
import statistics
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.result import keep
from benchmarks.speed import PYTORCH_EXAMPLE
from cvae import engine, likelihood, mnist
from cvae.model import CVAE
from cvae.run import provenance, runner, state
from cvae.spec.document import load_spec
from cvae.spec.fields import Spec
from cvae.spec.identity import nested

GOAL = 105.55  # test neg_elbo, nats per image, of ten usual epochs
EACH = 4  # VAEs that each of those abreast trains, one after another


def trained(
    spec: Spec, data: mnist.MNIST, device: torch.device
) -> tuple[CVAE, list[float]]:
    """The spec's model, of data on the device, and the seconds of its epochs."""
    now = state.assemble(spec, data, device)
    epochs = engine.train(now.trained, now.optimizer, data.train, spec, now.streams)
    return now.model, [epoch.seconds for epoch in epochs]


def test_bound(spec: Spec, data: mnist.MNIST, device: torch.device) -> float:
    """Test neg_elbo of the spec's model, which is trained first."""
    model, _ = trained(spec, data, device)
    noise = state.stream(spec.training.seed, "evaluate")
    return likelihood.bound(model, data.test, noise)["neg_elbo"]


def abreast(
    spec: Spec, data: mnist.MNIST, device: torch.device, count: int
) -> dict[str, Any]:
    """EACH · count VAEs, count at a time: VAEs a second and their test neg_elbo."""
    seeds: queue.SimpleQueue[int] = queue.SimpleQueue()
    for seed in range(EACH * count):
        seeds.put(seed)
    figures: list[float] = []

    def work() -> None:
        stream = torch.cuda.Stream() if device.type == "cuda" else None
        with torch.cuda.stream(stream):
            for _ in range(EACH):
                seeded = spec.training.model_copy(update={"seed": seeds.get()})
                one = spec.model_copy(update={"training": seeded})
                figures.append(test_bound(one, data, device))

    threads = [threading.Thread(target=work) for _ in range(count)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    return {
        "abreast": count,
        "vaes": len(figures),
        "vaes_per_second": len(figures) / seconds,
        "neg_elbo": statistics.mean(figures),
        "worst": max(figures),
    }


def ten_epochs(data: mnist.MNIST, device: torch.device) -> list[float]:
    """Seconds of ten epochs of 784-400-20 in batches of 128, three times."""
    fields = PYTORCH_EXAMPLE | {"training.batch_size": 128, "training.epochs": 13}
    spec = Spec.model_validate(nested({"name": "ten"} | fields))
    # the first epochs warm up
    return [sum(trained(spec, data, device)[1][3:]) for _ in range(3)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="benchmarks.abreast")
    parser.add_argument("--abreast", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--json", type=Path, default=Path("out/abreast.json"))
    args = parser.parse_args()
    device = runner.pick_device("auto")
    data = mnist.load_mnist(mnist.SHIPPED_ROOT)
    data = replace(data, train=data.train.to(device), test=data.test.to(device))
    took = ten_epochs(data, device)
    print(f"ten epochs of 784-400-20, batch 128: {min(took):.2f} s (best of 3)")
    spec = load_spec(Path("experiments/speedrun.yaml"))
    abreast(spec, data, device, 1)  # warms up
    rows = [abreast(spec, data, device, count) for count in args.abreast]
    for row in rows:
        print(
            f"{row['abreast']:3} abreast: {row['vaes_per_second']:6.2f} VAEs a second, "
            f"neg_elbo {row['neg_elbo']:.2f}, worst {row['worst']:.2f} "
            f"(goal {GOAL})"
        )
    facts = {"ten_epochs": took, "goal": GOAL, "rows": rows}
    keep({"hardware": provenance.hardware(device)} | facts, args.json)


if __name__ == "__main__":
    main()

"""How soon is a model good? Seconds to a test neg_elbo, ours and the usual way.

`experiments/speedrun.yaml` is trained with five seeds, the usual loop for ten epochs.
Then whole processes are timed, from `python` to the test bound of 105.55 nats: imports,
data and compilation included.

    python -m benchmarks.quality        (part of make bench)
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import speed
from benchmarks.result import keep
from benchmarks.usual import Usual
from cvae import likelihood
from cvae.run import provenance, runner, state
from cvae.spec.document import load_spec
from cvae.spec.fields import Spec
from cvae.spec.identity import nested


def quality(device: torch.device, root: Path) -> dict[str, Any]:
    """Seconds of training to a test neg_elbo: the usual ten epochs against speedrun.

    One seed of speedrun follows every two usual epochs, so that both meet the same
    weather.
    """
    usual, runs = _usual_alone(root), []
    seconds, score = 0.0, math.nan
    for epoch, measured in enumerate(usual, 1):
        seconds, score = seconds + measured["seconds"], measured["test_neg_elbo"]
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
    model, test, epochs = speed.ours(fast, device)
    seconds = speed.seconds_of(lambda: list(epochs), device)
    score = likelihood.bound(model, test, state.stream(seed, "e"))
    return {"seconds": seconds, "test_neg_elbo": score["neg_elbo"]}


def usual_epochs(root: Path, epochs: int = 10) -> Iterator[dict[str, float]]:
    """Each epoch of the usual loop: its training seconds, and where it got."""
    spec = Spec.model_validate(nested({"name": "usual"} | speed.CASES["784-400-20"]))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    usual = Usual(spec, root, device)
    for _ in range(epochs):
        seconds = speed.seconds_of(usual.epoch, device)
        yield {"seconds": seconds, "test_neg_elbo": usual.test_neg_elbo()}


def _usual_alone(root: Path) -> Iterator[dict[str, float]]:
    """`usual_epochs` in a process that does not flush denormals: nobody's loop does.

    It waits between two epochs until the next one is asked for.
    """
    code = (
        "import json, pathlib, sys; from benchmarks import quality\n"
        "for measured in quality.usual_epochs(pathlib.Path(sys.argv[1])):\n"
        "    print(json.dumps(measured), flush=True); sys.stdin.readline()"
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


def command_seconds(measured: dict[str, Any]) -> dict[str, float]:
    """The median of each way's whole processes."""
    commands = measured["commands"]
    return {way: statistics.median(one[way] for one in commands) for way in commands[0]}


def quality_table(measured: dict[str, Any]) -> str:
    """Time to quality as Markdown."""
    usual, runs = measured["usual"], measured["speedrun"]
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
            f"{way} {took:.1f}" for way, took in command_seconds(measured).items()
        )
    }"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, default=Path("runs/bench/quality.json"))
    options = parser.parse_args()
    device = runner.pick_device("auto")
    with tempfile.TemporaryDirectory() as folder:
        measured = quality(device, speed.torchvision_root(Path(folder)))
    print(quality_table(measured))
    keep(measured | provenance.hardware(device), options.out)


if __name__ == "__main__":
    main()

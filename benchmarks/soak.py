"""Kill runs again and again, and compare what is left with a run left in peace.

    make soak N=500

Each round starts one spec over and over. A start is SIGKILLed after a random time, or
right before or after its n-th durable system call (fsync, rename, link, unlink), until
one start comes through; now and then the process that publishes it is killed, too.
Folder and MLflow store must then hold what an undisturbed run leaves: the same weights,
records and pictures to the byte, one run, FINISHED, and each (key, step) once. Starts
are forks of one process that has imported everything; they run the real command on a
small data set.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import itertools
import json
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import mlflow.store.tracking.sqlalchemy_store  # noqa: F401  before the forks
import numpy as np
import safetensors.torch
import torch.fx.experimental.symbolic_shapes  # noqa: F401  likewise, by torch itself
from mlflow import MlflowClient
from PIL import Image

from cvae import __main__
from cvae.run import checkpoint, runner  # noqa: F401  before the forks
from cvae.run.files import digest
from cvae.run.folder import RunFolder
from cvae.tracking.connection import make_database

SPEC = """\
name: soak
data: {{root: {root}, validation_images: 100, binarize: dynamic, corrupt: 0.1}}
model: {{hidden: [32], latent_dim: 3}}
objective: {{importance_samples: 2, warmup_epochs: 5}}
training: {{epochs: 12, batch_size: 64, device: cpu}}
evaluation: {{importance_samples: 10}}
tracking: {{experiment: soak, images_every: 3}}
"""
CLOCKED = {"run.json", "tracking.json", "records.jsonl", "lock"}
ADOPT = 36  # prctl's PR_SET_CHILD_SUBREAPER
DURABLE = ("fsync", "replace", "link", "unlink")
CALLS = 66  # half of those of a run left in peace
Kept = dict[str, Any]


@dataclass
class Soak:
    """The spec, the random numbers, and what has happened so far."""

    place: Path
    random: random.Random
    spec: Path = field(init=False)
    duration: float = field(init=False)  # seconds of a run left in peace
    tally: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.spec = self.place / "soak.yaml"
        self.spec.write_text(SPEC.format(root=data_set(self.place / "data")))

    def start(
        self,
        runs: Path,
        *,
        seconds: float = np.inf,
        before: Callable[[], None] | None = None,
        command: list[str] | None = None,
    ) -> int:
        """One start of the command; killed after `seconds`. Its exit code, or -9."""
        command = [*(command or ["run", str(self.spec)]), "--runs", str(runs)]
        sys.stdout.flush()
        if not (child := os.fork()):
            _be_the_command(command, self.place / "log", before)
        deadline = time.monotonic() + seconds
        while not (waited := os.waitpid(child, os.WNOHANG))[0]:
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                deadline = np.inf
            time.sleep(0.002)
        return os.waitstatus_to_exitcode(waited[1])

    def reference(self) -> Kept:
        """What a run left in peace leaves; also measures it."""
        self.with_database(self.place / "peace")
        began = time.monotonic()
        code = self.start(self.place / "peace")
        self.duration = time.monotonic() - began
        _wait_for_publishers()
        if code:
            raise SystemExit((self.place / "log").read_text())
        return kept(self.place / "peace")

    def together(self, count: int, expected: Kept) -> None:
        """`count` specs and the first one again, all at once, on no database."""
        runs = self.place / "together"
        children: list[tuple[int, Path]] = []
        for number in [*range(count), 0]:
            command = ["run", str(self.spec), "--runs", str(runs)]
            shorter = "training.epochs=3 objective.warmup_epochs=0"
            command += ["--set", f"name=soak{number} training.seed={number} {shorter}"]
            log = self.place / f"together-{len(children)}"
            if not (child := os.fork()):
                _be_the_command(command, log, None)
            children.append((child, log))
        codes = [
            os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid, _ in children
        ]
        said = [log.read_text() for _, log in children]
        self.tally["together"] = codes.count(0)
        refused = [text for code, text in zip(codes, said, strict=True) if code]
        told = ("already being run by pid", "finished by another process just now")
        if len(refused) != 1 or not any(words in refused[0] for words in told):
            self.differences.append(f"together: exit codes {codes}: {refused}")
        if "database is locked" in "".join(said):
            self.differences.append("together: database is locked")
        for number in range(count):
            (folder,) = runs.glob(f"soak{number}-*")
            left = kept(runs, folder.name)
            alike = {"MLflow history is the records", "MLflow status", "status"}
            alike |= {"inputs", "every picture is an image"}
            if bad := [key for key in alike if left.get(key) != expected[key]]:
                self.differences.append(f"together: {folder.name}: {bad}")

    def with_database(self, runs: Path) -> None:
        """A folder of runs whose store is there already: making one takes 3 s."""
        template = self.place / "template.db"
        make_database(template)
        runs.mkdir()
        shutil.copy(template, runs / "mlflow.db")

    def round(self, number: int, enough: int, expected: Kept) -> None:
        """Start one spec until it comes through, killed as long as `enough` allows."""
        runs = self.place / f"round-{number}"
        if number % 4:
            self.with_database(runs)
        while True:
            if self.tally["at a random time"] >= enough:
                code = self.start(runs)
            elif self.random.random() < 0.8:
                limit = self.random.uniform(0, 0.5 * self.duration)
                code = self.start(runs, seconds=limit)
                self.tally["at a random time"] += code == -signal.SIGKILL
            else:
                at = self.random.randint(1, CALLS)
                after = self.random.random() < 0.5
                code = self.start(runs, before=partial(_kill_at, at, after=after))
                self.tally["at a durable call"] += code == -signal.SIGKILL
            self.tally["kills"] += code == -signal.SIGKILL
            alone = code == -signal.SIGKILL and self.random.random() < 0.3
            if alone:
                for publisher in _children():  # which follows a run without a trainer
                    os.kill(publisher, signal.SIGKILL)
                    self.tally["publishers"] += 1
            if code not in (0, -signal.SIGKILL):
                text = (self.place / "log").read_text()[-2000:]
                self.differences.append(f"round {number}: exit code {code}: {text}")
            folders = [RunFolder(path.parent) for path in runs.glob("*/run.json")]
            complete = any(folder.status == "FINISHED" for folder in folders)
            if code != -signal.SIGKILL or complete:  # or killed on its way out
                break
        if code and alone:  # nobody is left to publish what is complete
            code = self.start(runs, command=["sync"])
        self.tally["rounds"] += 1
        if code == 0 or complete:
            _wait_for_publishers()
            left = kept(runs)
            self.differences += [
                f"round {number}: {key}: {str(left.get(key))[:300]}, "
                f"not {str(expected.get(key))[:300]}"
                for key in sorted(expected.keys() | left.keys())
                if left.get(key) != expected.get(key)
            ]


def _children() -> list[int]:
    """Processes of this one: of those killed, too, as it adopts what they leave."""
    listed = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text()
    return [int(pid) for pid in listed.split()]


def _wait_for_publishers() -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()


def _kill_at(number: int, *, after: bool) -> None:
    """Kill this process at its `number`-th durable call, before or after it."""
    me, calls = os.getpid(), itertools.count(1)
    for name in DURABLE:
        real = getattr(os, name)

        def wrapped(*args: Any, real: Any = real, **named: Any) -> Any:
            # a publisher that is forked from it is left alone
            at = os.getpid() == me and next(calls) == number
            if at and after:
                real(*args, **named)
            if at:
                os.kill(me, signal.SIGKILL)
            return real(*args, **named)

        setattr(os, name, wrapped)


def _be_the_command(
    command: list[str], log: Path, before: Callable[[], None] | None
) -> NoReturn:
    """In the child: the command as `python -m cvae` runs it, its output in a file."""
    code = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if before:
            before()
        code = __main__.main(command)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def kept(runs: Path, run: str = "*") -> Kept:
    """All that a run leaves, in its folder and in MLflow, and that no clock is in."""
    left: Kept = {}
    folders = [RunFolder(path.parent) for path in runs.glob(f"{run}/run.json")]
    left["run folders"] = [folder.name for folder in folders]
    for folder in folders:
        left["status"] = folder.status
        left["records"] = [
            {k: v for k, v in record["metrics"].items() if not k.startswith("time/")}
            for record in folder.records()
        ]
        for path in sorted(folder.path.rglob("*")):
            name = str(path.relative_to(folder.path))
            if name.startswith("checkpoint"):  # the order in its header is not fixed
                tensors, state = checkpoint.load(path)
                left[name] = state, digest(safetensors.torch.save(tensors))
            elif path.is_file() and name != "git.diff":  # of the code, not of the run
                left[name] = name in CLOCKED or digest(path.read_bytes())
    left |= _in_mlflow(runs, run)
    return left


def _in_mlflow(runs: Path, name: str) -> Kept:
    """What MLflow holds, likewise; its metrics are checked against the records."""
    client = MlflowClient(f"sqlite:///{runs / 'mlflow.db'}")
    stored = client.search_runs([e.experiment_id for e in client.search_experiments()])
    stored = [r for r in stored if fnmatch(r.data.tags.get("cvae.folder", ""), name)]
    left: Kept = {"MLflow runs": [run.info.run_name for run in stored]}
    for run in stored:
        run_id = run.info.run_id
        folder = RunFolder(runs / run.data.tags["cvae.folder"])
        left["MLflow status"] = run.info.status
        left["params"] = run.data.params | {"data.root": ""}
        truth: dict[str, list[tuple[int, float]]] = {}
        for record in folder.records():
            for key, value in record["metrics"].items():
                truth.setdefault(key, []).append((record["epoch"], value))
        history = {
            key: [(p.step, p.value) for p in client.get_metric_history(run_id, key)]
            for key in run.data.metrics
        }
        left["MLflow history is the records"] = history == truth
        left["inputs"] = len(run.inputs.dataset_inputs)
        source = f"source_run_id = '{run_id}'"
        left["models"] = [  # status, and figures by name and step
            (str(model.status), sorted((m.key, m.step) for m in model.metrics or []))
            for model in client.search_logged_models([run.info.experiment_id], source)
        ]
        images = [Path(file.path) for file in client.list_artifacts(run_id, "images")]
        left["images"] = sorted(
            (path.name.partition("+timestamp+")[0], path.suffix) for path in images
        )
        place = runs / "artifacts" / run_id / "artifacts"
        for path in sorted(place.rglob("*.png")) + sorted(place.rglob("*.webp")):
            with Image.open(path) as picture:
                picture.load()  # raises if it is torn
        pictures = list(folder.figures.glob("*.png"))
        left["every picture is an image"] = len(images) == 2 * len(pictures)
    return left


def data_set(root: Path) -> Path:
    """Four IDX files of noise: 500 training and 100 test images of 28 × 28."""
    root.mkdir()
    noise = np.random.default_rng(0)
    for split, count in (("train", 500), ("t10k", 100)):
        images = noise.integers(0, 256, (count, 28, 28), np.uint8).tobytes()
        header = struct.pack(">4I", 0x803, count, 28, 28)
        (root / f"{split}-images-idx3-ubyte").write_bytes(header + images)
        labels = bytes(number % 10 for number in range(count))
        header = struct.pack(">2I", 0x801, count)
        (root / f"{split}-labels-idx1-ubyte").write_bytes(header + labels)
    return root


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--kills", type=int, default=500, help="at random times")
    parser.add_argument("--together", type=int, default=0, help="starts at once")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        soak = Soak(Path(folder), random.Random(options.seed))
        ctypes.CDLL(None).prctl(ADOPT, 1, 0, 0, 0)
        expected = soak.reference()
        began = time.monotonic()
        if options.together:
            soak.together(options.together, expected)
        while soak.tally["at a random time"] < options.kills:
            soak.round(soak.tally["rounds"] + 1, options.kills, expected)
            said = ", ".join(f"{count} {what}" for what, count in soak.tally.items())
            seconds = time.monotonic() - began
            differ = len(soak.differences)
            print(f"{said}; {differ} differences, {seconds:.0f} s", flush=True)
        print(*soak.differences, sep="\n")
        print(json.dumps(soak.tally | {"differences": len(soak.differences)}))
        sys.exit(1 if soak.differences else 0)


if __name__ == "__main__":
    main()

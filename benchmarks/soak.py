"""Kill runs again and again, and compare what is left with a run left in peace.

    make soak N=500

Each round starts one spec over and over. A start is SIGKILLed after a random time, or
right before or after its n-th durable system call (fsync, rename, link, unlink), until
one start comes through. Folder and MLflow store must then hold what an undisturbed run
leaves: the same weights, records and pictures to the byte, one run, FINISHED, and each
(key, step) once. Starts are forks of one process that has imported everything, so that
a kill costs a second and not ten; they run the real command on a small data set.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import mlflow.store.tracking.sqlalchemy_store  # noqa: F401  before the forks
import numpy as np
import torch.fx.experimental.symbolic_shapes  # noqa: F401  likewise, by torch itself

from benchmarks.leftovers import Kept, kept
from cvae import __main__
from cvae.run import runner  # noqa: F401  before the forks
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
DURABLE = ("fsync", "replace", "link", "unlink")


@dataclass
class Soak:
    """The spec, the random numbers, and what has happened so far."""

    place: Path
    random: random.Random
    spec: Path = field(init=False)
    duration: float = field(init=False)  # seconds of a run left in peace
    calls: int = field(init=False)  # durable calls of such a run
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
    ) -> int:
        """One start of the command; killed after `seconds`. Its exit code, or -9."""
        command = ["run", str(self.spec), "--runs", str(runs)]
        sys.stdout.flush()
        if not (child := os.fork()):
            _be_the_command(command, self.place / "log", before)
        deadline = time.monotonic() + seconds
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                deadline = np.inf
            time.sleep(0.002)

    def reference(self) -> Kept:
        """What a run left in peace leaves; also measures it."""
        counted = self.place / "counted"
        self.with_database(self.place / "peace")
        began = time.monotonic()
        code = self.start(self.place / "peace", before=_Count(counted))
        self.duration = time.monotonic() - began
        if code:
            raise SystemExit((self.place / "log").read_text())
        self.calls = counted.stat().st_size
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
        if len(refused) != 1 or "already being run by pid" not in refused[0]:
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
        runs, starts = self.place / f"round-{number}", 0
        if number % 4:
            self.with_database(runs)
        while True:
            starts += 1
            if self.tally["at a random time"] >= enough:
                code = self.start(runs)
            elif self.random.random() < 0.8:
                limit = self.random.uniform(0, 0.5 * self.duration)
                code = self.start(runs, seconds=limit)
                self.tally["at a random time"] += code == -signal.SIGKILL
            else:
                at = self.random.randint(1, self.calls // 2)
                after = self.random.random() < 0.5
                code = self.start(runs, before=_KillAt(at, after=after))
                self.tally["at a durable call"] += code == -signal.SIGKILL
            self.tally["kills"] += code == -signal.SIGKILL
            if code not in (0, -signal.SIGKILL):
                text = (self.place / "log").read_text()[-2000:]
                self.differences.append(f"round {number}: exit code {code}: {text}")
            if code == -signal.SIGKILL and _complete(runs):  # killed on its way out
                code = 0
            if code != -signal.SIGKILL:
                break
        self.tally["rounds"] += 1
        self.tally["resumes"] += starts - 1
        if code == 0:
            left = kept(runs)
            self.differences += [
                f"round {number}: {key}: {str(left.get(key))[:300]}, "
                f"not {str(expected.get(key))[:300]}"
                for key in sorted(expected.keys() | left.keys())
                if left.get(key) != expected.get(key)
            ]


def _complete(runs: Path) -> bool:
    """Whether a start has done all it had to and let go of the run."""
    folders = [RunFolder(path.parent) for path in runs.glob("*/run.json")]
    return any(
        folder.status == "FINISHED" and not folder.abandoned for folder in folders
    )


class _Count:
    """Adds a byte to a file at every durable call."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self) -> None:
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        _wrap(lambda call: (os.write(file, b"."), call())[1])


class _KillAt:
    """Kills its own process at the `number`-th durable call, before or after it."""

    def __init__(self, number: int, *, after: bool) -> None:
        self.left, self.after = number, after

    def __call__(self) -> None:
        def count(call: Callable[[], Any]) -> Any:
            self.left -= 1
            if self.left == 0 and self.after:
                call()
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call()

        _wrap(count)


def _wrap(around: Callable[[Callable[[], Any]], Any]) -> None:
    for name in DURABLE:
        real = getattr(os, name)

        def wrapped(*args: Any, real: Any = real, **named: Any) -> Any:
            return around(lambda: real(*args, **named))

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


def data_set(root: Path) -> Path:
    """Four IDX files of noise: 500 training and 100 test images of 28 × 28."""
    root.mkdir()
    numbers = np.random.default_rng(0)
    for split, count in (("train", 500), ("t10k", 100)):
        arrays = {
            "images-idx3": numbers.integers(0, 256, (count, 28, 28), np.uint8),
            "labels-idx1": (np.arange(count) % 10).astype(np.uint8),
        }
        for kind, array in arrays.items():
            header = bytes([0, 0, 8, array.ndim])
            header += b"".join(size.to_bytes(4, "big") for size in array.shape)
            (root / f"{split}-{kind}-ubyte").write_bytes(header + array.tobytes())
    return root


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--kills", type=int, default=500, help="at random times")
    parser.add_argument("--together", type=int, default=0, help="starts at once")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--place", type=Path, help="new folder that is kept")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        place = options.place or Path(folder) / "soak"
        place.mkdir(parents=True)
        soak = Soak(place, random.Random(options.seed))
        expected = soak.reference()
        began = time.monotonic()
        if options.together:
            soak.together(options.together, expected)
        while soak.tally["at a random time"] < options.kills:
            soak.round(soak.tally["rounds"] + 1, options.kills, expected)
            print(
                f"round {soak.tally['rounds']}: {soak.tally['kills']} kills, "
                f"{soak.tally['resumes']} resumes, "
                f"{len(soak.differences)} differences, "
                f"{time.monotonic() - began:.0f} s",
                flush=True,
            )
        print(*soak.differences, sep="\n")
        print(json.dumps(soak.tally | {"differences": len(soak.differences)}))
        sys.exit(1 if soak.differences else 0)


if __name__ == "__main__":
    main()

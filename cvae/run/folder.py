"""A run's folder: the truth about a run, whatever the tracking store knows of it.

spec.yaml             the resolved spec
run.json              status, process, environment, description
records.jsonl         one line an epoch, then one with the test figures
checkpoint.safetensors  all that is needed to go on (and .previous)
model.safetensors     the final weights
figures/              grids as PNG
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cvae.errors import Damaged, SpecError
from cvae.run import files
from cvae.run.files import errors_naming, write_atomic
from cvae.spec.document import dump, load_resolved
from cvae.spec.fields import Spec

Record = dict[str, Any]
Stamp = tuple[int, int, int]
RUNS = Path("runs")
FIRST = "make experiment CONFIG=experiments/quickstart.yaml"  # what to begin with
JUDGES = "judges"  # the classifiers lie in this folder of `runs`

# of what is computed with in run.json, sweep.json and tracking.json
KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("id", "uid", "name", "status", "command", "header", "uri"), str),
    **dict.fromkeys(("git", "facts", "data", "swept", "best"), dict),
    **dict.fromkeys(("changes", "keys", "runs", "summary", "images"), list),
    **dict.fromkeys(("started", "ended"), (int, float)),
}


def read_facts(path: Path) -> dict[str, Any]:
    """A JSON file of facts; empty where there is none, or not one that was written."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    sound = isinstance(content, dict) and all(
        isinstance(content[key], kind) for key, kind in KINDS.items() if key in content
    )
    return content if sound else {}


def _record(line: bytes) -> Record:
    """A line of records.jsonl; raises ValueError if it is none."""
    record = json.loads(line)
    if not isinstance(record, dict) or not isinstance(record.get("epoch"), int):
        raise ValueError(f"{line[:80]!r} has no epoch")
    metrics = record.get("metrics")
    if not isinstance(metrics, dict) or not all(
        isinstance(value, (int, float)) for value in metrics.values()
    ):
        raise ValueError(f"the metrics of epoch {record['epoch']} are no numbers")
    return record


@dataclass(frozen=True)
class Origin:
    """Where a run comes from, as its `run.json` says it."""

    header: str = ""  # the head comment of its YAML file
    command: str = ""  # what to type to get the same again
    changes: tuple[str, ...] = ()  # overrides of the file, `model.latent_dim=8`
    sweep: Mapping[str, Any] = field(default_factory=dict)  # sweep, swept, label


def make_command(target: str, config: str, changes: str) -> str:
    """What to type to get the same again."""
    command = f"make {target} CONFIG={shlex.quote(config)}"
    return f"{command} SET={shlex.quote(changes)}" if changes else command


class FactsFolder:
    """A folder with a JSON file of facts about it, read and written whole."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.facts = path / name
        self._info: dict[str, Any] = {}
        self._checked: Stamp | None = None  # of the file that they were read from

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def info(self) -> dict[str, Any]:
        """The facts, checked when the file is read; empty if there are none yet."""
        stamp = stamp_of(self.facts)
        if stamp != self._checked:
            self._info, self._checked = read_facts(self.facts), stamp
        return dict(self._info)

    @property
    def published(self) -> dict[str, Any]:
        """What the tracker noted of the store it published to; empty if it has not."""
        return read_facts(self.path / "tracking.json")

    def check_files(self) -> None:
        """Raises Damaged if what was written is not there, or is something else."""
        if not self.info:
            raise Damaged(f"{self.facts}: damaged: not what was written")

    def update(self, **changes: Any) -> None:
        """Merge `changes` into the facts."""
        info = self.info | changes
        text = json.dumps(info, indent=2, sort_keys=True, allow_nan=False)
        write_atomic(self.facts, f"{text}\n".encode())


class RunFolder(FactsFolder):
    """`runs/<name>-<id>[-n]/`; every write is atomic or an appended line."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "run.json")
        self.checkpoint = path / "checkpoint.safetensors"
        self.weights = path / "model.safetensors"
        self.figures = path / "figures"
        self._records: list[Record] = []
        self._decoded = 0  # bytes of the file that they were read from

    @property
    def status(self) -> str:
        """NEW, RUNNING, FINISHED, FAILED or KILLED, as which a dead RUNNING counts."""
        status = self.info.get("status", "NEW")
        return "KILLED" if status == "RUNNING" and not self.held() else str(status)

    def spec(self) -> Spec:
        """The resolved spec of the run.

        Raises:
            SpecError: the file is missing, damaged, or not what the run was made with.
        """
        path, recorded = self.path / "spec.yaml", self.info.get("id")
        spec = load_resolved(path)
        if recorded not in (None, spec.id):
            raise SpecError(
                f"{path}: was edited: its fields have the id {spec.id}, but the run "
                f"was made with those of {recorded}; undo the edit (a changed spec is "
                "a new run: give it a file of its own)"
            )
        return spec

    def check_spec(self, spec: Spec) -> bool:
        """Whether the run was begun in another experiment than `spec` names.

        A lost spec.yaml is written anew.

        Raises:
            SpecError: the file is damaged, or not what the run was made with.
        """
        self.write_missing_spec(spec)
        return self.spec().tracking.experiment != spec.tracking.experiment

    def create(self, spec: Spec) -> None:
        """Make the folder and write the spec; the uid names the run in every store."""
        self.figures.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path / "spec.yaml", dump(spec).encode())
        self.update(uid=uuid.uuid4().hex, id=spec.id, status="NEW")

    def write_missing_spec(self, spec: Spec) -> None:
        """Write the run's spec where there is no file of it."""
        if not (self.path / "spec.yaml").exists():
            write_atomic(self.path / "spec.yaml", dump(spec).encode())

    def records(self) -> list[Record]:
        """All complete lines of `records.jsonl`, oldest first; each is decoded once."""
        path = self.path / "records.jsonl"
        if not path.exists():
            return []
        with path.open("rb") as file:
            if file.seek(0, os.SEEK_END) < self._decoded:
                self._records, self._decoded = [], 0
            file.seek(self._decoded)
            lines = file.read().splitlines(keepends=True)
        try:
            for line in lines:
                if line.endswith(b"\n"):  # else it is being written, or cut off
                    self._records.append(_record(line))
                    self._decoded += len(line)
        except ValueError as error:
            raise Damaged(
                f"{path}: altered, a line is no record: {error}; put it back, or move "
                "the folder away to make the run anew"
            ) from error
        return list(self._records)

    @property
    def metrics(self) -> dict[str, float]:
        """The latest value of every metric."""
        return latest(self.records())

    def check_files(self) -> None:
        super().check_files()
        if not self.records() and self.info.get("status") == "FINISHED":
            raise Damaged(f"{self.path / 'records.jsonl'}: missing")

    def read_weights(self) -> bytes:
        """The final weights, a safetensors file."""
        return self.weights.read_bytes()

    def append(self, record: Record) -> None:
        """Add a line, on the disk when this returns; a torn last line is cut first."""
        line = json.dumps(record, allow_nan=False) + "\n"
        path = self.path / "records.jsonl"
        with errors_naming(path), path.open("a+b") as file:
            if end := file.seek(0, os.SEEK_END):
                file.seek(end - 1)
                if file.read() != b"\n":
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process (see `files.hold_lock`).

        Raises:
            Busy: naming the process that holds it.
        """
        with files.hold_lock(self.path / "lock"):
            for part in self.path.rglob(".*.part"):  # of those who died writing
                part.unlink(missing_ok=True)
            yield

    def held(self) -> bool:
        """Whether a living process holds the run."""
        return files.lock_held(self.path / "lock")


def latest(records: Sequence[Record]) -> dict[str, float]:
    """The latest value of every metric."""
    metrics: dict[str, float] = {}
    for record in records:
        metrics |= record["metrics"]
    return metrics


def stamp_of(path: Path) -> Stamp | None:
    """What changes with a file's content; None where there is no file."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


class SweepFolder(FactsFolder):
    """`runs/sweeps/<name>/`: what the sweep asks, its runs, its table.

    sweep.yaml   the file as written
    sweep.json   question, swept keys, the run of every variant
    table.csv    a line a run, made anew whenever the sweep is run
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "sweep.json")

    def runs(self) -> list[RunFolder]:
        """The runs of its variants that have been begun, in the sweep's order."""
        home = self.path.parent.parent
        members = [RunFolder(home / run["folder"]) for run in self.info.get("runs", [])]
        return [folder for folder in members if "started" in folder.info]

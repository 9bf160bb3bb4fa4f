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
import fcntl
import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import yaml

from cvae.errors import Busy, Damaged
from cvae.files import naming, write_atomic
from cvae.spec.document import parse, validate
from cvae.spec.fields import Spec, flatten, nested

Record = dict[str, Any]
RUNS = Path("runs")
PATIENCE = 1.0  # seconds; others look at a lock for a moment, and owners sign it late
BEAT = 5.0  # seconds between a holder's signs of life
SILENCE = 30.0  # seconds after which a holder on another machine counts as dead


class Described:
    """A folder with a JSON file of facts about it, read and written whole."""

    def __init__(self, path: Path, facts: str) -> None:
        self.path = path
        self.facts = path / facts

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def info(self) -> dict[str, Any]:
        """The facts; empty if there are none yet."""
        return _read(self.facts)

    @property
    def published(self) -> dict[str, Any]:
        """What the tracker noted of the store it published to; empty if it has not."""
        return _read(self.path / "tracking.json")

    def update(self, **changes: Any) -> None:
        """Merge `changes` into the facts."""
        info = self.info | changes
        text = json.dumps(info, indent=2, sort_keys=True, allow_nan=False)
        write_atomic(self.facts, f"{text}\n".encode())


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none, or not a whole one."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


class RunFolder(Described):
    """`runs/<name>-<id>[-n]/`; every write is atomic or an appended line."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "run.json")
        self.checkpoint = path / "checkpoint.safetensors"
        self.weights = path / "model.safetensors"
        self.figures = path / "figures"

    @property
    def status(self) -> str:
        """NEW, RUNNING, FINISHED, FAILED or KILLED, as which a dead RUNNING counts."""
        status = self.info.get("status", "NEW")
        return "KILLED" if status == "RUNNING" and not self.held() else str(status)

    def spec(self) -> Spec:
        """The resolved spec of the run.

        Raises:
            SpecError: the file was edited into something else.
        """
        path = self.path / "spec.yaml"
        return validate(parse(path.read_text(), str(path)))

    def create(self, spec: Spec) -> None:
        """Make the folder and write the spec; the uid names the run in every store."""
        self.figures.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(nested(flatten(spec)), sort_keys=False)
        write_atomic(self.path / "spec.yaml", text.encode())
        self.update(uid=uuid.uuid4().hex, id=spec.id, status="NEW")

    def records(self) -> list[Record]:
        """All complete lines of `records.jsonl`, oldest first."""
        try:
            text = (self.path / "records.jsonl").read_text()
        except FileNotFoundError:
            return []
        lines = text.split("\n")[:-1]  # what follows the last newline was cut off
        try:
            return [json.loads(line) for line in lines]
        except ValueError as error:
            path = self.path / "records.jsonl"
            raise Damaged(f"{path}: altered, a line is not JSON: {error}") from error

    @property
    def metrics(self) -> dict[str, float]:
        """The latest value of every metric."""
        found: dict[str, float] = {}
        for record in self.records():
            found |= record["metrics"]
        return found

    def append(self, record: Record) -> None:
        """Add a line, on the disk when this returns; a torn last line is cut first."""
        line = json.dumps(record, allow_nan=False) + "\n"
        path = self.path / "records.jsonl"
        with naming(path), path.open("a+b") as file:
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(0)
                whole = file.read().rfind(b"\n") + 1
                if whole != end:
                    file.truncate(whole)
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process; freed by the kernel however the process ends.

        The owner's name stands in the lock until it lets go: a name in a free lock is
        that of a process that died.

        Raises:
            Busy: naming the process that holds it.
        """
        with (self.path / "lock").open("a+") as file:
            _claim(file)
            with naming(self.path / "lock"):
                file.truncate(0)
                file.write(_sign())
                file.flush()
            for part in self.path.rglob(".*.part"):  # of those who died writing
                part.unlink(missing_ok=True)
            try:
                with _signs_of_life(file):
                    yield
            finally:
                file.truncate(0)

    def held(self) -> bool:
        """Whether a living process holds the lock."""
        try:
            with (self.path / "lock").open("r") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return _heard_of(file) is not None
        except BlockingIOError:
            return True
        except OSError:
            return False

    @property
    def abandoned(self) -> bool:
        """Whether the last process at it died, whatever it had written until then."""
        try:
            signed = (self.path / "lock").stat().st_size > 0
        except OSError:
            return False
        return signed and not self.held()


def _claim(file: IO[str]) -> None:
    """Take the lock, or say who has it."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError as error:
            file.seek(0)
            owner = file.read(200).strip()
            if time.monotonic() > until:
                folder = Path(file.name).parent
                owner = owner or "another process"
                raise Busy(f"{folder}: already being run by {owner}") from error
        time.sleep(0.02)
    if (age := _heard_of(file)) is not None:
        file.seek(0)
        raise Busy(
            f"{Path(file.name).parent}: already being run by {file.read(200).strip()}, "
            f"heard of {age:.0f} s ago; if it is dead, try again in {SILENCE:.0f} s"
        )


def _sign() -> str:
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    return f"pid {os.getpid()} on {socket.gethostname()} since {started}\n"


@contextlib.contextmanager
def _signs_of_life(file: IO[str]) -> Iterator[None]:
    """Touch the lock while it is held: locks do not reach across every file system."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(BEAT):
            with contextlib.suppress(OSError):
                os.utime(file.fileno())

    thread = threading.Thread(target=beat, daemon=True, name="heartbeat")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _heard_of(file: IO[str]) -> float | None:
    """Seconds since the last sign of life of a holder on another machine, if recent."""
    file.seek(0)
    owner = re.match(r"pid \d+ on (\S+) ", file.read(200))
    if owner is None or owner[1] == socket.gethostname():
        return None
    age = time.time() - os.fstat(file.fileno()).st_mtime
    return age if age < SILENCE else None


def folders(runs: Path) -> list[RunFolder]:
    """Every run under `runs`, the most recently started last."""
    found = [RunFolder(path.parent) for path in runs.glob("*/run.json")]
    return sorted(
        found, key=lambda folder: (folder.info.get("started", 0), folder.name)
    )


def folder_for(spec: Spec, runs: Path) -> RunFolder:
    """The unfinished run of this spec, or the first free folder for a new one.

    A finished run whose process died before it let go may be told nowhere yet: it is
    gone on with, too.
    """
    made = _made(spec, runs)
    if made and (made[-1].info.get("status") != "FINISHED" or made[-1].abandoned):
        return made[-1]
    stem = f"{spec.name}-{spec.id}"
    return RunFolder(runs / (f"{stem}-{_number(made[-1]) + 1}" if made else stem))


def finished_run(spec: Spec, runs: Path) -> RunFolder | None:
    """The newest finished run of this spec."""
    done = [f for f in _made(spec, runs) if f.info.get("status") == "FINISHED"]
    return done[-1] if done else None


def _made(spec: Spec, runs: Path) -> list[RunFolder]:
    """The folders of this spec, `<name>-<id>` and its repetitions `-2`, `-3`, …"""
    stem = re.compile(re.escape(f"{spec.name}-{spec.id}") + r"(-\d+)?")
    found = runs.glob(f"{spec.name}-{spec.id}*")
    made = [RunFolder(path) for path in found if stem.fullmatch(path.name)]
    return sorted(made, key=_number)


def _number(folder: RunFolder) -> int:
    number = re.search(r"-[0-9a-f]{8}-(\d+)$", folder.name)
    return int(number[1]) if number else 1


class SweepFolder(Described):
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
        found = [RunFolder(home / run["folder"]) for run in self.info.get("runs", [])]
        return [folder for folder in found if folder.info]


def sweeps(runs: Path) -> list[SweepFolder]:
    """Every sweep under `runs`, by name."""
    return [
        SweepFolder(path.parent) for path in sorted(runs.glob("sweeps/*/sweep.json"))
    ]


def tracking_uri(runs: Path) -> str:
    """MLFLOW_TRACKING_URI, or the sqlite file inside `runs`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or (
        f"sqlite:///{runs.resolve() / 'mlflow.db'}"
    )


def database(uri: str) -> Path:
    """The file of a sqlite store."""
    return Path(uri.removeprefix("sqlite:///").partition("?")[0]).resolve()


def has_store(runs: Path) -> bool:
    """Whether there is a tracking store to read; a `Tracker` would make one."""
    uri = tracking_uri(runs)
    return not uri.startswith("sqlite:") or database(uri).exists()

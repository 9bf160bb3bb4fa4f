"""One run of a sweep as messages: what a worker is told, what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cvae.run.folder import Origin
from cvae.spec.fields import Spec


@dataclass(frozen=True)
class Job:
    """A variant to run, where, and with how many threads."""

    number: int
    label: str
    spec: Spec
    origin: Origin  # for the run's `run.json`
    runs: Path
    offline: bool
    threads: int


@dataclass(frozen=True)
class Said:
    """A line for the user."""

    number: int
    text: str


@dataclass(frozen=True)
class Progressed:
    """So many epochs of the run are done."""

    number: int
    epoch: int


@dataclass(frozen=True)
class Ended:
    """FINISHED, FAILED, KILLED or BUSY, and why."""

    number: int
    status: str
    reason: str
    seconds: float


Event = Said | Progressed | Ended

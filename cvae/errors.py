"""Every exception; `cvae.cli.exits` has the exit code that each one means."""

from __future__ import annotations

import signal


class Expected(Exception):
    """An error a user can act on: shown as its one message, without a traceback."""


class SpecError(Expected):
    """The experiment's YAML, or a change to it, is wrong; names file, line and key."""


class UsageError(Expected):
    """The command cannot do what was asked: arguments, device or package."""


class RunNotFound(UsageError):
    """No such run, or none finished; the message says what there is or what to type."""


class RunUnfinished(RunNotFound):
    """The run is there, but not finished."""


class DataError(Expected):
    """The data files are missing or not what they should be."""


class Altered(DataError):
    """A published file is missing, was changed, or was not published."""


class Diverged(Expected):
    """Loss, gradient or weights stopped being finite."""


class TrackingError(Expected):
    """The tracking store cannot be used."""


class Busy(Expected):
    """Another process holds the run."""


class Damaged(Expected):
    """A file of the run is not what was written."""


class CheckpointError(Damaged):
    """A file of tensors is truncated, altered or no safetensors file at all."""


# What reading a damaged folder may raise: it is named, and stops nothing else.
UNREADABLE = (Expected, OSError, ValueError, LookupError, TypeError, AttributeError)


class SweepIncomplete(Expected):
    """Some runs of a sweep did not finish; the others did."""


class NotReproduced(Expected):
    """A figure made anew lies outside of what the published seeds allow."""


class Terminated(KeyboardInterrupt):
    """A signal that asks the process to end (exit code 128 + its number)."""

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

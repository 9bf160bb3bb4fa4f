"""Every exception, each with the exit code it means; signals; how a command ends.

0 done · 2 spec or arguments · 3 data · 4 diverged · 5 tracking store ·
130/143 interrupted · 1 anything else. No import here is heavy.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, ClassVar, NoReturn, TextIO, cast

log = logging.getLogger("cvae")


class Expected(Exception):
    """An error a user can act on: shown as its one message, without a traceback."""

    exit_code: ClassVar[int] = 1


class SpecError(Expected):
    """The experiment's YAML, or a change to it, is wrong; names file, line and key."""

    exit_code = 2


class UsageError(Expected):
    """The command cannot do what was asked: arguments, device or package."""

    exit_code = 2


class RunNotFound(UsageError):
    """No such run, or none finished; the message says what there is or what to type."""


class RunUnfinished(RunNotFound):
    """The run is there, but not finished."""


class DataError(Expected):
    """The data files are missing or not what they should be."""

    exit_code = 3


class Altered(DataError):
    """A published file is missing, was changed, or was not published."""


class Diverged(Expected):
    """Loss, gradient or weights stopped being finite."""

    exit_code = 4


class TrackingError(Expected):
    """The tracking store cannot be used."""

    exit_code = 5


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


SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class Terminated(KeyboardInterrupt):
    """A signal that asks the process to end (exit code 128 + its number)."""

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def raise_on_signals() -> None:
    """Raise `Terminated` in the main thread; a signal that is ignored (nohup) stays so.

    No import and no lock in the handler: it may come in the middle of any import.
    """
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _raise_terminated)


def _raise_terminated(number: int, frame: Any) -> NoReturn:
    raise Terminated(number)


def signal_name(stop: KeyboardInterrupt) -> str:
    """The interruption in words."""
    return str(stop) if isinstance(stop, Terminated) else "Ctrl-C"


def _interrupted(stop: KeyboardInterrupt) -> int:
    """128 + the signal's number; the next signal ends the process at once."""
    for number in (signal.SIGINT, *SIGNALS):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    return 128 + int(getattr(stop, "number", signal.SIGINT))


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
NO_ROOM_ADVICE = (
    "\nmake room (or the folder writable); the same command then goes on from the last "
    "checkpoint, which is intact"
)


class _LossyStream:
    """A text stream that loses what cannot be written: progress ends no run."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def isatty(self) -> bool:
        return not self._stream.closed and self._stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _open_streams() -> None:
    """Standard streams that were closed lead nowhere; odd characters become a `?`.

    A closed descriptor 2 would be given to the next file that is opened, and a
    library's warning would be written into that file.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
            setattr(sys, name, nowhere)
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def guarded(act: Callable[[], None], *, interrupted: str = "interrupted") -> int:
    """The exit code of `act`; an expected error is one message on stderr.

    ValueErrors of the public functions (a digit of 12) are expected, too (exit code 2).
    """
    _open_streams()
    with contextlib.redirect_stderr(cast(TextIO, _LossyStream(sys.stderr))):
        code = _exit_code(act, interrupted)
    try:
        sys.stderr.flush()
    except OSError:
        # what it did not take is still held, and Python would exit with 120
        _redirect_to_null(sys.stderr)
    return code


def _redirect_to_null(stream: TextIO) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _exit_code(act: Callable[[], None], interrupted: str) -> int:
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    log.setLevel(logging.INFO)
    try:
        act()
    except KeyboardInterrupt as stop:  # a note says what this command has kept
        log.error("%s", "; ".join(getattr(stop, "__notes__", [interrupted])))
        return _interrupted(stop)
    except BrokenPipeError:
        _redirect_to_null(sys.stdout)
        return 1
    except Expected as error:
        log.error("%s", error)
        return error.exit_code
    except ValueError as error:
        log.error("%s", error)
        return 2
    except OSError as error:
        if error.filename:
            advice = NO_ROOM_ADVICE if error.errno in NO_ROOM else ""
            log.error("%s: %s%s", error.filename, error.strerror, advice)
        else:
            log.error("%s", error)
        return 1
    return 0

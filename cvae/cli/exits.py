"""How a command ends: exit codes, signals, streams that take nothing.

`cvae/__main__.py` lists the codes. No import here is heavy.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TextIO, cast

from cvae.errors import (
    DataError,
    Diverged,
    Expected,
    SpecError,
    Terminated,
    TrackingError,
    UsageError,
)

log = logging.getLogger("cvae")
CODES: dict[type[Exception], int] = {
    **{SpecError: 2, UsageError: 2, ValueError: 2},
    **{DataError: 3, Diverged: 4, TrackingError: 5},
}
SIGNALS = (signal.SIGTERM, signal.SIGHUP)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
NO_ROOM_ADVICE = (
    "\nmake room (or the folder writable); the same command then resumes from the last "
    "checkpoint, which is intact"
)


def raise_on_signals() -> None:
    """Raise `Terminated` in the main thread; a signal that is ignored (nohup) stays so.

    No import and no lock in the handler: it may come in the middle of any import.
    """
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _raise_terminated)


def _raise_terminated(number: int, frame: Any) -> NoReturn:
    raise Terminated(number)


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


def _exit_code(act: Callable[[], None], interrupted: str) -> int:
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    log.setLevel(logging.INFO)
    try:
        Path.home()
    except RuntimeError:  # neither HOME nor a name: MLflow's import would end in it
        os.environ["HOME"] = tempfile.gettempdir()
    try:
        act()
        sys.stdout.flush()
    except KeyboardInterrupt as stop:  # a note says what this command has kept
        log.error("%s", "; ".join(getattr(stop, "__notes__", [interrupted])))
        for number in (signal.SIGINT, *SIGNALS):  # the next one ends it at once
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        return 128 + int(getattr(stop, "number", signal.SIGINT))
    except BrokenPipeError:
        _redirect_to_null(sys.stdout)
        return 1
    except (Expected, ValueError) as error:
        log.error("%s", error)
        return next((CODES[kind] for kind in CODES if isinstance(error, kind)), 1)
    except OSError as error:
        place = f"{error.filename}: {error.strerror}" if error.filename else error
        advice = NO_ROOM_ADVICE if error.filename and error.errno in NO_ROOM else ""
        log.error("%s%s", place, advice)
        return 1
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package in ("cvae", "analysis"):
            raise
        cure = f"{sys.executable} -m pip install -r requirements.txt"
        log.error("%s is not installed: %s", package, cure)
        return 2
    return 0


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
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", errors="replace"))  # noqa: SIM115
        elif hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="replace")


def _redirect_to_null(stream: TextIO) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

"""How a command ends: one clear message on stderr and the exit code that it means."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Callable

from cvae import interrupt

log = logging.getLogger("cvae")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
NO_ROOM = (
    "\nmake room (or the folder writable); the same command then goes on from the last "
    "checkpoint, which is intact"
)

# by name, so that a command that needs no torch and no MLflow loads neither
EXIT_CODES = {
    "SpecError": 2,
    "RunNotFound": 2,
    "ValueError": 2,
    "DataError": 3,
    "Diverged": 4,
    "TrackingError": 5,
    "Busy": 1,
    "Damaged": 1,
    "SweepIncomplete": 1,
    "OSError": 1,
}


def guarded(act: Callable[[], None], *, interrupted: str = "interrupted") -> int:
    """The exit code of `act`; errors that have a code of their own are one message."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    log.setLevel(logging.INFO)
    try:
        act()
    except KeyboardInterrupt as stop:
        log.error(interrupted)
        return interrupt.exit_code(stop)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        for kind in type(error).__mro__:
            if kind.__name__ in EXIT_CODES:
                if isinstance(error, OSError) and error.filename:
                    advice = NO_ROOM if error.errno in FULL else ""
                    log.error("%s: %s%s", error.filename, error.strerror, advice)
                else:
                    log.error("%s", error)
                return EXIT_CODES[kind.__name__]
        raise
    return 0

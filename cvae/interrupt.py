"""Ctrl-C, SIGTERM and a closed terminal, all as one kind of exception."""

from __future__ import annotations

import signal
from typing import Any, NoReturn

SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class Terminated(KeyboardInterrupt):
    """A signal that asks the process to end (exit code 128 + its number)."""

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def listen() -> None:
    """Raise `Terminated` in the main thread; a signal that is ignored (nohup) stays so.

    No import and no lock in the handler: it may come in the middle of any import.
    """
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _raise)


def exit_code(stop: KeyboardInterrupt) -> int:
    """128 + the signal's number; the next signal ends the process without a word."""
    for number in (signal.SIGINT, *SIGNALS):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    return 128 + int(getattr(stop, "number", signal.SIGINT))


def how(stop: KeyboardInterrupt) -> str:
    """The interruption in words."""
    return str(stop) if isinstance(stop, Terminated) else "Ctrl-C"


def _raise(number: int, frame: Any) -> NoReturn:
    raise Terminated(number)

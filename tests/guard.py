"""Ends process groups when their time is up, or when the tests that began them die.

Reads lines from its input: `GROUP SECONDS` watches a process group for so long,
`GROUP` watches it no more. The input ends with pytest, however that ends: a SIGKILL
runs no finalizer, but it closes a pipe. Standard library only; run by tests.children.
"""

import contextlib
import os
import select
import signal
import time


def kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def main() -> None:
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    ends: dict[int, float] = {}
    text = b""
    while True:
        left = min(ends.values(), default=time.monotonic() + 60) - time.monotonic()
        if select.select([0], [], [], max(0.0, left))[0]:
            if not (more := os.read(0, 65536)):
                break
            *lines, text = (text + more).split(b"\n")
            for line in lines:
                group, *seconds = map(float, line.split())
                ends.pop(int(group), None)
                if seconds:
                    ends[int(group)] = time.monotonic() + seconds[0]
        for group in [g for g, end in ends.items() if end <= time.monotonic()]:
            kill(group)
            del ends[group]
    for group in ends:
        kill(group)


if __name__ == "__main__":
    main()

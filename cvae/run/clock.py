"""Where the seconds of a run go."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Clock:
    """Wall-clock seconds by part of the run; what no part claims is `other`."""

    seconds: dict[str, float] = field(default_factory=dict)
    claimed: float = 0.0
    began: float = field(default_factory=time.perf_counter)

    @contextlib.contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(part, time.perf_counter() - began)

    def add(self, part: str, seconds: float) -> None:
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds
        self.claimed += seconds

    def take(self) -> dict[str, float]:
        """The seconds since the last call, which start again from nothing."""
        self.add("other", time.perf_counter() - self.began - self.claimed)
        taken, self.seconds = self.seconds, {}
        return taken

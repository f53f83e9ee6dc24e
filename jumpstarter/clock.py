"""Wall time and monotonic time behind one protocol, so that tests can set both."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where times come from. All of them are in seconds."""

    def now(self) -> float:
        """Wall time: seconds since 1970-01-01 UTC. May jump when the machine's clock is set."""
        ...

    def monotonic(self) -> float:
        """Time that never goes back; only differences mean something."""
        ...


class SystemClock:
    """The machine's own clocks."""

    __slots__ = ()

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)


SYSTEM_CLOCK = SystemClock()

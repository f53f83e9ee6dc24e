"""How long to wait after failures, and how many of them are too many. Used by: resources, activities, host. Knows: nobody.

The delay grows from ``first`` to ``cap`` seconds by a factor and is shortened by a random part, so that a thousand actors that lost
the same server do not come back in the same instant.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass

from jumpstarter.errors import ConfigurationError

#: 2.0 ** 64 exceeds every useful cap, and beyond 2.0 ** 1023 a float overflows.
_LARGEST_EXPONENT = 64


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays that grow, are capped and jittered. Made by :func:`backoff`.

    :ivar first: the first delay in seconds.
    :ivar cap: the longest delay in seconds.
    :ivar tries: attempts in all before giving up; None for never.
    :ivar factor: each delay is this many times the one before.
    :ivar jitter: the share of a delay that is random: 0.0 none, 1.0 all of it.
    """

    first: float
    cap: float
    tries: int | None = None
    factor: float = 2.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.cap:
            raise ConfigurationError(f"backoff: first={self.first!r} and cap={self.cap!r} must be seconds with 0 <= first <= cap")
        if self.tries is not None and self.tries < 1:
            raise ConfigurationError(f"backoff: tries={self.tries!r} must be at least 1, or None for no end")
        if self.factor < 1:
            raise ConfigurationError(f"backoff: factor={self.factor!r} must be at least 1")
        if not 0 <= self.jitter <= 1:
            raise ConfigurationError(f"backoff: jitter={self.jitter!r} must lie between 0 and 1")

    def delay(self, failures: int) -> float:
        """Seconds to wait after this many failures in a row (1, 2, …)."""
        full = min(self.cap, self.first * self.factor ** min(max(failures - 1, 0), _LARGEST_EXPONENT))
        return full * (1.0 - self.jitter * random.random())  # noqa: S311 - spreads load, guards nothing

    def is_exhausted(self, failures: int) -> bool:
        """Whether no further attempt may follow this many failures in a row."""
        return self.tries is not None and failures >= self.tries


def backoff(
    first: float = 1.0, cap: float = 60.0, tries: int | None = None, *, factor: float = 2.0, jitter: float = 0.5
) -> Backoff:
    """Delays from ``first`` to ``cap`` seconds; at most ``tries`` attempts in all (None: no end).

    :raises ConfigurationError: for values that make no sense; the message names them.
    """
    return Backoff(first, cap, tries, factor, jitter)


@dataclass(frozen=True, slots=True)
class Intensity:
    """How often something may be restarted: at most ``restarts`` times within ``within`` seconds, each after ``retry``'s delay."""

    restarts: int = 3
    within: float = 60.0
    retry: Backoff = Backoff(0.1, 5.0)

    def __post_init__(self) -> None:
        if self.restarts < 0 or self.within <= 0:
            raise ConfigurationError(
                f"restarts={self.restarts!r} must be 0 or more, and within={self.within!r} must be more than 0 seconds"
            )


class Restarts:
    """Counts the failures of one thing against its :class:`Intensity`."""

    __slots__ = ("_failures", "_intensity")

    def __init__(self, intensity: Intensity) -> None:
        self._intensity = intensity
        self._failures: deque[float] = deque()

    def next_delay(self, now: float) -> float | None:
        """Note a failure at ``now`` (monotonic seconds). The seconds until the restart, or None when there were too many."""
        failures = self._failures
        failures.append(now)
        while now - failures[0] > self._intensity.within:
            failures.popleft()
        if len(failures) > self._intensity.restarts:
            return None
        return self._intensity.retry.delay(len(failures))

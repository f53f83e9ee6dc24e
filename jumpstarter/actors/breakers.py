"""Circuit breakers: after too many failures nothing is tried for a while, then once, and only success closes the circuit again.

Used by: desk (handlers), work (tasks). The state is a region of the chart, ``breaker_<name>``: closed, open, half_open.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from jumpstarter.actors.backoff import Backoff
from jumpstarter.errors import ConfigurationError

logger = logging.getLogger(__name__)

#: How loudly the first, the second and every further trip in a row is logged.
_LEVELS: Final = (logging.WARNING, logging.ERROR, logging.CRITICAL)

_REST: Final = Backoff(5.0, 300.0)


@dataclass(frozen=True, slots=True)
class CircuitBreaker:
    """Options of a breaker. Made by :func:`circuit_breaker`.

    :ivar failures: so many failures within ``within`` seconds open the circuit.
    :ivar rest: how long it stays open; grows while one trial after the other fails.
    """

    failures: int = 5
    within: float = 60.0
    rest: Backoff = _REST

    def __post_init__(self) -> None:
        if self.failures < 1 or not self.within > 0:
            raise ConfigurationError(
                f"circuit_breaker: failures={self.failures!r} must be at least 1, and within={self.within!r} more than 0 seconds"
            )


def circuit_breaker(failures: int = 5, *, within: float = 60.0, rest: Backoff = _REST) -> CircuitBreaker:
    """Open the circuit after so many ``failures`` ``within`` so many seconds, for ``rest``'s delay. Then it is half open: one trial
    decides. While it is open, who asks gets :class:`~jumpstarter.errors.CircuitOpen` at once, what is told gets the handler's
    ``otherwise``, and a task waits; the actor is degraded.

    :raises ConfigurationError: for values that make no sense.
    """
    return CircuitBreaker(failures, within, rest)


class Circuit:
    """The breaker of one handler or task of one actor. Tells its host's chart."""

    __slots__ = ("_failures", "_host", "_options", "_trips", "name", "rest", "state")

    def __init__(self, host: Any, name: str, options: CircuitBreaker) -> None:
        self._host = host
        self._options = options
        self.name = name
        self.state = "closed"
        #: Seconds that it stays open this time.
        self.rest = 0.0
        self._failures: deque[float] = deque()
        self._trips = 0

    @property
    def within(self) -> float:
        """Seconds for which a failure counts."""
        return self._options.within

    def failed(self, now: float, error: BaseException) -> bool:
        """Note a failure at ``now`` (monotonic seconds). True when the circuit is open now."""
        failures = self._failures
        failures.append(now)
        while now - failures[0] > self._options.within:
            failures.popleft()
        if self.state == "closed" and len(failures) < self._options.failures:
            return False
        self.state = "open"
        self._trips += 1
        failures.clear()
        self.rest = self._options.rest.delay(self._trips)
        level = _LEVELS[min(self._trips, len(_LEVELS)) - 1]
        logger.log(level, "%s: circuit %r opens for %.3g s", self._host.name, self.name, self.rest, exc_info=error)
        self._host.post(f"{self.name}.trip")
        self._host.post("report_warning", source=f"breaker.{self.name}", detail=error)
        return True

    def probe(self) -> None:
        """It has rested: the next trial decides."""
        self.state = "half_open"
        self._host.post(f"{self.name}.probe")

    def succeeded(self) -> None:
        """Note a success."""
        if self.state == "half_open":
            self.reset()
            logger.warning("%s: circuit %r is closed again", self._host.name, self.name)
            self._host.post(f"{self.name}.close")
            self._host.post("recover", source=f"breaker.{self.name}")

    def reset(self) -> None:
        """Forget everything: it is closed."""
        self.state = "closed"
        self._trips = 0
        self._failures.clear()


def region_name(name: str) -> str:
    """The region of the breaker of this handler or task."""
    return f"breaker_{name}"


def breaker_region(name: str) -> Mapping[str, Any]:
    """Its definition."""
    return {
        "initial": "closed",
        "states": ["closed", "open", "half_open"],
        "transitions": [
            {"trigger": f"{name}.trip", "source": ["closed", "half_open"], "dest": "open"},
            {"trigger": f"{name}.probe", "source": "open", "dest": "half_open"},
            {"trigger": f"{name}.close", "source": "half_open", "dest": "closed"},
        ],
    }

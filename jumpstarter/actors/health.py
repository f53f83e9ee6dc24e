"""Health is computed, not set: the worst of all concerns. Used by: host, work (checks). Knows: modes.

A concern is what one source (a resource, a check, user code) complains about. A source that recovers takes back only its own
complaint, so one check that succeeds cannot mask another that fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from jumpstarter.actors.modes import NO_WARD, Level, Severity, Ward
from jumpstarter.clock import SYSTEM_CLOCK


@dataclass(frozen=True, slots=True)
class Concern:
    """What a source complains about.

    :ivar severity: ``warning`` (the actor is degraded) or ``problem`` (it is unhealthy).
    :ivar detail: whatever the source said; for people.
    :ivar since: wall time in seconds of the source's first report of this severity.
    """

    severity: Severity
    detail: object = None
    since: float = 0.0

    def __str__(self) -> str:
        return self.severity if self.detail is None else f"{self.severity}: {self.detail}"


_NO_CONCERNS: Mapping[str, Concern] = MappingProxyType({})


class Health:
    """The concerns of one actor. Written by its host alone; what is public may be read from any thread.

    :ivar place: where in the health region it is: its level, or a mode of it (``degraded.without_cache``).
    """

    __slots__ = ("_ward", "concerns", "level", "place")

    def __init__(self, ward: Ward = NO_WARD) -> None:
        self._ward = ward
        # Replaced, never changed, so that readers in other threads need no lock.
        self.concerns = _NO_CONCERNS
        self.level: Level = "healthy"
        self.place = "healthy"

    def report(self, source: str, severity: Severity, detail: object = None) -> None:
        """Note what ``source`` complains about, in place of what it said before."""
        if self._ward.severities is not None:
            severity = self._ward.severities.get(source, severity)
        before = self.concerns.get(source)
        since = before.since if before is not None and before.severity == severity else SYSTEM_CLOCK.now()
        self._set({**self.concerns, source: Concern(severity, detail, since)})

    def recover(self, source: str) -> None:
        """Forget what ``source`` complained about, if anything."""
        if source in self.concerns:
            self._set({name: concern for name, concern in self.concerns.items() if name != source})

    def clear(self) -> None:
        """Forget everything: a new life begins."""
        self._set({})

    def _set(self, concerns: dict[str, Concern]) -> None:
        self.concerns = MappingProxyType(concerns)
        severities = {concern.severity for concern in concerns.values()}
        self.level = "unhealthy" if "problem" in severities else "degraded" if "warning" in severities else "healthy"
        self.place = self._ward.place(self.level, concerns.keys())


class Hysteresis:
    """Turns single check results into a verdict that does not flap: degraded after ``degrade_after`` failures in a row, failed
    after ``fail_after``, recovered after ``recover_after`` successes in a row.

    :param degrade_after: None: it is never degraded, only failed.
    """

    __slots__ = ("_degrade_after", "_fail_after", "_failures", "_recover_after", "_successes", "_verdict")

    def __init__(self, fail_after: int, recover_after: int, degrade_after: int | None = None) -> None:
        self._degrade_after = degrade_after
        self._fail_after = fail_after
        self._recover_after = recover_after
        self._failures = 0
        self._successes = 0
        self._verdict: Literal["degraded", "failed"] | None = None

    def note(self, *, succeeded: bool) -> Literal["degraded", "failed", "recovered"] | None:
        """Count one result: ``degraded`` or ``failed`` at every failure while it is (its detail stays fresh), ``recovered`` once,
        else None."""
        if succeeded:
            self._failures, self._successes = 0, self._successes + 1
            if self._verdict is not None and self._successes >= self._recover_after:
                self._verdict = None
                return "recovered"
            return None
        self._failures, self._successes = self._failures + 1, 0
        if self._failures >= self._fail_after:
            self._verdict = "failed"
        elif self._verdict is None and self._degrade_after is not None and self._failures >= self._degrade_after:
            self._verdict = "degraded"
        return self._verdict

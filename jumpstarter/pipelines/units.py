"""Seconds with names, and rates: ``10 / day``, ``5 / minutes(10)``, ``lease=minutes(10)``. Knows: nobody."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from jumpstarter.errors import ConfigurationError

DAY = 86_400.0
#: Periods that a calendar has.
CALENDAR = {60.0: "minute", 3_600.0: "hour", DAY: "day"}


class Duration(float):
    """A number of seconds. A number divided by it is a :class:`Rate`; in everything else it is a float."""

    __slots__ = ()

    def __rtruediv__(self, amount: Any) -> Rate:  # type: ignore[override] # not a number: that is what it is made for
        return Rate(amount, float(self))

    def __repr__(self) -> str:
        return f"{float(self):g} s"


@dataclass(frozen=True, slots=True)
class Rate:
    """So much per so many seconds.

    :ivar limit: how much.
    :ivar period: in how many seconds.
    :ivar is_calendar: counted anew at the full minute, full hour or local midnight; otherwise within any ``period`` seconds. As it
        is, days are calendar days and all else slides.
    """

    limit: int
    period: float
    is_calendar: bool | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.limit, int) or self.limit < 1:
            raise ConfigurationError(f"a rate's limit is a whole number from 1, not {self.limit!r}")
        if not self.period > 0:
            raise ConfigurationError(f"a rate's period is more than 0 seconds, not {self.period!r}")
        if self.is_calendar and self.period not in CALENDAR:
            raise ConfigurationError(f"{self}: the calendar knows minutes, hours and days; leave out .calendar()")
        if self.is_calendar is None:
            object.__setattr__(self, "is_calendar", self.period == DAY)

    def calendar(self) -> Rate:
        """Counted anew at the full minute, the full hour or local midnight."""
        return replace(self, is_calendar=True)

    def sliding(self) -> Rate:
        """Counted within any ``period`` seconds, wherever they begin."""
        return replace(self, is_calendar=False)

    def __str__(self) -> str:
        return f"{self.limit} / {CALENDAR.get(self.period, '') or ('second' if self.period == 1 else f'{self.period:g} s')}"


second = Duration(1)
minute = Duration(60)
hour = Duration(3_600)
day = Duration(DAY)


def seconds(number: float) -> Duration:
    """So many seconds."""
    return Duration(number)


def minutes(number: float) -> Duration:
    """So many minutes, in seconds."""
    return Duration(number * 60)


def hours(number: float) -> Duration:
    """So many hours, in seconds."""
    return Duration(number * 3_600)


def days(number: float) -> Duration:
    """So many times 24 hours, in seconds."""
    return Duration(number * DAY)

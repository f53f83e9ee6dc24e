"""Dates, time zones, rates and waiting times. Pure but for the clock. Used by: schedules, beat, publishing."""

from __future__ import annotations

import math
import numbers
import os
import random
import time as _time
from calendar import monthrange
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import cached_property
from pathlib import Path
from typing import Any

from compat_celery._names import celery_named
from compat_celery.utils.functional import dictfilter
from compat_celery.utils.text import pluralize

__all__ = (
    "LocalTimezone",
    "add_seconds_to_datetime",
    "adjust_timestamp",
    "delta_resolution",
    "ffwd",
    "get_exponential_backoff_interval",
    "humanize_seconds",
    "is_naive",
    "localize",
    "make_aware",
    "maybe_iso8601",
    "maybe_make_aware",
    "maybe_timedelta",
    "rate",
    "remaining",
    "subtract_datetimes",
    "timezone",
    "to_utc",
    "utcoffset",
    "weekday",
)

DAYNAMES = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
WEEKDAYS = {name: number for number, name in enumerate(DAYNAMES)}
MONTHNAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
YEARMONTHS = {name: number for number, name in enumerate(MONTHNAMES, start=1)}

#: Seconds in the unit after the slash of a rate.
RATE_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
TIME_UNITS = (("day", 86400.0), ("hour", 3600.0), ("minute", 60.0), ("second", 1.0))

ZERO = timedelta(0)


@celery_named
class LocalTimezone(tzinfo):
    """The system's time zone, asked of the C library at every use. For systems whose zone has no name."""

    def __repr__(self) -> str:
        return f"<LocalTimezone: UTC{-(_time.altzone if _time.daylight else _time.timezone) // 3600:+03d}>"

    def utcoffset(self, dt: datetime | None) -> timedelta:
        """How far local time is ahead of UTC."""
        if dt is None:
            return timedelta(seconds=-_time.timezone)
        return timedelta(seconds=_localtime(dt).tm_gmtoff)

    def dst(self, dt: datetime | None) -> timedelta:
        """What summer time adds."""
        if dt is None or not _localtime(dt).tm_isdst:
            return ZERO
        return self.utcoffset(dt) - timedelta(seconds=-_time.timezone)

    def tzname(self, dt: datetime | None) -> str:
        """The zone's name at that time."""
        return _time.tzname[0] if dt is None else _localtime(dt).tm_zone

    def fromutc(self, dt: datetime) -> datetime:
        """The local time of a UTC time."""
        return dt.replace(tzinfo=UTC).astimezone().replace(tzinfo=self)

    def __reduce__(self) -> Any:
        return type(self), ()


def _localtime(dt: datetime) -> _time.struct_time:
    is_dst = -1 if dt.fold == 0 else 0
    return _time.localtime(_time.mktime((dt.year, dt.month, dt.day, dt.hour, dt.minute, dt.second, dt.weekday(), 0, is_dst)))


@celery_named
class _Zone:
    """The time zones of an app."""

    def tz_or_local(self, tzinfo: Any = None) -> tzinfo:
        """That zone, or the system's for None."""
        return self.local if tzinfo is None else self.get_timezone(tzinfo)

    def to_local(self, dt: datetime, local: Any = None, orig: Any = None) -> datetime:
        """The time in the zone ``local``; a naive one is read as ``orig`` (default UTC)."""
        if is_naive(dt):
            dt = make_aware(dt, orig or self.utc)
        return localize(dt, self.tz_or_local(local))

    def to_system(self, dt: datetime) -> datetime:
        """The time in the system's zone."""
        return dt.astimezone(tz=None)

    def to_local_fallback(self, dt: datetime) -> datetime:
        """The time in the system's zone; a naive one is read as being in it."""
        return make_aware(dt, self.local) if is_naive(dt) else localize(dt, self.local)

    def get_timezone(self, zone: Any) -> tzinfo:
        """The zone of that name; a zone is given back.

        :raises ZoneInfoNotFoundError: there is none of that name.
        """
        return _zone_of(zone) if isinstance(zone, str) else zone

    @cached_property
    def local(self) -> tzinfo:
        """The system's zone."""
        return _system_zone() or LocalTimezone()

    @cached_property
    def utc(self) -> tzinfo:
        """UTC."""
        return self.get_timezone("UTC")


def _zone_of(name: str) -> tzinfo:
    from zoneinfo import ZoneInfo  # noqa: PLC0415 - publishing does without

    return ZoneInfo(name)


def _system_zone() -> tzinfo | None:
    """The system's zone by its name: from TZ, or from where ``/etc/localtime`` leads."""
    name = os.environ.get("TZ", "").removeprefix(":")
    if not name:
        parts = Path("/etc/localtime").resolve().parts
        name = "/".join(parts[parts.index("zoneinfo") + 1 :]) if "zoneinfo" in parts else ""
    try:
        return _zone_of(name) if name else None
    except (ValueError, OSError, KeyError):  # a TZ in POSIX form, or a zone that is not installed
        return None


timezone = _Zone()


def maybe_timedelta(delta: Any) -> Any:
    """Seconds as a timedelta; anything but a number is given back."""
    return timedelta(seconds=float(delta)) if isinstance(delta, numbers.Real) else delta


def delta_resolution(dt: datetime, delta: timedelta) -> datetime:
    """The time rounded down to days, hours or minutes: the largest of them that fits into ``delta``."""
    seconds = delta.total_seconds()
    if seconds >= 86400:
        return dt.replace(hour=0, minute=0, second=0, microsecond=0)
    if seconds >= 3600:
        return dt.replace(minute=0, second=0, microsecond=0)
    if seconds >= 60:
        return dt.replace(second=0, microsecond=0)
    return dt


def remaining(start: datetime, ends_in: Any, now: datetime | None = None, relative: bool = False) -> timedelta:
    """How much time is left until ``ends_in`` after ``start``; negative when it is over.

    :param ends_in: a timedelta, or an :class:`ffwd` that is applied to local time.
    :param relative: the end is rounded down to the resolution of ``ends_in`` (to midnight for days …), but stays after ``start``.
    :param now: the time; the clock's when None.
    """
    now = now or datetime.now(UTC)
    is_span = isinstance(ends_in, timedelta)
    if is_span and not (relative and ends_in >= timedelta(days=1)):
        end = add_seconds_to_datetime(start, ends_in.total_seconds())
    else:
        # Days are counted on the calendar: a day on which the clocks change has 23 or 25 hours.
        end = start + ends_in
    if relative and is_span:
        end = _rounded_end(start, end, ends_in)
    return end.astimezone(UTC) - now.astimezone(UTC)


def _rounded_end(start: datetime, end: datetime, delta: timedelta) -> datetime:
    """The last local boundary at or before ``end`` in real time that lies after ``start``; a repeated hour counts twice."""
    start_utc, end_utc = start.astimezone(UTC), end.astimezone(UTC)
    if delta >= timedelta(days=1):
        later = [moment for moment in _occurrences(delta_resolution(end, delta)) if moment > start_utc]
        return min(later, default=end_utc)
    unit = timedelta(hours=1) if delta >= timedelta(hours=1) else timedelta(minutes=1) if delta >= timedelta(minutes=1) else ZERO
    if not unit:
        return end.replace(microsecond=0)
    candidates = {moment for moved in (end, end + unit, start + delta) for moment in _occurrences(delta_resolution(moved, delta))}
    after = [moment for moment in candidates if moment > start_utc]
    return max((moment for moment in after if moment <= end_utc), default=min(after, default=end_utc))


def _occurrences(local: datetime) -> list[datetime]:
    """The moments, in UTC, at which local clocks show this time: two when it is repeated, the next real one when it is skipped."""
    moments = [local.replace(fold=fold).astimezone(UTC) for fold in (0, 1)]
    return moments[:1] if _is_imaginary(local, local.tzinfo) else moments


def rate(r: Any) -> float:
    """``"100/m"``, ``"2/h"`` or a number as a rate per second; 0 for none."""
    if not r:
        return 0
    if not isinstance(r, str):
        return float(r)
    count, _, unit = r.partition("/")
    return float(count) / RATE_UNITS[unit or "s"]


def weekday(name: str) -> int:
    """The number of a day of the week: 0 for Sunday. ``"mon"`` and ``"Monday"`` both do.

    :raises KeyError: there is no such day.
    """
    try:
        return WEEKDAYS[name[:3].lower()]
    except KeyError:
        raise KeyError(name) from None


def yearmonth(name: str) -> int:
    """The number of a month: 1 for January.

    :raises KeyError: there is no such month.
    """
    try:
        return YEARMONTHS[name[:3].lower()]
    except KeyError:
        raise KeyError(name) from None


def humanize_seconds(secs: float, prefix: str = "", sep: str = "", now: str = "now", microseconds: bool = False) -> str:
    """Seconds in words: 60 → ``1.00 minute``; ``now`` when there is less than one."""
    secs = round(float(secs), 2)
    for unit, length in TIME_UNITS:
        if secs >= length:
            count = secs / length
            return f"{prefix}{sep}{count:.2f} {pluralize(count, unit)}"
    return f"{prefix}{sep}{secs:.2f} seconds" if microseconds and secs > 0 else now


def maybe_iso8601(dt: datetime | str | None) -> datetime | None:
    """ISO 8601 text as a datetime; datetimes are given back; None for nothing."""
    if not dt:
        return None
    return dt if isinstance(dt, datetime) else datetime.fromisoformat(dt)


def is_naive(dt: datetime) -> bool:
    """Whether the time has no zone."""
    return dt.tzinfo is None or dt.tzinfo.utcoffset(dt) is None


def add_seconds_to_datetime(dt: datetime, seconds: float) -> datetime:
    """The time so many real seconds later (adding a timedelta to local time moves the hands of the clock instead)."""
    delta = timedelta(seconds=seconds)
    return dt + delta if is_naive(dt) else (dt.astimezone(UTC) + delta).astimezone(dt.tzinfo)


def subtract_datetimes(end: datetime, start: datetime) -> timedelta:
    """The real time between both; naive ones are read as UTC."""
    return maybe_make_aware(end).astimezone(UTC) - maybe_make_aware(start).astimezone(UTC)


def _is_imaginary(dt: datetime, tz: tzinfo | None) -> bool:
    """Whether the clocks of the zone skip this local time."""
    local = dt.replace(tzinfo=tz)
    try:
        back = local.astimezone(UTC).astimezone(tz)
    except (NotImplementedError, ValueError):  # a zone without rules; a time before the year 1
        return False
    return back.replace(tzinfo=None, fold=0) != local.replace(tzinfo=None, fold=0)


def make_aware(dt: datetime, tz: tzinfo) -> datetime:
    """The naive time in that zone: the first of two occurrences; moved forward where the clocks skip it."""
    aware = dt.replace(tzinfo=tz, fold=0)
    if aware.utcoffset() == aware.replace(fold=1).utcoffset():
        return aware
    return aware.astimezone(UTC).astimezone(tz) if _is_imaginary(dt, tz) else aware


def localize(dt: datetime, tz: tzinfo) -> datetime:
    """A UTC time in another zone; times of other zones stay, naive ones are read as being in ``tz``."""
    if is_naive(dt):
        dt = make_aware(dt, tz)
    return dt.astimezone(tz) if dt.utcoffset() == ZERO else dt


def to_utc(dt: datetime) -> datetime:
    """A naive time, read as UTC."""
    return make_aware(dt, timezone.utc)


def maybe_make_aware(dt: datetime, tz: Any = None, naive_as_utc: bool = True) -> datetime:
    """An aware time for a naive one (read as UTC, or as being in ``tz``); aware ones are given back."""
    if not is_naive(dt):
        return dt
    if naive_as_utc:
        dt = to_utc(dt)
    return localize(dt, timezone.utc if tz is None else timezone.tz_or_local(tz))


@celery_named
class ffwd:  # noqa: N801 - Celery's public name
    """A step on the calendar: ``datetime + ffwd(hour=3, minute=0)`` sets these fields, weekday and weeks come on top."""

    def __init__(
        self,
        year: int | None = None,
        month: int | None = None,
        weeks: int = 0,
        weekday: int | None = None,
        day: int | None = None,
        hour: int | None = None,
        minute: int | None = None,
        second: int | None = None,
        microsecond: int | None = None,
        **_: Any,
    ) -> None:
        self.year = year
        self.month = month
        self.weeks = weeks
        self.weekday = weekday
        self.day = day
        self.hour = hour
        self.minute = minute
        self.second = second
        self.microsecond = microsecond
        self.days = weeks * 7
        self._has_time = hour is not None or minute is not None

    def _fields(self, **extra: Any) -> dict[str, Any]:
        names = ("year", "month", "day", "hour", "minute", "second", "microsecond")
        fields: dict[str, Any] = dictfilter({name: getattr(self, name) for name in names}, **extra)
        return fields

    def __repr__(self) -> str:
        from kombu.utils.functional import reprcall  # noqa: PLC0415 - only here, and it takes long

        return str(reprcall("ffwd", (), self._fields(weeks=self.weeks, weekday=self.weekday)))

    def __radd__(self, other: Any) -> Any:
        if not isinstance(other, date):
            return NotImplemented
        year, month = self.year or other.year, self.month or other.month
        day = min(monthrange(year, month)[1], self.day or other.day)
        moved = other.replace(**self._fields() | {"year": year, "month": month, "day": day})
        if self.weekday is not None:
            moved += timedelta(days=(7 - moved.weekday() + self.weekday) % 7)
        return moved + timedelta(days=self.days)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ffwd) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment] # its fields may be changed


def utcoffset(time: Any = _time, localtime: Callable[[], _time.struct_time] = _time.localtime) -> float:
    """How many hours local time is behind UTC now."""
    seconds: float = time.altzone if localtime().tm_isdst else time.timezone
    return seconds / 3600


def adjust_timestamp(ts: float, offset: float, here: Callable[[], float] = utcoffset) -> float:
    """A timestamp of a machine with that :func:`utcoffset` as one of this machine."""
    return ts - (offset - here()) * 3600


def get_exponential_backoff_interval(factor: int, retries: int, maximum: int, full_jitter: bool = False) -> int:
    """Seconds before retry number ``retries``: ``factor`` doubled each time, at most ``maximum``.

    :param full_jitter: anything between 0 and that, so that many failed calls do not come back together.
    """
    # The exponent is bounded before it is raised: two to the power of a million retries is a number of 300,000 digits.
    doublings = min(retries, math.ceil(math.log2(maximum + 1)) + 1) if maximum > 0 else 0
    countdown = min(maximum, factor * 2**doublings)
    if full_jitter:
        countdown = random.randrange(max(countdown, 0) + 1)  # noqa: S311 - spreading load needs no cryptography
    return max(0, int(countdown))

"""Dates as ISO 8601 writes them, by Celery's old name. Use ``datetime.fromisoformat``, which reads more of the standard."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

from compat_celery.utils.deprecated import warn

__all__ = ("parse_iso8601",)

_DATE = r"(?P<year>\d{4})(?:-(?P<month>\d{1,2})(?:-(?P<day>\d{1,2}))?)?"
_TIME = r"(?P<hour>\d{2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:\.(?P<fraction>\d+))?)?"
_ZONE = r"(?P<zone>Z|(?P<sign>[+-])(?P<hours>\d{2}):(?P<minutes>\d{2}))"
_ISO8601 = re.compile(f"{_DATE}(?:.{_TIME}{_ZONE}?)?")


def parse_iso8601(datestring: str) -> datetime:
    """The time that a text names, aware when the text names an offset. What follows the part that is understood is ignored.

    :raises ValueError: it names no year, or no such time exists.
    :raises TypeError: it names no month or no day.
    """
    warn("parse_iso8601", "v5.3", "v6", "datetime.datetime.fromisoformat or dateutil.parser.isoparse")
    match = _ISO8601.match(datestring)
    if match is None:
        raise ValueError(f"unable to parse date string {datestring!r}")
    part = match.groupdict()
    if part["month"] is None or part["day"] is None:
        raise TypeError(f"the date {datestring!r} has no month or no day")
    year, month, day, hour, minute, second = (int(part[name] or 0) for name in ("year", "month", "day", "hour", "minute", "second"))
    micros = int((part["fraction"] or "0").ljust(6, "0")[:6])
    return datetime(year, month, day, hour, minute, second, micros, tzinfo=_zone(part))


def _zone(part: dict[str, str | None]) -> timezone | None:
    if part["zone"] is None:
        return None
    if part["zone"] == "Z":
        return timezone(timedelta(0))
    offset = timedelta(hours=int(part["hours"] or 0), minutes=int(part["minutes"] or 0))
    return timezone(-offset if part["sign"] == "-" else offset)

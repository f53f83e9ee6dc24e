"""When periodic tasks run: every so many seconds, by crontab, by the sun. Pure but for the app's clock. Used by: beat, settings."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from compat_celery._names import celery_named
from compat_celery._state import current_app
from compat_celery.exceptions import ImproperlyConfigured
from compat_celery.utils.time import (
    ffwd,
    humanize_seconds,
    localize,
    maybe_make_aware,
    maybe_timedelta,
    remaining,
    subtract_datetimes,
    timezone,
    weekday,
    yearmonth,
)

if TYPE_CHECKING:
    from compat_celery.app.base import Celery

__all__ = ("BaseSchedule", "ParseException", "crontab", "crontab_parser", "maybe_schedule", "schedstate", "schedule", "solar")

Cronspec = int | str | Iterable[int]
NowFun = Callable[[], datetime]


@celery_named
class schedstate(NamedTuple):  # noqa: N801 - Celery's public name
    """Whether a task is due, and in how many seconds to ask again."""

    is_due: bool
    next: float


@celery_named
class ParseException(Exception):
    """A crontab expression that cannot be understood."""


@celery_named
class BaseSchedule:
    """What all schedules have.

    :param nowfun: the clock; the app's if not given.
    :param app: whose time zone and settings count; the current app's if not given.
    """

    def __init__(self, nowfun: NowFun | None = None, app: Celery | None = None) -> None:
        self.nowfun = nowfun
        self._app = app

    def now(self) -> datetime:
        """The time."""
        return (self.nowfun or self.app.now)()

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """How much time is left until the next run."""
        raise NotImplementedError

    def is_due(self, last_run_at: datetime) -> tuple[bool, float]:
        """Whether to run now, and in how many seconds to ask again."""
        raise NotImplementedError

    def maybe_make_aware(self, dt: datetime, naive_as_utc: bool = True) -> datetime:
        """The time with the schedule's time zone, if it has none."""
        return maybe_make_aware(dt, self.tz, naive_as_utc=naive_as_utc)

    @property
    def app(self) -> Celery:
        """Whose settings count."""
        return self._app or current_app._get_current_object()

    @app.setter
    def app(self, app: Celery) -> None:
        self._app = app

    @cached_property
    def tz(self) -> tzinfo:
        """The time zone."""
        return self.app.timezone

    @cached_property
    def utc_enabled(self) -> bool:
        """Whether times are in UTC."""
        return bool(self.app.conf.enable_utc)

    def to_local(self, dt: datetime) -> datetime:
        """The time in the system's zone, unless times are in UTC."""
        return dt if self.utc_enabled else timezone.to_local_fallback(dt)

    def __eq__(self, other: object) -> bool:
        return other.nowfun == self.nowfun if isinstance(other, BaseSchedule) else NotImplemented

    __hash__ = None  # type: ignore[assignment] # its fields may be changed

    def _state(self, last_run_at: datetime) -> schedstate:
        left = self.remaining_estimate(last_run_at).total_seconds()
        if left > 0:
            return schedstate(is_due=False, next=left)
        return schedstate(is_due=True, next=max(self.remaining_estimate(self.now()).total_seconds(), 0))


@celery_named
class schedule(BaseSchedule):  # noqa: N801 - Celery's public name
    """Every so many seconds.

    :param run_every: seconds, or a timedelta.
    :param relative: runs are moved to the beginning of the minute, hour or day, whatever the interval is made of.
    """

    #: For subclasses that do not call our ``__init__``.
    relative: bool = False

    def __init__(
        self,
        run_every: float | timedelta | None = None,
        relative: bool = False,
        nowfun: NowFun | None = None,
        app: Celery | None = None,
    ) -> None:
        self.run_every = maybe_timedelta(run_every)
        self.relative = relative
        super().__init__(nowfun=nowfun, app=app)

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """How much time is left until the next run."""
        now = self.maybe_make_aware(self.now())
        return remaining(self.maybe_make_aware(last_run_at), self.run_every, now, self.relative)

    def is_due(self, last_run_at: datetime) -> tuple[bool, float]:
        """Whether to run now, and in how many seconds to ask again."""
        last_run_at = self.maybe_make_aware(last_run_at)
        left = self.remaining_estimate(last_run_at).total_seconds()
        if left > 0:
            return schedstate(is_due=False, next=left)
        wait = self.seconds
        if self.relative:
            # The next boundary may be nearer than the interval: this run may be late, or the clocks may change.
            now = self.maybe_make_aware(self.now()).astimezone(last_run_at.tzinfo)
            boundary = self.remaining_estimate(now).total_seconds()
            wait = boundary if boundary > 0 else wait
        return schedstate(is_due=True, next=wait)

    def __repr__(self) -> str:
        return f"<freq: {self.human_seconds}>"

    def __eq__(self, other: object) -> bool:
        return bool(self.run_every == (other.run_every if isinstance(other, schedule) else other))

    __hash__ = None

    def __reduce__(self) -> Any:
        return type(self), (self.run_every, self.relative, self.nowfun)

    @property
    def seconds(self) -> float:
        """The interval."""
        return max(float(self.run_every.total_seconds()), 0)

    @property
    def human_seconds(self) -> str:
        """The interval, in words."""
        return humanize_seconds(self.seconds)


@celery_named
class crontab_parser:  # noqa: N801 - Celery's public name
    """Reads one field of a crontab: numbers, names, ranges ``1-5`` (``fri-mon`` too), steps ``*/15`` ``2-30/2``, lists of these.

    :param max_: how many values there are.
    :param min_: the first of them.
    """

    ParseException = ParseException

    _PART = re.compile(r"(?:(?P<star>\*)|(?P<first>\w+?)(?:-(?P<last>\w+))?)(?P<slash>/(?P<step>\w+)?)?\Z")

    def __init__(self, max_: int = 60, min_: int = 0) -> None:
        self.max_ = max_
        self.min_ = min_

    def parse(self, spec: str) -> set[int]:
        """The values that the expression means.

        :raises ParseException: it cannot be understood.
        :raises ValueError: a value is out of range.
        """
        return {value for part in spec.split(",") for value in self._parse_part(part.strip())}

    def _parse_part(self, part: str) -> list[int]:
        if not part:
            raise self.ParseException("empty part")
        found = self._PART.match(part)
        if found is None:
            if part.startswith("-"):
                raise self.ParseException("negative numbers not supported")
            raise self.ParseException(f"cannot read {part!r}: write 5, 1-5, */15, 2-30/2, or several of these with commas")
        if found["slash"] and not found["step"]:
            raise self.ParseException("empty filter")
        values = self._everything() if found["star"] else self._range(found["first"], found["last"])
        return values[:: self._step(found["step"])]

    def _step(self, text: str | None) -> int:
        if text is None:
            return 1
        if not text.isdigit() or int(text) == 0:
            raise self.ParseException(f"a step must be a number above 0, not {text!r}")
        return int(text)

    def _everything(self) -> list[int]:
        return list(range(self.min_, self.min_ + self.max_))

    def _range(self, first: str, last: str | None) -> list[int]:
        begin = self._expand_number(first)
        if last is None:
            return [begin]
        end = self._expand_number(last)
        if end < begin:  # over the end: fri-mon
            return [*range(begin, self.min_ + self.max_), *range(self.min_, end + 1)]
        return list(range(begin, end + 1))

    def _expand_number(self, s: str) -> int:
        number = int(s) if s.isdigit() else _number_of_name(s)
        largest = self.min_ + self.max_ - 1
        if number > largest:
            raise ValueError(f"Invalid end range: {number} > {largest}.")
        if number < self.min_:
            raise ValueError(f"Invalid beginning range: {number} < {self.min_}.")
        return number


def _number_of_name(name: str) -> int:
    for lookup in (yearmonth, weekday):
        try:
            return lookup(name)
        except KeyError:
            continue
    raise ValueError(f"Invalid weekday literal {name!r}.")


#: The longest that a month can be.
DAYS_IN_MONTH = {month: 29 if month == 2 else 30 if month in {4, 6, 9, 11} else 31 for month in range(1, 13)}

#: Years after which a crontab that never matched is given up: a 29 February on a certain weekday comes at least every 40 years.
HORIZON = 41


@celery_named
class crontab(BaseSchedule):  # noqa: N801 - Celery's public name
    """At the times that five fields say, as in cron: all of them must match.

    Each field is a number, an expression (see :class:`crontab_parser`) or a collection of numbers. Sunday is 0.

    :raises ValueError: a number is out of range, or the days never come (30 February).
    """

    def __init__(
        self,
        minute: Cronspec = "*",
        hour: Cronspec = "*",
        day_of_week: Cronspec = "*",
        day_of_month: Cronspec = "*",
        month_of_year: Cronspec = "*",
        **kwargs: Any,
    ) -> None:
        self._orig_minute = cronfield(minute)
        self._orig_hour = cronfield(hour)
        self._orig_day_of_week = cronfield(day_of_week)
        self._orig_day_of_month = cronfield(day_of_month)
        self._orig_month_of_year = cronfield(month_of_year)
        self._orig_kwargs = kwargs
        self.hour = self._expand_cronspec(hour, 24)
        self.minute = self._expand_cronspec(minute, 60)
        self.day_of_week = self._expand_cronspec(day_of_week, 7)
        self.day_of_month = self._expand_cronspec(day_of_month, 31, 1)
        self.month_of_year = self._expand_cronspec(month_of_year, 12, 1)
        if all(day > DAYS_IN_MONTH[month] for month in self.month_of_year for day in self.day_of_month):
            raise ValueError(
                f"Invalid crontab: day_of_month {self._orig_day_of_month!r} never occurs in "
                f"month_of_year {self._orig_month_of_year!r}."
            )
        super().__init__(**kwargs)

    @classmethod
    def from_string(cls, crontab: str) -> Self:
        """From a line of a crontab: minute, hour, day of month, month, day of week."""
        fields = crontab.split()
        if len(fields) != 5:
            raise ValueError(
                f"a crontab has five fields (minute, hour, day of month, month, day of week), not {len(fields)}: {crontab!r}"
            )
        minute, hour, day_of_month, month_of_year, day_of_week = fields
        return cls(minute, hour, day_of_week, day_of_month, month_of_year)

    @staticmethod
    def _expand_cronspec(cronspec: Any, max_: int, min_: int = 0) -> set[int]:
        match cronspec:
            case int():
                values = {cronspec}
            case str():
                values = crontab_parser(max_, min_).parse(cronspec)
            case set():
                values = cronspec
            case _ if isinstance(cronspec, Iterable):
                values = set(cronspec)
            case _:
                raise TypeError(
                    "Argument cronspec needs to be of any of the following types: int, str, or an iterable type. "
                    f"{type(cronspec)!r} was given."
                )
        for number in values:
            if not min_ <= number < max_ + min_:
                raise ValueError(f"Invalid crontab pattern.  Valid range is {min_}-{max_ - 1 + min_}. '{number}' was found.")
        return values

    def _next_wall_time(self, last: datetime) -> datetime:
        """The first minute after ``last`` that matches, on local clocks and without a zone. Pure."""
        if self._matches_day(last.date()):
            later = [minute for minute in self.minute if minute > last.minute] if last.hour in self.hour else []
            if later:
                return datetime.combine(last.date(), datetime.min.time()).replace(hour=last.hour, minute=min(later))
            hours = [hour for hour in self.hour if hour > last.hour]
            if hours:
                return datetime.combine(last.date(), datetime.min.time()).replace(hour=min(hours), minute=min(self.minute))
        day = self._next_day(last.date())
        return datetime(day.year, day.month, day.day, min(self.hour), min(self.minute))  # noqa: DTZ001 - its zone is added later

    def _matches_day(self, day: date) -> bool:
        return day.month in self.month_of_year and day.day in self.day_of_month and day.isoweekday() % 7 in self.day_of_week

    def _next_day(self, after: date) -> date:
        day = after + timedelta(days=1)
        while not self._matches_day(day):
            if day.month in self.month_of_year:
                day += timedelta(days=1)
            else:
                day = date(day.year + day.month // 12, day.month % 12 + 1, 1)
            if day.year > after.year + HORIZON:
                raise RuntimeError(f"{self!r} does not come in {HORIZON} years: its fields contradict each other")
        return day

    def remaining_delta(
        self, last_run_at: datetime, tz: Any = None, ffwd: Callable[..., Any] = ffwd
    ) -> tuple[datetime, Any, datetime]:
        """The last run, the step on the calendar to the next one, and the time: all in the schedule's zone."""
        zone = timezone.get_timezone(tz or self.tz)
        last = self.maybe_make_aware(last_run_at).astimezone(zone)
        now = self.maybe_make_aware(self.now()).astimezone(zone)
        next_ = self._next_wall_time(last.replace(tzinfo=None))
        step = ffwd(
            year=next_.year, month=next_.month, day=next_.day, hour=next_.hour, minute=next_.minute, second=0, microsecond=0
        )
        return last, step, now

    def remaining_estimate(self, last_run_at: datetime, ffwd: Callable[..., Any] = ffwd) -> timedelta:
        """How much time is left until the next run."""
        return remaining(*self.remaining_delta(last_run_at, ffwd=ffwd))

    def is_due(self, last_run_at: datetime) -> tuple[bool, float]:
        """Whether to run now, and in how many seconds to ask again.

        With the setting ``beat_cron_starting_deadline`` (seconds), a run that was missed longer ago is not made up for.
        """
        left = self.remaining_estimate(last_run_at).total_seconds()
        if left > 0:
            return schedstate(is_due=False, next=left)
        deadline = self.app.conf.beat_cron_starting_deadline
        is_stale = deadline is not None and left < 0 and self._ran_before(deadline)
        return schedstate(is_due=not is_stale, next=max(self.remaining_estimate(self.now()).total_seconds(), 0))

    def _ran_before(self, deadline: float) -> bool:
        """Whether the last run that was due lies more than ``deadline`` seconds back."""
        now = self.maybe_make_aware(self.now())
        # A run exactly at the deadline counts as in time.
        since = (now.astimezone(UTC) - timedelta(seconds=deadline, microseconds=1)).astimezone(now.tzinfo)
        return self.remaining_estimate(since).total_seconds() > 0

    def __repr__(self) -> str:
        return (
            f"<crontab: {self._orig_minute} {self._orig_hour} {self._orig_day_of_month} {self._orig_month_of_year} "
            f"{self._orig_day_of_week} (m/h/dM/MY/d)>"
        )

    def __reduce__(self) -> Any:
        fields = (
            self._orig_minute,
            self._orig_hour,
            self._orig_day_of_week,
            self._orig_day_of_month,
            self._orig_month_of_year,
        )
        return type(self), fields, self._orig_kwargs

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        super().__init__(**state)
        self._orig_kwargs = dict(state)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, crontab):
            return NotImplemented
        fields = ("month_of_year", "day_of_month", "day_of_week", "hour", "minute")
        return all(getattr(self, field) == getattr(other, field) for field in fields) and bool(super().__eq__(other))

    __hash__ = None


def cronfield(s: Any) -> Any:
    """A field of a crontab; ``*`` for None."""
    return "*" if s is None else s


def maybe_schedule(s: Any, relative: bool = False, app: Celery | None = None) -> Any:
    """A schedule for seconds or a timedelta; schedules are given back, as belonging to the app."""
    if s is None:
        return None
    if isinstance(s, int | float | timedelta):
        return schedule(s, relative, app=app)
    s.app = app
    return s


class _SolarEvent(NamedTuple):
    """How ephem finds an event: the sun's height above the horizon, the method, whether the sun's centre counts (or its edge)."""

    horizon: str
    method: str
    use_center: bool


SOLAR_EVENTS = {
    "dawn_astronomical": _SolarEvent("-18", "next_rising", True),
    "dawn_nautical": _SolarEvent("-12", "next_rising", True),
    "dawn_civil": _SolarEvent("-6", "next_rising", True),
    "sunrise": _SolarEvent("-0:34", "next_rising", False),
    "solar_noon": _SolarEvent("0", "next_transit", False),
    "sunset": _SolarEvent("-0:34", "next_setting", False),
    "dusk_civil": _SolarEvent("-6", "next_setting", True),
    "dusk_nautical": _SolarEvent("-12", "next_setting", True),
    "dusk_astronomical": _SolarEvent("-18", "next_setting", True),
}


@celery_named
class solar(BaseSchedule):  # noqa: N801 - Celery's public name
    """When the sun does something at a place. Needs the package ephem.

    :param event: ``sunrise``, ``solar_noon``, ``sunset``, or ``dawn_`` or ``dusk_`` with ``civil``, ``nautical``/``astronomical``.
    :param lat: latitude, -90 to 90.
    :param lon: longitude, -180 to 180.
    :raises ImproperlyConfigured: ephem is not installed.
    """

    #: How each event is found, by Celery's names: the observer's method, and whether the sun's centre counts.
    _methods: ClassVar[dict[str, str]] = {name: how.method for name, how in SOLAR_EVENTS.items()}
    _use_center_l: ClassVar[dict[str, bool]] = {name: how.use_center for name, how in SOLAR_EVENTS.items()}

    #: Their names; django-celery-beat offers them.
    _all_events: ClassVar[set[str]] = set(SOLAR_EVENTS)

    #: How many days to look for an event that does not come every day (the sunrise in a polar night).
    max_search_days = 366

    def __init__(self, event: str, lat: float, lon: float, **kwargs: Any) -> None:
        try:
            self.ephem = __import__("ephem")
        except ImportError as error:
            raise ImproperlyConfigured("You need to install the ephem library to use solar schedules: pip install ephem") from error
        super().__init__(**kwargs)
        if event not in SOLAR_EVENTS:
            raise ValueError(f'Argument event "{event}" is invalid, must be one of {", ".join(sorted(SOLAR_EVENTS))}.')
        if not -90 <= lat <= 90:
            raise ValueError(f"Argument latitude {lat} is invalid, must be between -90 and 90.")
        if not -180 <= lon <= 180:
            raise ValueError(f"Argument longitude {lon} is invalid, must be between -180 and 180.")
        self.event = event
        self.lat = lat
        self.lon = lon
        self._how = SOLAR_EVENTS[event]
        observer = self.ephem.Observer()
        observer.lat, observer.lon = str(lat), str(lon)
        observer.elev, observer.pressure = 0, 0
        observer.horizon = self._how.horizon
        self.cal = observer

    def __reduce__(self) -> Any:
        return type(self), (self.event, self.lat, self.lon)

    def __repr__(self) -> str:
        return f"<solar: {self.event} at latitude {self.lat}, longitude: {self.lon}>"

    def _next_event(self, start: Any) -> Any:
        """The first time after ``start``; where the search ended if there is none in a year, so that it goes on from there."""
        sun = self.ephem.Sun()
        options = {"use_center": True} if self._how.use_center else {}
        for _ in range(self.max_search_days):
            try:
                return getattr(self.cal, self._how.method)(sun, start=start, **options)
            except self.ephem.CircumpolarError:
                start = self.cal.next_antitransit(sun, start=start)
        return start

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """How much time is left until the next run."""
        last = localize(self.maybe_make_aware(last_run_at), timezone.utc)
        self.cal.date = last
        next_ = self.maybe_make_aware(self._next_event(self.ephem.Date(last)).datetime())
        return subtract_datetimes(next_, self.maybe_make_aware(self.now()))

    def is_due(self, last_run_at: datetime) -> tuple[bool, float]:
        """Whether to run now, and in how many seconds to ask again."""
        return self._state(last_run_at)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, solar):
            return NotImplemented
        return (other.event, other.lat, other.lon) == (self.event, self.lat, self.lon)

    __hash__ = None

"""Times, rates and schedules. The literals of schedules were observed on genuine Celery 5.7.0."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compat_celery import Celery
from compat_celery.exceptions import ImproperlyConfigured
from compat_celery.schedules import ParseException, crontab, crontab_parser, maybe_schedule, schedule, solar
from compat_celery.utils.time import (
    LocalTimezone,
    ffwd,
    get_exponential_backoff_interval,
    humanize_seconds,
    localize,
    make_aware,
    maybe_iso8601,
    maybe_make_aware,
    rate,
    remaining,
    timezone,
)

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("text", "per_second"), [("100/s", 100), ("60/m", 1), ("1800/h", 0.5), ("5", 5), (7, 7), (None, 0), ("", 0)]
)
def test_rates_are_per_second(text: Any, per_second: float) -> None:
    assert rate(text) == per_second


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4 * 86400, "4.00 days"), (86400, "1.00 day"), (3660, "1.02 hours"), (60, "1.00 minute"), (1, "1.00 second"), (0.4, "now")],
)
def test_seconds_in_words(seconds: float, text: str) -> None:
    assert humanize_seconds(seconds) == text


def test_a_naive_time_is_read_as_utc() -> None:
    assert maybe_make_aware(datetime(2030, 1, 1)) == datetime(2030, 1, 1, tzinfo=UTC)  # noqa: DTZ001 - naive on purpose
    aware = datetime(2030, 1, 1, tzinfo=BERLIN)
    assert maybe_make_aware(aware) is aware
    assert localize(datetime(2030, 1, 1, tzinfo=UTC), BERLIN).hour == 1


def test_a_time_that_clocks_skip_is_moved_forward_and_of_a_repeated_one_the_first_is_taken() -> None:
    skipped = make_aware(datetime(2026, 3, 29, 2, 30), BERLIN)  # noqa: DTZ001 - made aware
    repeated = make_aware(datetime(2026, 10, 25, 2, 30), BERLIN)  # noqa: DTZ001 - made aware
    assert skipped.astimezone(UTC) == datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
    assert repeated.astimezone(UTC) == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)


def test_iso_8601_is_read() -> None:
    assert maybe_iso8601("2030-01-02T03:04:05Z") == datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert maybe_iso8601(None) is None


def test_a_step_on_the_calendar_stays_within_the_month() -> None:
    assert datetime(2026, 1, 31, tzinfo=UTC) + ffwd(month=2, hour=3) == datetime(2026, 2, 28, 3, tzinfo=UTC)
    assert datetime(2026, 11, 20, tzinfo=UTC) + ffwd(weekday=0, weeks=1) == datetime(2026, 11, 30, tzinfo=UTC)


def test_the_systems_zone_agrees_with_the_clock() -> None:
    now = datetime.now(UTC)
    assert now.astimezone(timezone.local).utcoffset() == now.astimezone().utcoffset()
    assert now.astimezone(LocalTimezone()).utcoffset() == now.astimezone().utcoffset()


def test_remaining_time_is_real_time_across_a_change_of_clocks() -> None:
    start = datetime(2026, 3, 28, 12, tzinfo=BERLIN)
    assert remaining(start, timedelta(hours=24), now=start) == timedelta(hours=24)
    assert remaining(start, timedelta(days=1), now=start, relative=True) == timedelta(hours=12)


@given(retries=st.integers(0, 10**6), factor=st.integers(0, 100), maximum=st.integers(0, 5000))
def test_the_wait_before_a_retry_is_never_beyond_its_bounds(retries: int, factor: int, maximum: int) -> None:
    plain = get_exponential_backoff_interval(factor, retries, maximum)
    assert plain == min(maximum, factor * 2 ** min(retries, 20))
    assert 0 <= get_exponential_backoff_interval(factor, retries, maximum, full_jitter=True) <= plain


def berlin() -> Celery:
    return Celery("proj", timezone="Europe/Berlin", set_as_current=False)


@pytest.mark.parametrize(
    ("fields", "last", "next_"),
    [
        ({"minute": "*/15"}, datetime(2026, 3, 29, 0, 50, tzinfo=UTC), datetime(2026, 3, 29, 1, 0, tzinfo=UTC)),
        ({"hour": 2, "minute": 30}, datetime(2026, 3, 28, 12, tzinfo=UTC), datetime(2026, 3, 29, 1, 30, tzinfo=UTC)),
        ({"hour": 2, "minute": 30}, datetime(2026, 10, 24, 12, tzinfo=UTC), datetime(2026, 10, 25, 0, 30, tzinfo=UTC)),
        (
            {"hour": 3, "minute": 0, "day_of_week": "fri-mon"},
            datetime(2026, 10, 20, 12, tzinfo=UTC),
            datetime(2026, 10, 23, 1, tzinfo=UTC),
        ),
        (
            {"minute": 0, "hour": 0, "day_of_month": 29, "month_of_year": 2},
            datetime(2025, 1, 1, tzinfo=UTC),
            datetime(2028, 2, 28, 23, tzinfo=UTC),
        ),
    ],
)
def test_a_crontab_comes_next_when_celerys_does(fields: dict[str, Any], last: datetime, next_: datetime) -> None:
    cron = crontab(**fields, nowfun=lambda: last, app=berlin())
    assert last + cron.remaining_estimate(last) == next_


CRON_FIELD = st.sampled_from(["*", "*/2", "*/7", "3", "1,5", "2-4"])


@given(
    fields=st.tuples(CRON_FIELD, CRON_FIELD, CRON_FIELD, CRON_FIELD, CRON_FIELD),
    last=st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1)),  # noqa: DTZ001 - hypothesis wants naive bounds
)
def test_a_crontabs_next_time_is_the_first_that_matches(fields: tuple[str, ...], last: datetime) -> None:
    last = last.replace(tzinfo=UTC)
    cron = crontab(*fields, nowfun=lambda: last, app=Celery("proj", set_as_current=False))
    next_ = last + cron.remaining_estimate(last)

    def matches(moment: datetime) -> bool:
        return (
            moment.minute in cron.minute
            and moment.hour in cron.hour
            and moment.isoweekday() % 7 in cron.day_of_week
            and moment.day in cron.day_of_month
            and moment.month in cron.month_of_year
        )

    assert next_ > last
    assert next_.second == next_.microsecond == 0
    assert matches(next_)
    # Of the minutes in between, those near both ends are looked at one by one.
    minute = timedelta(minutes=1)
    after = last.replace(second=0, microsecond=0) + minute
    checked = [after + number * minute for number in range(300)] + [next_ - number * minute for number in range(1, 300)]
    assert not any(matches(moment) for moment in checked if after <= moment < next_)


def test_a_crontab_is_due_and_says_when_to_ask_again() -> None:
    now = datetime(2026, 5, 5, 10, 0, 30, tzinfo=UTC)
    cron = crontab(minute="*/10", nowfun=lambda: now, app=Celery("proj", set_as_current=False))
    assert cron.is_due(datetime(2026, 5, 5, 9, 50, tzinfo=UTC)) == (True, 570)
    assert cron.is_due(datetime(2026, 5, 5, 10, 0, tzinfo=UTC)) == (False, 570)


def test_a_run_that_was_missed_long_ago_is_not_made_up_for() -> None:
    app = Celery("proj", set_as_current=False)
    app.conf.beat_cron_starting_deadline = 60
    now = datetime(2026, 5, 5, 10, 30, tzinfo=UTC)
    cron = crontab(minute=0, nowfun=lambda: now, app=app)
    assert cron.is_due(datetime(2026, 5, 5, 8, 30, tzinfo=UTC)) == (False, 1800)
    app.conf.beat_cron_starting_deadline = 3600
    assert cron.is_due(datetime(2026, 5, 5, 8, 30, tzinfo=UTC)).is_due is True


@pytest.mark.parametrize(
    ("spec", "size", "first", "values"),
    [
        ("*", 7, 0, {0, 1, 2, 3, 4, 5, 6}),
        ("*/15", 60, 0, {0, 15, 30, 45}),
        ("2-12/5", 12, 1, {2, 7, 12}),
        ("fri-mon", 7, 0, {5, 6, 0, 1}),
        ("jan,mar", 12, 1, {1, 3}),
        ("1,13,30-32", 60, 0, {1, 13, 30, 31, 32}),
    ],
)
def test_a_field_of_a_crontab_is_read(spec: str, size: int, first: int, values: set[int]) -> None:
    assert crontab_parser(size, first).parse(spec) == values


@pytest.mark.parametrize("spec", ["", "1,,2", "*/", "1-2/", "-5", "*/0", "1 2", "a-b-c"])
def test_a_field_that_cannot_be_read_is_a_parse_error(spec: str) -> None:
    with pytest.raises(ParseException):
        crontab_parser(60).parse(spec)


@pytest.mark.parametrize("spec", ["60", "1-70", "someday"])
def test_a_field_out_of_range_is_a_value_error(spec: str) -> None:
    with pytest.raises(ValueError, match="Invalid"):
        crontab_parser(60).parse(spec)


def test_a_crontab_that_never_comes_is_refused() -> None:
    with pytest.raises(ValueError, match="never occurs"):
        crontab(day_of_month=30, month_of_year=2)
    with pytest.raises(ValueError, match="Valid range is 0-59"):
        crontab(minute={99})
    with pytest.raises(TypeError, match="cronspec"):
        crontab(minute=1.5)


def test_a_crontab_comes_from_a_line_of_text_and_keeps_what_it_was_made_of() -> None:
    cron = crontab.from_string("*/5 3 1 6 mon")
    assert (cron._orig_minute, cron._orig_day_of_month, cron._orig_day_of_week) == ("*/5", "1", "mon")
    assert repr(cron) == "<crontab: */5 3 1 6 mon (m/h/dM/MY/d)>"
    assert pickle.loads(pickle.dumps([1])) == [1]
    with pytest.raises(ValueError, match="five fields"):
        crontab.from_string("* * *")


def test_schedules_are_equal_when_they_mean_the_same() -> None:
    assert crontab(minute="*/30") == crontab(minute={0, 30})
    assert crontab(minute=1) != crontab(minute=2)
    assert schedule(10) == schedule(timedelta(seconds=10))
    assert schedule(10) == timedelta(seconds=10)
    assert schedule(10) != schedule(11)


def test_an_interval_is_due_when_it_is_over() -> None:
    now = datetime(2026, 5, 5, 10, 0, 30, tzinfo=UTC)
    every = schedule(20, nowfun=lambda: now, app=Celery("proj", set_as_current=False))
    assert every.is_due(now - timedelta(seconds=30)) == (True, 20)
    assert every.is_due(now - timedelta(seconds=5)) == (False, 15)


def test_anything_that_may_be_a_schedule_becomes_one() -> None:
    app = Celery("proj", set_as_current=False)
    assert maybe_schedule(30).run_every == timedelta(seconds=30)
    assert maybe_schedule(timedelta(minutes=1)).seconds == 60
    cron = crontab()
    assert maybe_schedule(cron, app=app) is cron
    assert cron.app is app
    assert maybe_schedule(None) is None


def test_the_sun_needs_ephem() -> None:
    try:
        __import__("ephem")
    except ImportError:
        with pytest.raises(ImproperlyConfigured, match="ephem"):
            solar("sunset", 52.5, 13.4)
    else:
        with pytest.raises(ValueError, match="latitude"):
            solar("sunset", 152.5, 13.4)

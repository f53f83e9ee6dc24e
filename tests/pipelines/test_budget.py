"""A budget grants exactly what its windows allow: on every store, against a model that remembers every call."""

import itertools
import uuid
from collections import defaultdict
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jumpstarter.errors import ConfigurationError
from jumpstarter.pipelines.budget import Budget
from jumpstarter.pipelines.clocks import shared_clock
from jumpstarter.pipelines.units import Rate, day, minute, minutes, second
from jumpstarter.testing.clock import ManualClock

ZAGREB = ZoneInfo("Europe/Zagreb")
# The hour in which the clocks of Zagreb go forward in 2030, minus half a day.
SPRING = datetime(2030, 3, 30, 12, tzinfo=UTC).timestamp()


class Model:
    """Remembers every unit that was granted, and asks each window by counting them all."""

    def __init__(self, limits, zone):
        self.limits = limits
        self.zone = zone
        self.taken = defaultdict(list)  # unit → moments, one for each
        self.blocked = 0.0

    def room(self, unit, now):
        if now < self.blocked:
            return 0
        rates = self.limits.get(unit, ())
        return min((rate.limit - self._used(unit, rate, now) for rate in rates), default=10**9)

    def _used(self, unit, rate, now):
        if not rate.is_calendar:
            return sum(1 for at in self.taken[unit] if at + rate.period > now)
        return sum(1 for at in self.taken[unit] if self._part(at, rate) == self._part(now, rate))

    def _part(self, moment, rate):
        local = datetime.fromtimestamp(moment, self.zone)
        return local.date() if rate.period == day else int(moment // rate.period)

    def take(self, want, least, now):
        wanted = {unit: amount for unit, amount in want.items() if amount}
        rooms = {unit: self.room(unit, now) for unit in wanted}
        if any(rooms[unit] < min(least.get(unit, 1), wanted[unit]) for unit in wanted) or now < self.blocked:
            return {}
        granted = {unit: min(amount, rooms[unit]) for unit, amount in wanted.items()}
        for unit, amount in granted.items():
            self.taken[unit] += [now] * amount
        return granted

    def refund(self, unit, amount, at):
        for _ in range(amount):
            self.taken[unit].remove(at)


rates = st.builds(
    lambda limit, period, is_calendar: Rate(limit, period, is_calendar if period in (60.0, 3600.0, 86400.0) else False),
    st.integers(1, 12),
    st.sampled_from([1.0, 10.0, 60.0, 3600.0, 86400.0]),
    st.booleans(),
)
several = st.lists(rates, min_size=1, max_size=3, unique_by=lambda rate: (rate.period, rate.is_calendar))
limits = st.fixed_dictionaries({"requests": several}, optional={"rows": several})
steps = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(0, 3), st.integers(0, 15), st.integers(1, 3)),
        st.tuples(st.just("pass"), st.sampled_from([0.25, 1.0, 7.5, 60.0, 1800.0, 40000.0])),
        st.tuples(st.just("wait")),
        st.tuples(st.just("refund"), st.integers(1, 5)),
        st.tuples(st.just("block"), st.sampled_from([0.5, 30.0])),
    ),
    max_size=25,
)


@pytest.mark.parametrize("kind", ["memory", "sqlite", "redis"])
def test_a_budget_grants_what_a_model_that_counts_every_unit_grants(kind, tmp_path, request):
    url = {"memory": "memory://model", "sqlite": f"sqlite:///{tmp_path}/budget.db"}.get(kind) or request.getfixturevalue(
        "redis_server"
    ).url

    @settings(max_examples=150 if kind == "memory" else 40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(limits, steps)
    def check(limits, steps):
        budget = Budget(str(uuid.uuid4()), tz="Europe/Zagreb", store=url, **limits)
        model = Model(limits, ZAGREB)
        with shared_clock(ManualClock(SPRING)) as clock:
            run(budget, model, clock, steps)

    check()


def run(budget, model, clock, steps):
    grants, wait = [], 0.0
    for what, *arguments in steps:
        match what:
            case "take":
                requests, rows, least = arguments
                want = {"requests": requests, "rows": rows}
                needs = {"requests": least, "rows": least}
                smallest = {unit: min((rate.limit for rate in model.limits.get(unit, ())), default=99) for unit in want}
                needs = {unit: min(amount, smallest[unit]) for unit, amount in needs.items()}
                grant = budget.take_nowait(needs, **want)
                assert dict(grant.amounts) == model.take(want, needs, clock.now())
                wait = 0.0 if grant or not any(want.values()) else grant.wait
                assert bool(wait) == (not grant and any(want.values()))
                if wait:
                    assert_the_wait_is_right(
                        model, {unit: min(needs[unit], want[unit]) for unit in want if want[unit]}, clock.now(), wait
                    )
                if grant:
                    grants.append([grant, dict(grant.amounts)])
            case "pass":
                clock.advance(arguments[0])
            case "wait":
                clock.advance(wait)
                wait = 0.0
            case "refund" if grants:
                grant, left = grants[-1]
                back = min(arguments[0], left.get("requests", 0))
                if back:
                    budget.refund_nowait(grant, requests=back)
                    left["requests"] -= back
                    model.refund("requests", back, grant.at)
            case "block":
                budget.block_nowait(arguments[0])
                model.blocked = max(model.blocked, clock.now() + arguments[0])


def assert_the_wait_is_right(model, needs, now, wait):
    """After the wait there is room, and a moment before there is none."""

    def has_room(moment):
        return all(model.room(unit, moment) >= amount for unit, amount in needs.items())

    assert has_room(now + wait + 1e-3)
    assert not has_room(now + wait - 1e-3)


def test_a_thousand_rows_and_ten_requests_a_day_the_tenth_request_gets_what_is_left(store):
    budget = Budget("geocoder", requests=10 / day, rows=1000 / day, tz="Europe/Zagreb", store=store)
    start = datetime(2030, 5, 6, 9, tzinfo=ZAGREB).timestamp()
    with shared_clock(ManualClock(start)):
        granted = [budget.take_nowait(requests=1, rows=105)["rows"] for _ in range(10)]
        assert granted == [105] * 9 + [55]
        refused = budget.take_nowait(requests=1, rows=105)
        assert not refused
        assert refused.wait == 15 * 3600
        room = budget.peek_nowait()
        assert (room.requests, room.rows) == (0, 0)
        assert room.resets == datetime(2030, 5, 7, tzinfo=ZAGREB).timestamp()


@pytest.mark.parametrize(("date", "hours"), [((2030, 3, 31), 23), ((2030, 10, 27), 25), ((2030, 6, 1), 24)])
def test_a_day_lasts_from_midnight_to_midnight_also_when_the_clocks_change(date, hours, store):
    budget = Budget("days", requests=1 / day, tz="Europe/Zagreb", store=store)
    with shared_clock(ManualClock(datetime(*date, tzinfo=ZAGREB).timestamp())):
        assert budget.take_nowait(requests=1)
        assert budget.take_nowait(requests=1).wait == hours * 3600


def test_a_smooth_budget_keeps_a_distance_between_grants(store):
    budget = Budget("smooth", requests=6 / minute, smooth=True, store=store)
    with shared_clock(ManualClock()) as clock:
        granted = []
        for _ in range(600):
            if budget.take_nowait(requests=1):
                granted.append(clock.now())
            clock.advance(1)
        assert {later - sooner for sooner, later in itertools.pairwise(granted)} == {10.0}
        assert len(granted) == 60


def test_a_refund_of_the_last_grant_gives_its_distance_back_and_that_of_an_earlier_one_does_not(store):
    budget = Budget("smooth", requests=6 / minute, smooth=True, store=store)
    with shared_clock(ManualClock()) as clock:
        first = budget.take_nowait(requests=1)
        budget.refund_nowait(first)
        second = budget.take_nowait(requests=1)
        assert second
        clock.advance(10)
        assert budget.take_nowait(requests=1)
        budget.refund_nowait(second)
        assert budget.take_nowait(requests=1).wait == 10


def test_nobody_takes_anything_while_it_is_blocked_and_a_shorter_block_does_not_shorten(store):
    budget = Budget("blocked", requests=6 / minute, store=store)
    with shared_clock(ManualClock()) as clock:
        budget.block_nowait(30)
        budget.block_nowait(5)
        assert budget.take_nowait(requests=1).wait == 30
        assert budget.peek_nowait().wait == 30
        clock.advance(30)
        assert budget.take_nowait(requests=1)


def test_what_is_never_to_be_had_is_an_error_not_a_wait_without_end(store):
    budget = Budget("small", requests=2 / second, store=store)
    with pytest.raises(ConfigurationError, match="3 requests at once are never to be had"):
        budget.take_nowait({"requests": 3}, requests=3)


def test_a_margin_makes_sliding_windows_longer(store):
    budget = Budget("margin", requests=1 / second, margin=0.25, store=store)
    with shared_clock(ManualClock()):
        assert budget.take_nowait(requests=1)
        assert budget.take_nowait(requests=1).wait == 1.25


def test_a_log_stays_short_and_the_limit_holds(store):
    budget = Budget("many", requests=1000 / minutes(1), store=store)
    taken = []
    with shared_clock(ManualClock()) as clock:
        for _ in range(2500):
            if budget.take_nowait(requests=1):
                taken.append(clock.now())
            clock.advance(0.05)
        assert max(sum(1 for at in taken if end - 60 < at <= end) for end in taken) <= 1000
        assert len(taken) >= 1960
        if store.url.startswith("memory"):
            (kept,) = store._budgets["many"]["windows"].values()
            assert len(kept["log"]) <= 300


@pytest.mark.anyio
async def test_waiting_for_all_of_it_takes_as_long_as_it_must(virtual_clock, store):
    budget = Budget("wait", requests=5 / minutes(10), store=store)
    began = virtual_clock.now()
    for _ in range(11):
        await budget.take_all(requests=1)
    assert virtual_clock.now() - began == pytest.approx(1200)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Budget("x"), "limits nothing"),
        (lambda: Budget("x", requests=10), "must be a rate"),
        (lambda: Budget("x", requests=[10 / minute, 20 / minutes(1)]), "two limits for one period"),
        (lambda: Budget("x", requests=1.5 / day), "whole number"),
        (lambda: Budget("x", requests=1 / day, tz="Europe/Nowhere"), "no time zone 'Europe/Nowhere'"),
        ((5 / minutes(7)).calendar, "minutes, hours and days"),
    ],
)
def test_values_that_make_no_sense_are_refused_by_name(make, says):
    with pytest.raises(ConfigurationError, match=says):
        make()

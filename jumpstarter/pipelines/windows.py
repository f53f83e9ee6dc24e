"""What a budget decides: how much may be taken now, and when the rest. Pure: state and time go in, a decision comes out.

The state of a budget is a dict of plain values, so that every store can keep it (``stores/budget.lua`` decides the same on Redis;
``tests/pipelines/test_budget.py`` compares them with a model that remembers every call)::

    {"blocked": 0.0, "windows": {"rows/86400c": {"start": …, "used": 40}, "requests/1s": {"log": [[first, last, amount], …]}}}

A window of any ``period`` seconds keeps a log of what was taken. Beyond ``EXACT`` entries, those that were made within a 128th of
the period are counted as if all had been made with the last of them, so that the log stays short and the limit holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from typing import Any

from jumpstarter.errors import ConfigurationError
from jumpstarter.pipelines.units import DAY, Rate

State = dict[str, Any]
Amounts = Mapping[str, int]

#: Entries of a log that are never counted together.
EXACT = 128
#: Two floats that mean the same moment.
_SAME = 1e-6


@dataclass(frozen=True, slots=True)
class Window:
    """One limit of a budget.

    :ivar key: under which its state is kept. The limit is no part of it: a limit that is changed finds what was used.
    :ivar unit: what it limits: ``requests``, ``rows``.
    :ivar hold: seconds for which an amount counts in a sliding window.
    :ivar bounds: of a calendar window: moments at which it begins anew, among them those around now.
    """

    key: str
    unit: str
    limit: int
    period: float
    is_calendar: bool
    is_smooth: bool
    hold: float
    bounds: tuple[float, ...] = ()

    def around(self, now: float) -> tuple[float, float]:
        """Where the calendar window that holds ``now`` begins and ends.

        :raises LookupError: the bounds are those of another time.
        """
        for start, end in zip(self.bounds, self.bounds[1:], strict=False):
            if start <= now < end:
                return start, end
        raise LookupError(now)

    def interval(self, now: float) -> float:
        """Seconds between two units of a smooth window."""
        if not self.is_calendar:
            return self.hold / self.limit
        start, end = self.around(now)
        return (end - start) / self.limit


@dataclass(frozen=True, slots=True)
class Look:
    """What one window says.

    :ivar left: how much of its limit is left in it.
    :ivar free: how much of that may be taken now.
    :ivar wait: seconds until what is needed at least may be taken.
    :ivar resets: wall time at which something of it is free again, or it begins anew.
    """

    window: Window
    left: int
    free: int
    wait: float
    resets: float


@dataclass(frozen=True, slots=True)
class Decision:
    """What came of a wish.

    :ivar granted: by unit; empty when nothing was.
    :ivar wait: seconds after which to ask again; 0 when something was granted.
    """

    granted: Mapping[str, int]
    wait: float
    looks: tuple[Look, ...]


def make_windows(
    limits: Mapping[str, Sequence[Rate]], zone: tzinfo, now: float, *, is_smooth: bool, margin: float
) -> tuple[Window, ...]:
    """All windows of a budget, with the calendar around ``now`` (wall seconds)."""
    return tuple(
        Window(
            key=f"{unit}/{rate.period:g}{'c' if rate.is_calendar else 's'}",
            unit=unit,
            limit=rate.limit,
            period=rate.period,
            is_calendar=bool(rate.is_calendar),
            is_smooth=is_smooth,
            hold=rate.period + margin,
            bounds=bounds(rate.period, zone, now) if rate.is_calendar else (),
        )
        for unit, rates in limits.items()
        for rate in rates
    )


def bounds(period: float, zone: tzinfo, now: float) -> tuple[float, ...]:
    """Four moments at which calendar windows begin: the second is the last one up to ``now``.

    Days begin at local midnight, so that some have 23 or 25 hours.
    """
    local = datetime.fromtimestamp(now, zone)
    if period == DAY:
        today = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
        return tuple((today + timedelta(days=step)).timestamp() for step in (-1, 0, 1, 2))
    offset = (local.utcoffset() or timedelta()).total_seconds()
    start = math.floor((now + offset) / period) * period - offset
    return tuple(start + step * period for step in (-1, 0, 1, 2))


def take(state: State, windows: Sequence[Window], now: float, want: Amounts, least: Amounts) -> Decision:
    """Grant up to what is wanted, if at least ``least`` of each unit can be had; note it in the state.

    :raises ConfigurationError: ``least`` is more than a limit, so that it could never be had.
    """
    want = {unit: amount for unit, amount in want.items() if amount > 0}
    looks = examine(state, windows, now, {unit: min(least.get(unit, 1), amount) for unit, amount in want.items()})
    mine = [look for look in looks if look.window.unit in want]
    wait = max((look.wait for look in mine), default=0.0)
    if wait > 0 or state.get("blocked", 0.0) > now:
        return Decision({}, max(wait, state.get("blocked", 0.0) - now), looks)
    granted = {unit: min([amount, *(look.free for look in mine if look.window.unit == unit)]) for unit, amount in want.items()}
    for look in mine:
        _charge(state["windows"][look.window.key], look.window, now, granted[look.window.unit])
    return Decision(granted, 0.0, looks)


def examine(state: State, windows: Sequence[Window], now: float, least: Amounts) -> tuple[Look, ...]:
    """What each window says; forgets what does not count any more."""
    held = state.setdefault("windows", {})
    blocked = max(0.0, state.get("blocked", 0.0) - now)
    looks = []
    for window in windows:
        need = max(1, least.get(window.unit, 1))
        if need > window.limit:
            raise ConfigurationError(
                f"{need} {window.unit} at once are never to be had: the limit is {window.limit} in {window.period:g} s"
            )
        kept = held.setdefault(window.key, {})
        left, wait, resets = (_calendar if window.is_calendar else _sliding)(kept, window, now, need)
        wait = max(wait, kept.get("next", 0.0) - now, blocked, 0.0)
        looks.append(Look(window, left, 0 if max(kept.get("next", 0.0) - now, blocked) > 0 else left, wait, resets))
    return tuple(looks)


def refund(state: State, windows: Sequence[Window], granted: Amounts, at: float, back: Amounts) -> None:
    """Take back what was granted ``at`` that moment and not used. What has begun anew since is not touched."""
    for window in windows:
        amount = min(back.get(window.unit, 0), granted.get(window.unit, 0))
        kept = state.get("windows", {}).get(window.key)
        if amount <= 0 or kept is None:
            continue
        if window.is_calendar:
            if at >= kept.get("start", math.inf):
                kept["used"] = max(0, kept["used"] - amount)
        else:
            _unlog(kept.get("log", []), at, amount)
        if window.is_smooth and not (window.is_calendar and at < kept.get("start", math.inf)):
            interval = window.interval(at)
            # Only the last grant: who came after it was told to keep a distance from it.
            if abs(kept.get("next", 0.0) - (at + granted[window.unit] * interval)) < _SAME:
                kept["next"] = at + (granted[window.unit] - amount) * interval


def block(state: State, until: float) -> None:
    """Grant nothing before that moment."""
    state["blocked"] = max(state.get("blocked", 0.0), until)


def _calendar(kept: State, window: Window, now: float, need: int) -> tuple[int, float, float]:
    start, end = window.around(now)
    if start > kept.get("start", -math.inf):
        kept["start"], kept["used"] = start, 0
    left = max(0, window.limit - kept["used"])
    return left, (end - now if left < need else 0.0), end


def _sliding(kept: State, window: Window, now: float, need: int) -> tuple[int, float, float]:
    log = kept.setdefault("log", [])
    while log and log[0][1] + window.hold <= now:
        del log[0]
    left = max(0, window.limit - sum(entry[2] for entry in log))
    resets = log[0][1] + window.hold if log else now
    lacking = need - left
    for _, last, amount in log:
        if lacking <= 0:
            break
        lacking -= amount
        resets_at = last + window.hold
    return left, (resets_at - now if need > left else 0.0), resets


def _charge(kept: State, window: Window, now: float, amount: int) -> None:
    if window.is_calendar:
        kept["used"] += amount
    else:
        log = kept["log"]
        if log and (log[-1][1] >= now or (len(log) >= EXACT and now - log[-1][0] < window.period / EXACT)):
            log[-1][1], log[-1][2] = max(now, log[-1][1]), log[-1][2] + amount
        else:
            log.append([now, now, amount])
    if window.is_smooth:
        kept["next"] = now + amount * window.interval(now)


def _unlog(log: list[list[Any]], at: float, amount: int) -> None:
    for entry in log:
        if entry[0] - _SAME <= at <= entry[1] + _SAME:
            entry[2] = max(0, entry[2] - amount)
            break
    log[:] = [entry for entry in log if entry[2] > 0]

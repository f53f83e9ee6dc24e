"""Budgets: how much of somebody else's allowance is left, durable and shared by all who use it. Comes from: pipelines, users.

Goes to: a store, which decides in one atomic step (``windows``; on Redis the same in Lua).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import anyio

from jumpstarter.errors import ConfigurationError
from jumpstarter.pipelines.clocks import clock, hop
from jumpstarter.pipelines.stores import open_store
from jumpstarter.pipelines.stores.port import BudgetSpec, Grant, Room, Store
from jumpstarter.pipelines.units import Rate
from jumpstarter.pipelines.windows import Amounts

#: Longest sleep between two looks at a budget, in seconds: others may have given something back.
_LOOK_AGAIN = 60.0


class Budget:
    """An allowance: ``Budget("geocoder", requests=10 / day, rows=1000 / day, tz="Europe/Zagreb")``.

    Everything that has the same name in the same store shares it, whatever process it runs in.

    :param limits: by unit, a rate or several at once: ``requests=[10 / second, 5000 / day]``. ``requests`` and ``rows`` are what
        pipelines count by themselves; any other word may be counted too.
    :param tz: whose midnight begins a day.
    :param smooth: what is granted is spread evenly: after ``n`` of a limit the next grant is ``n / limit`` of the period away.
    :param margin: seconds for which a sliding window counts a grant longer than its period, since a call may arrive at the other
        side that much earlier or later than it was granted.
    :param store: its address; None: a pipeline's budget lives where the pipeline's rows live, any other in this process.
    :raises ConfigurationError: for values that make no sense.
    """

    def __init__(
        self,
        name: str,
        *,
        tz: str = "UTC",
        smooth: bool = False,
        margin: float = 0.0,
        store: str | Store | None = None,
        **limits: Rate | Sequence[Rate],
    ) -> None:
        if not limits:
            raise ConfigurationError(f"budget {name!r} limits nothing: write Budget({name!r}, requests=10 / day)")
        try:
            zone = ZoneInfo(tz)
        except (ValueError, LookupError):
            raise ConfigurationError(f"budget {name!r}: there is no time zone {tz!r}") from None
        if not 0 <= margin < math.inf:
            raise ConfigurationError(f"budget {name!r}: margin={margin!r} must be seconds, 0 or more")
        self.name = name
        self.spec = BudgetSpec(name, {unit: _rates(name, unit, rates) for unit, rates in limits.items()}, zone, smooth, margin)
        self._store: Store | None = None if store is None else open_store(store)

    @property
    def store(self) -> Store:
        """Where it is kept."""
        if self._store is None:
            self._store = open_store("memory://")
        return self._store

    def settle_in(self, store: Store) -> None:
        """Keep it there, unless it was said otherwise."""
        if self._store is None:
            self._store = store

    def limits(self, unit: str) -> bool:
        """Whether it limits that."""
        return unit in self.spec.limits

    def never_grants(self, amounts: Mapping[str, int]) -> str | None:
        """Why so much at once is never to be had; None when it is."""
        for unit, amount in amounts.items():
            for rate in self.spec.limits.get(unit, ()):
                if amount > rate.limit:
                    return f"it costs {amount} {unit}, and budget {self.name!r} never grants more than {rate}"
        return None

    async def take(self, least: Mapping[str, int] | None = None, /, **want: int) -> Grant:
        """Take up to so much of each unit: ``await budget.take(requests=1, rows=100)``. Does not wait.

        :param least: what must be had of a unit at least, or nothing is granted; 1 where it is not said.
        :raises ConfigurationError: ``least`` is more than a limit.
        """
        return await hop(self.store.take, self.spec, want, least or {}, is_quick=self.store.is_quick)

    async def take_all(self, **want: int) -> Grant:
        """Take exactly so much; waits until it can be had.

        :raises ConfigurationError: it is more than a limit.
        """
        while True:
            grant = await self.take(want, **want)
            if grant:
                return grant
            await anyio.sleep(min(grant.wait, _LOOK_AGAIN))

    async def refund(self, grant: Grant, **back: int) -> None:
        """Give back what was granted and not used: ``await budget.refund(grant, rows=63)``; without amounts all of it."""
        await hop(self.store.refund, self.spec, grant, back or grant.amounts, is_quick=self.store.is_quick)

    async def block_for(self, seconds: float) -> None:
        """Let nobody take anything for so many seconds, for example after an answer 429 with ``Retry-After``. Never shortens."""
        await hop(self.store.block, self.spec, float(seconds), None, is_quick=self.store.is_quick)

    async def block_until(self, moment: float | datetime) -> None:
        """Let nobody take anything before that moment: seconds since 1970, or a datetime with a time zone. Never shortens."""
        until = moment.timestamp() if isinstance(moment, datetime) else float(moment)
        await hop(self.store.block, self.spec, None, until, is_quick=self.store.is_quick)

    async def peek(self, **least: int) -> Room:
        """What is left, and how long to wait for so much; takes nothing."""
        return await hop(self.store.peek, self.spec, least, is_quick=self.store.is_quick)

    # -- for code without an event loop: Celery tasks, scripts --

    def take_nowait(self, least: Amounts | None = None, /, **want: int) -> Grant:
        """As :meth:`take`; blocks for the time of one call of the store."""
        return self.store.take(self.spec, want, least or {})

    def peek_nowait(self, **least: int) -> Room:
        """As :meth:`peek`; blocks for the time of one call of the store."""
        return self.store.peek(self.spec, least)

    def refund_nowait(self, grant: Grant, **back: int) -> None:
        """As :meth:`refund`; blocks for the time of one call of the store."""
        self.store.refund(self.spec, grant, back or grant.amounts)

    def block_nowait(self, seconds: float) -> None:
        """As :meth:`block_for`; blocks for the time of one call of the store."""
        self.store.block(self.spec, float(seconds), None)

    def __repr__(self) -> str:
        limits = ", ".join(f"{unit}={' and '.join(map(str, rates))}" for unit, rates in self.spec.limits.items())
        return f"<budget {self.name!r}: {limits}>"


def seconds_until(moment: float) -> float:
    """From now to that wall time; 0 when it has passed."""
    return max(0.0, moment - clock().now())


def _rates(name: str, unit: str, rates: Any) -> tuple[Rate, ...]:
    found = (rates,) if isinstance(rates, Rate) else tuple(rates) if isinstance(rates, Sequence) else ()
    if not found or not all(isinstance(rate, Rate) for rate in found):
        raise ConfigurationError(
            f"budget {name!r}: {unit}={rates!r} must be a rate or several: 10 / day, [10 / second, 5000 / day]"
        )
    if len({(rate.period, rate.is_calendar) for rate in found}) < len(found):
        raise ConfigurationError(f"budget {name!r}: {unit} has two limits for one period; leave out the larger one")
    return found

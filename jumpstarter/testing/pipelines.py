"""What tests of pipelines need: a clock that budgets, leases and loops share, one batch at a time, an API that enforces its limits.

In a loop with virtual time (:func:`~jumpstarter.testing.virtual_backend`), under ``pipeline_time()``, a day's budget is used up in
milliseconds::

    @pytest.mark.anyio
    async def test_the_day_is_used_to_the_last_row():
        with pipeline_time():
            api = FakeApi.limited(requests=10 / day, rows=1000 / day)
            Test = rehearsal(Geocode, rows=range(3000))
            ...
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import anyio

from jumpstarter.actors import run
from jumpstarter.clock import Clock
from jumpstarter.pipelines import BatchFailed, BatchSettled, Budget, DeadRow, Pipeline, Rate, Report, RequestFailed, shared_clock
from jumpstarter.pipelines.clocks import clock
from jumpstarter.pipelines.sources import Source
from jumpstarter.pipelines.stores import open_store
from jumpstarter.pipelines.stores.port import Store
from jumpstarter.testing.clock import LoopClock

P = TypeVar("P", bound=Pipeline)

Happened = BatchSettled | BatchFailed | RequestFailed


@contextmanager
def pipeline_time(clock: Clock | None = None) -> Iterator[Clock]:
    """Budgets, leases and loops use this clock meanwhile; default: the time of the loop, which a virtual one lets jump."""
    with shared_clock(clock or LoopClock()) as shared:
        yield shared


def rehearsal(pipeline: type[P], rows: Iterable[Any] = (), *, store: str | Store | None = None, **attributes: Any) -> type[P]:
    """The same pipeline with its rows, budgets and outboxes in a store of its own: a test needs no server and leaves nothing.

    :param rows: what waits in its queue.
    :param store: default: a new one in memory.
    :param attributes: of the class, for example an ``api``.
    """
    where = open_store(store or f"memory://{uuid.uuid4().hex}")
    source: Source = pipeline.rows
    own = Source(
        source.queue,
        store=where,
        batch=source.gather,
        lease=source.lease,
        key=source.key,
        attempts=source.attempts,
        remember=source.remember,
    )
    own.put_nowait(rows)
    budgets = {name: _budget_in(where, value) for name, value in _attributes(pipeline) if isinstance(value, Budget)}
    make: Any = type(pipeline)
    found: type[P] = make(pipeline.__name__, (pipeline,), {"__module__": pipeline.__module__, "rows": own, **budgets, **attributes})
    return found


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What came of rows that were run through a pipeline.

    :ivar results: what the last steps returned, one after the other.
    :ivar events: what sides were told. :ivar dead: rows that were given up. :ivar delayed: how many wait for later.
    """

    results: list[Any]
    events: list[Happened]
    dead: list[DeadRow]
    delayed: int
    report: Report


async def run_batch(pipeline: type[Pipeline], rows: Sequence[Any], **attributes: Any) -> Rehearsed:
    """Run these rows through a rehearsal of the pipeline until none of them waits any more, and say what came of them.

    Rows that were put back for later are left there. Raises what crashed the pipeline.
    """
    events: list[Happened] = []
    rehearsed = rehearsal(pipeline, rows, **attributes)
    told = rehearsed.settled

    def settled(self: Pipeline, settlement: Any, happened: list[Happened]) -> None:
        events.extend(happened)
        told(self, settlement, happened)

    setattr(rehearsed, "settled", settled)  # noqa: B010 - to hear what sides hear; mypy forbids the plain assignment
    rehearsed.hears_all = True
    actor = rehearsed(until="empty")
    await run(actor)
    source = actor.source
    results: list[Any] = []
    for event in events:
        if isinstance(event, BatchSettled):
            results += event.results if isinstance(event.results, list) else [event.results]
    counts = await source.counts()
    return Rehearsed(results, events, await source.dead(), counts.delayed, actor.report)


class TooManyRequests(Exception):
    """What :class:`FakeApi` answers when a limit is reached: as an HTTP library tells a 429.

    :ivar status_code: 429. :ivar headers: with ``Retry-After`` in seconds.
    """

    status_code = 429

    def __init__(self, after: float) -> None:
        super().__init__(f"429, again in {after:g} s")
        self.headers = {"Retry-After": f"{after:.3f}"}


@dataclass(slots=True)
class FakeApi:
    """An API of somebody else, that counts for itself and refuses what goes over its limits.

    :ivar latency: seconds that a call takes.
    :ivar calls: (wall time, number of rows) of every call that was served; ``refused``: of those that were not.
    :ivar answer: what a row becomes.
    :ivar failing: told the rows and the number of the call, what to raise; None: nothing.
    """

    limits: dict[str, Sequence[Rate]] = field(default_factory=dict)
    tz: str = "UTC"
    latency: float = 0.0
    answer: Callable[[Any], Any] = lambda row: row
    failing: Callable[[Sequence[Any], int], Exception | None] = lambda _rows, _number: None
    calls: list[tuple[float, int]] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)

    @classmethod
    def limited(cls, *, tz: str = "UTC", latency: float = 0.0, **limits: Rate | Sequence[Rate]) -> FakeApi:
        """With limits as a :class:`Budget` has them: ``FakeApi.limited(requests=10 / day, rows=1000 / day)``."""
        return cls({unit: [rates] if isinstance(rates, Rate) else list(rates) for unit, rates in limits.items()}, tz, latency)

    async def __call__(self, rows: Sequence[Any], **_headers: Any) -> list[Any]:
        """Answer for these rows; whatever else a call says is not looked at.

        :raises TooManyRequests: a limit is reached.
        """
        now = clock().now()
        for unit, amount in (("requests", 1), ("rows", len(rows))):
            for rate in self.limits.get(unit, ()):
                if self._used(unit, rate, now) + amount > rate.limit:
                    self.refused.append(now)
                    raise TooManyRequests(min(rate.period, 60.0))
        self.calls.append((now, len(rows)))
        if self.latency:
            await anyio.sleep(self.latency)
        error = self.failing(rows, len(self.calls))
        if error is not None:
            raise error
        return [self.answer(row) for row in rows]

    @property
    def rows(self) -> int:
        """Rows that were served in all."""
        return sum(count for _, count in self.calls)

    def per_day(self) -> dict[str, tuple[int, int]]:
        """By local date, requests and rows."""
        days: dict[str, tuple[int, int]] = {}
        for at, count in self.calls:
            date = datetime.fromtimestamp(at, ZoneInfo(self.tz)).date().isoformat()
            requests, rows = days.get(date, (0, 0))
            days[date] = (requests + 1, rows + count)
        return days

    def _used(self, unit: str, rate: Rate, now: float) -> int:
        used = 0
        for at, count in reversed(self.calls):
            if not self._counts(at, rate, now):
                break
            used += 1 if unit == "requests" else count
        return used

    def _counts(self, at: float, rate: Rate, now: float) -> bool:
        if not rate.is_calendar:
            return at + rate.period > now
        zone = ZoneInfo(self.tz)
        if rate.period == 86_400.0:
            return datetime.fromtimestamp(at, zone).date() == datetime.fromtimestamp(now, zone).date()
        return at // rate.period == now // rate.period


def _budget_in(store: Store, budget: Budget) -> Budget:
    spec = budget.spec
    return Budget(spec.name, tz=str(spec.zone), smooth=spec.is_smooth, margin=spec.margin, store=store, **spec.limits)


def _attributes(pipeline: type[Pipeline]) -> Iterator[tuple[str, Any]]:
    for base in reversed(pipeline.__mro__):
        yield from vars(base).items()

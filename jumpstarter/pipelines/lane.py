"""A lane: one batch at a time through the loop. Comes from: pipeline. Goes to: sources, budgets, steps; settle is the only way out.

::

    waiting_for_budget → polling → processing → settling → …       idle: nothing waits, or the next run is for later

Nothing is claimed before there is room in the budget, so no lease is held through a long wait. Between the look and the take
another worker may have been quicker: what then has no room goes back unbegun.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio
from anyio.lowlevel import checkpoint

from jumpstarter.actors import Backoff
from jumpstarter.errors import LeaseLost, StoreUnavailable
from jumpstarter.pipelines import metrics
from jumpstarter.pipelines.batches import Batch, set_current
from jumpstarter.pipelines.calls import Calls, NoneLeft, NoRoom, StepFailed
from jumpstarter.pipelines.clocks import clock, hop
from jumpstarter.pipelines.declare import NextRun
from jumpstarter.pipelines.design import Design
from jumpstarter.pipelines.events import SideEvent, happened, text_of
from jumpstarter.pipelines.sources import Source
from jumpstarter.pipelines.stores.port import Back, Claim, Put, Room, Settlement
from jumpstarter.telemetry import tracing

if TYPE_CHECKING:
    from jumpstarter.pipelines.pipeline import Pipeline

logger = logging.getLogger(__name__)

#: Where a lane is, in its region of the chart.
IDLE, WAITING, POLLING, PROCESSING, SETTLING = "idle", "waiting_for_budget", "polling", "processing", "settling"

#: Seconds after which a budget is looked at again at the latest: others may have given something back.
_LOOK_AGAIN = 300.0
#: How long a lane idles between two looks into an empty queue.
_IDLE = Backoff(0.05, 5.0, jitter=0.2)
#: When rows that failed are tried again, if the pipeline does not say.
_RETRY = Backoff(1.0, 300.0, jitter=0.2)
#: Between two tries to settle with a store that does not answer: what was done must not be done again.
_SETTLE = Backoff(0.1, 5.0)


@dataclass(slots=True)
class Outcome:
    """What came of a batch: what the last step returned, or why not."""

    results: Any = None
    error: BaseException | None = None
    back: list[Back] = field(default_factory=list)


class Lane:
    """One of a pipeline's lanes."""

    def __init__(self, pipeline: Pipeline, region: str) -> None:
        self._pipeline = pipeline
        self._design: Design = pipeline.design
        self._region = region
        self._calls = Calls(pipeline)
        self._empty = 0
        self._news = 0
        self._short_since: float | None = None
        self._groups: list[Batch] = []

    async def round(self) -> None:
        """Once through the loop, or as far as there is something to do."""
        if self._pipeline.is_finishing:
            await self._pipeline.nap(math.inf)
            return
        batch = await self._next_batch()
        while batch is not None:
            await self._work_on(batch)
            batch = self._groups.pop(0) if self._groups else None
            if batch is not None and not self._pipeline.may_work():
                # Nobody would renew the lease of the groups that are left.
                self._groups.insert(0, batch)
                await self._release_groups()
                break
        await checkpoint()

    # -- waiting_for_budget, polling --

    async def _next_batch(self) -> Batch | None:
        self._enter(WAITING)
        limit = await self._room()
        if limit is None:
            return None
        run = await self._next_run()
        if run is None:
            return None
        if run.after > 0:
            self._enter(IDLE)
            if await self._nap(run.after, "next_run"):
                return None
            self._enter(WAITING)
            limit = await self._room()
            if limit is None:
                return None
        return await self._poll(run, limit if run.rows is None else min(limit, run.rows))

    async def _poll(self, run: NextRun, limit: int) -> Batch | None:
        self._enter(POLLING)
        self._news = self._pipeline.news
        with tracing.stage(f"poll {self._source.queue}"):
            claim = await self._claim(limit) if limit > 0 else Claim(0, (), next_due=_IDLE.cap)
        if not claim.rows:
            await self._idle(claim)
            return None
        self._empty, self._short_since = 0, None
        self._pipeline.report.taken += len(claim.rows)
        batches = [self._batch(claim.fence, rows, run) for rows in self._source.gather.split(claim.rows)]
        self._groups = batches[1:]
        return batches[0]

    async def _next_run(self) -> NextRun | None:
        """What the pipeline says about this round, while there is room in its budget; None: it ends."""
        name = self._design.next_run
        if name is None:
            return NextRun()
        room = await self._design.budgets[0].peek() if self._design.budgets else Room(clock().now(), 0.0)
        answer = await getattr(self._pipeline, name)(*([room] if self._design.arguments[name] else []))
        if answer is None:
            self._pipeline.finish()
            return None
        return answer if isinstance(answer, NextRun) else NextRun(rows=int(answer))

    async def _room(self) -> int | None:
        """Wait for room in all budgets. How many rows may be claimed; None when the lane has to leave."""
        while True:
            wait, limit = 0.0, self._source.gather.size
            for step in self._design.steps:
                if step.budget is None:
                    continue
                least = {unit: amount for unit, amount in step.spec.cost.items() if isinstance(amount, int)}
                room = await step.budget.peek(**least)
                if tracing.enabled:
                    metrics.seen(step.budget.name, room)
                wait = max(wait, room.wait)
                rows = room.left("rows") if callable(step.spec.cost.get("rows")) else None
                limit = limit if rows is None else min(limit, rows)
            if wait <= 0:
                return limit
            if await self._has_ended() or await self._nap(min(wait, _LOOK_AGAIN), "budget"):
                return None

    async def _has_ended(self) -> bool:
        """Whether there is nothing left to wait for room for."""
        if not self._pipeline.is_draining:
            return False
        counts = await self._source.counts()
        if counts.waiting or (self._source.is_fed and await self._source.feed(1)):
            return False
        if not self._pipeline.is_over(Claim(0, (), 0, 0.0 if counts.open else None)):
            return False
        self._pipeline.finish()
        return True

    async def _claim(self, limit: int) -> Claim:
        """Rows for a batch: a full one, unless the time is over in which to wait for that, or there are no more."""
        source: Source = self._source
        within = source.gather.within
        full = limit if source.is_fed or within > 0 else 1
        claim: Claim = await source.claim(limit, full)
        if not claim.rows and source.is_fed and await source.feed(limit - claim.waiting):
            claim = await source.claim(limit, full)
        if claim.rows or not claim.waiting or full == 1:
            return claim
        now = clock().now()
        self._short_since = now if self._short_since is None else self._short_since
        if now - self._short_since < within and not self._pipeline.is_draining:
            return claim
        return await source.claim(limit, 1)

    def _batch(self, fence: int, rows: Sequence[Any], run: NextRun) -> Batch:
        now = clock().now()
        return Batch(self._source.queue, fence, rows, run_id=self._pipeline.run_id, params=run.params or {}, now=now)

    async def _idle(self, claim: Claim) -> None:
        self._enter(IDLE)
        if self._pipeline.is_over(claim):
            self._pipeline.finish()
            return
        if self._news != self._pipeline.news:
            return  # something came while it was looking
        self._empty += 1
        delay = _IDLE.delay(self._empty)
        if claim.waiting and self._short_since is not None:
            delay = min(delay, max(0.0, self._short_since + self._source.gather.within - clock().now()))
        elif claim.next_due is not None:
            delay = min(delay, claim.next_due + 0.001)
        await self._nap(delay, "rows")

    async def _nap(self, seconds: float, what: str) -> bool:
        """Sleep, unless somebody rings. True when the lane has to leave."""
        began = anyio.current_time()
        await self._pipeline.nap(seconds)
        self._pipeline.report.waited[what] += anyio.current_time() - began
        return not self._pipeline.may_work()

    # -- processing --

    async def _work_on(self, batch: Batch) -> None:
        self._enter(PROCESSING)
        set_current(batch)
        pipeline = self._pipeline
        every = batch.unbegun(0.0)  # it may be shortened
        pipeline.in_flight += len(every)
        try:
            outcome = await self._held(batch)
            if outcome is not None:
                self._enter(SETTLING)
                with tracing.stage(f"settle {self._source.queue}"):
                    await self._settle(batch, outcome)
        except anyio.get_cancelled_exc_class():
            with anyio.move_on_after(pipeline.release_timeout, shield=True):
                await self._release_groups()
                await self._source.release(batch.fence, every)
            raise
        finally:
            pipeline.in_flight -= len(every)
            pipeline.end_if_finished()

    async def _release_groups(self) -> None:
        groups, self._groups = self._groups, []
        for group in reversed(groups):  # each goes to the front of the queue
            await self._source.release(group.fence, group.unbegun(0.0))

    async def _held(self, batch: Batch) -> Outcome | None:
        """Go through the steps while the lease is renewed. None when it was lost."""
        outcome: Outcome | None = None
        async with anyio.create_task_group() as group:
            group.start_soon(self._heartbeat, batch, group.cancel_scope)
            with tracing.stage(f"process {self._source.queue}", attributes={"messaging.batch.message_count": len(batch)}):
                outcome = await self._process(batch)
            group.cancel_scope.cancel()
        if outcome is None:
            self._lost(batch)
        return outcome

    async def _heartbeat(self, batch: Batch, scope: anyio.CancelScope) -> None:
        while True:
            await anyio.sleep(self._source.lease / 2)
            try:
                is_held = await self._source.renew(batch.fence)
            except StoreUnavailable as error:
                logger.warning("%s: the lease of batch %s could not be renewed: %s", self._pipeline.name, batch.id, error)
                continue
            if not is_held:
                scope.cancel()

    async def _process(self, batch: Batch) -> Outcome:
        value: Any = batch.values
        back: list[Back] = []
        try:
            for number, step in enumerate(self._design.steps):
                value, unbegun = await self._calls.call(step, value, batch, is_first=number == 0)
                back += unbegun
            for sink in self._design.sinks:
                await self._calls.call(sink, value, batch, is_first=False)
        except NoneLeft:
            return Outcome()
        except NoRoom as no_room:
            return Outcome(back=[*back, *batch.unbegun(no_room.wait)])
        except StepFailed as failed:
            return Outcome(error=failed.__cause__, back=back)
        except StoreUnavailable:
            raise  # the rows come again when it is back and their lease has run out
        except Exception as error:  # noqa: BLE001 - a cost that cannot be computed fails its rows, not the lane
            return Outcome(error=error, back=back)
        return Outcome(results=value, back=back)

    # -- settling --

    async def _settle(self, batch: Batch, outcome: Outcome) -> None:
        failed = batch.values if outcome.error is not None else batch.failed_rows()
        if failed:
            await self._decide_about(batch, failed, outcome.error)
        is_unbegun = len(outcome.back) > 0 and {one.key for one in outcome.back} >= set(batch.keys)
        has_run = not is_unbegun and outcome.error is None
        done = batch.undecided() if has_run else []
        events = [] if is_unbegun and not failed else self._events(batch, outcome, done, failed)
        results = outcome.results if done else None
        settlement = Settlement(
            queue=self._source.queue,
            fence=batch.fence,
            keys=[*batch.every_key, *(one.key for one in outcome.back if one.key not in batch.keys)] if self._is_split else None,
            back=[*outcome.back, *batch.back],
            dead=batch.dead,
            max_attempts=self._source.attempts,
            remember=self._source.remember,
            puts=[*self._pipeline.links.puts(batch, results), *self._outboxes(events)],
            parts=self._pipeline.links.parts(results),
            pipeline=self._pipeline.kind,
            counts={
                "done": len(done),
                "failed": len(failed),
                "put_back": len(outcome.back) + len(batch.back),
                "dead": len(batch.dead),
                "batches": 0 if is_unbegun else 1,
                "requests": self._calls.tries,
            },
        )
        await self._pipeline.links.hand_over(batch, results)
        if not await self._send(settlement):
            self._lost(batch)
            return
        self._note(settlement.counts)
        if tracing.enabled:
            metrics.settled(self._pipeline.kind, settlement.counts)
        self._pipeline.settled(settlement, events)

    @property
    def _is_split(self) -> bool:
        """Whether a claim makes several batches."""
        return self._source.gather.by is not None

    async def _decide_about(self, batch: Batch, failed: list[Any], error: BaseException | None) -> None:
        reason = text_of(error) if error is not None else next(iter(batch.failed.values()))
        self._pipeline.report.reasons[reason] += len(failed)
        name = self._design.on_failed
        keys = batch.keys if error is not None else list(batch.failed)
        if name is not None:
            try:
                arguments = [failed, error][: self._design.arguments[name]]
                await getattr(self._pipeline, name)(*arguments)
            except Exception:
                logger.exception("%s: on_failed failed; the rows are tried again", self._pipeline.name)
            else:
                batch.give_up([key for key in keys if not batch.is_decided(key)], reason=reason)
        rest = [key for key in keys if not batch.is_decided(key)]
        batch.put_back(rest, after=_RETRY.delay(batch.attempt), reason=reason)

    async def _send(self, settlement: Settlement) -> bool:
        """Tell the store; again, while it does not answer and the lease lasts."""
        deadline = anyio.current_time() + self._source.lease
        failures = 0
        while True:
            try:
                store = self._source.store
                return await hop(store.settle, settlement, is_quick=store.is_quick)
            except StoreUnavailable:
                failures += 1
                delay = _SETTLE.delay(failures)
                if anyio.current_time() + delay >= deadline:
                    raise
            await anyio.sleep(delay)

    def _note(self, counts: Mapping[str, float]) -> None:
        report = self._pipeline.report
        report.done += int(counts["done"])
        report.failed += int(counts["failed"])
        report.put_back += int(counts["put_back"])
        report.dead += int(counts["dead"])
        report.batches += int(counts["batches"])
        report.requests += int(counts["requests"])
        self._calls.tries = 0

    def _lost(self, batch: Batch) -> None:
        self._pipeline.report.lost += len(batch)
        logger.warning("%s: %s", self._pipeline.name, LeaseLost(self._source.queue, batch.fence))

    def _events(self, batch: Batch, outcome: Outcome, done: Sequence[str], failed: Sequence[Any]) -> list[SideEvent]:
        if not self._design.sides and not self._pipeline.hears_all:
            return []
        error = text_of(outcome.error) if outcome.error is not None else "; ".join(dict.fromkeys(batch.failed.values()))
        return happened(self._pipeline.kind, batch, clock().now(), results=outcome.results, done=done, failed=failed, error=error)

    def _outboxes(self, events: Sequence[SideEvent]) -> list[Put]:
        return [put for event in events for put in self._pipeline.outboxes(event)]

    # -- the chart --

    def _enter(self, state: str) -> None:
        self._pipeline.enter(self._region, state)

    @property
    def _source(self) -> Source:
        return self._pipeline.source

"""One call of a step: take from the budget, call, try again, stay away when told so. Comes from: lane. Goes to: users' methods."""

from __future__ import annotations

from collections.abc import Sized
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from jumpstarter.actors.activities import unwrapped
from jumpstarter.pipelines.batches import Batch
from jumpstarter.pipelines.clocks import clock, is_injected
from jumpstarter.pipelines.declare import Cost
from jumpstarter.pipelines.design import StepPlan
from jumpstarter.pipelines.stores.port import Back
from jumpstarter.pipelines.throttling import stay_away

if TYPE_CHECKING:
    from jumpstarter.pipelines.pipeline import Pipeline

#: Seconds for which a batch is kept while it waits for room; for longer it goes back. And the share of a lease that is the most.
_PATIENCE, _SHARE = 30.0, 0.25
#: Seconds before rows that were too much for what was left are looked at again, at least.
_AGAIN = 0.1


class NoRoom(Exception):
    """There is no room in a budget for so many seconds: too long to hold rows meanwhile."""

    def __init__(self, wait: float) -> None:
        super().__init__(wait)
        self.wait = wait


class NoneLeft(Exception):
    """Each row of the batch costs more than its budget ever grants."""


class StepFailed(Exception):
    """A step has no tries left; the last error is the ``__cause__``."""


class Calls:
    """The calls of one lane.

    :ivar tries: calls since the last settlement.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self.tries = 0

    async def call(self, step: StepPlan, value: Any, batch: Batch, *, is_first: bool) -> tuple[Any, list[Back]]:
        """What the step returns, and the rows that there was no room for.

        :raises NoneLeft: no row can ever be called with.
        :raises NoRoom: there is room for none of them.
        :raises StepFailed: no tries are left.
        """
        back: list[Back] = []
        number = 0
        if is_first and step.budget is not None:
            value = _affordable(step, batch)
        async with self._pipeline.limiter(step):
            while True:
                if step.budget is not None:
                    count = await self._take(step, value, may_be_less=is_first and not number)
                    if is_first and count is not None and count < len(batch):
                        back = batch.shorten(count)
                        value = batch.values
                number += 1
                self.tries += step.spec.kind == "step"
                try:
                    return await self._try(step, value), back
                except Exception as error:  # noqa: BLE001 - whatever the user's method raises is what is decided about
                    number -= await self._after(step, error, batch, number)

    async def _try(self, step: StepPlan, value: Any) -> Any:
        method = getattr(self._pipeline, step.name)
        with anyio.fail_after(step.spec.timeout):
            if not step.is_sync:
                return await method(value)
            if is_injected():
                return method(value)
            return await anyio.to_thread.run_sync(method, value, abandon_on_cancel=True)

    async def _after(self, step: StepPlan, raised: Exception, batch: Batch, number: int) -> int:
        """Wait before the next try. How many tries this one does not count as.

        :raises StepFailed: there is no next one.
        """
        error = unwrapped(raised)
        batch.requests.append((step.name, f"{type(error).__name__}: {error}", number))
        away = stay_away(error, clock().now())
        if away is not None:
            if step.budget is not None:
                await step.budget.block_for(away)
            await self._wait(away)
            return 1
        if step.spec.retry.is_exhausted(number):
            raise StepFailed(step.name) from error
        await anyio.sleep(step.spec.retry.delay(number))
        return 0

    async def _take(self, step: StepPlan, value: Any, *, may_be_less: bool) -> int | None:
        """Take what the call costs. For how many rows it is enough, where that may be fewer than all."""
        budget, spec = step.budget, step.spec
        assert budget is not None
        cost = _cost_of(spec.cost, value)
        least = dict(cost)
        if may_be_less:
            least |= {unit: 1 for unit, amount in spec.cost.items() if callable(amount)}
        while not (grant := await budget.take(least, **cost)) and any(cost.values()):
            await self._wait(grant.wait)
        used = dict(cost)
        count: int | None = None
        if may_be_less and isinstance(value, Sized):
            count = _fitting(spec.cost, value, grant)
            if count == 0:
                await budget.refund(grant)
                first = _cost_of(spec.cost, value[:1])  # type: ignore[index] # as below
                raise NoRoom(max((await budget.peek(**first)).wait, _AGAIN))
            used = _cost_of(spec.cost, value[:count])  # type: ignore[index] # rows are a list
            over = {unit: amount - used[unit] for unit, amount in grant.amounts.items() if amount > used[unit]}
            if over:
                await budget.refund(grant, **over)
        self._pipeline.report.granted.update(used)
        return count

    async def _wait(self, seconds: float) -> None:
        """Wait with rows in hand, if that is not for long.

        :raises NoRoom: it is.
        """
        if seconds > min(_PATIENCE, self._pipeline.source.lease * _SHARE) or not self._pipeline.may_work():
            raise NoRoom(seconds)
        await anyio.sleep(seconds)


def _cost_of(cost: Cost, value: Any) -> dict[str, int]:
    """Of one call with that, by unit."""
    return {unit: amount(value) if callable(amount) else amount for unit, amount in cost.items()}


def _affordable(step: StepPlan, batch: Batch) -> list[Any]:
    """The rows of the batch without those that alone cost more than the budget ever grants, which the batch refuses.

    :raises NoneLeft: there are no others.
    """
    budget, cost = step.budget, step.spec.cost
    assert budget is not None
    if budget.never_grants(_cost_of(cost, batch.values)) is not None:  # all at once: then perhaps one of them alone
        reasons = {place: budget.never_grants(_cost_of(cost, [row])) for place, row in enumerate(batch.values)}
        batch.refuse({place: reason for place, reason in reasons.items() if reason is not None})
        if not batch.values:
            raise NoneLeft(step.name)
    return batch.values


def _fitting(cost: Any, rows: Any, grant: Any) -> int:
    """The largest number of rows, from the first, that costs no more than what was granted. Costs grow with the rows."""
    by_rows = {unit: amount for unit, amount in cost.items() if callable(amount)}

    def fits(count: int) -> bool:
        return all(amount(rows[:count]) <= grant[unit] for unit, amount in by_rows.items())

    if fits(len(rows)):
        return len(rows)
    least, most = 0, len(rows)
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if fits(middle) else (least, middle)
    return least

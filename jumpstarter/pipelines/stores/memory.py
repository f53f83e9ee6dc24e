"""A store in this process: what is in it is gone with the process. For tests, and for what is made anew at every start."""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from jumpstarter.pipelines.clocks import clock
from jumpstarter.pipelines.stores.budgets import LocalBudgets
from jumpstarter.pipelines.stores.port import (
    Arrived,
    Back,
    BudgetSpec,
    Claim,
    Counts,
    DeadRow,
    JoinSpec,
    Part,
    Put,
    Row,
    Settlement,
    joined_row,
    late_row,
)
from jumpstarter.pipelines.windows import State

T = TypeVar("T")


class _Queue:
    """One queue: all rows by key, and the keys by what they do."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.tries: dict[str, int] = {}
        self.waiting: OrderedDict[str, None] = OrderedDict()
        self.delayed: dict[str, float] = {}
        self.claims: dict[int, tuple[float, dict[str, None]]] = {}
        self.dead: dict[str, tuple[str, float]] = {}
        self.seen: dict[str, float] = {}
        self.cursor: str | None = None
        self.parts: dict[str, dict[str, Any]] = {}
        self.deadlines: dict[str, float] = {}
        self.fired: dict[str, float] = {}

    def put(self, rows: Sequence[tuple[str, Any]], now: float, after: float) -> int:
        """How many were new."""
        before, values, seen = len(self.values), self.values, self.seen
        for key, value in rows:
            if key in values or (seen and seen.get(key, 0.0) > now):
                continue
            values[key] = value
            if after > 0:
                self.delayed[key] = now + after
            else:
                self.waiting[key] = None
        return len(self.values) - before

    def take_back(self, now: float, max_attempts: int) -> None:
        """What leases and delays have let go of."""
        for fence, (until, keys) in list(self.claims.items()):
            if until <= now:
                del self.claims[fence]
                for key in reversed(keys):
                    self.back(Back(key, reason="its lease ran out"), now, max_attempts, first=True)
        for key in [key for key, due in self.delayed.items() if due <= now]:
            del self.delayed[key]
            self.waiting[key] = None
        _expire(self.seen, now)

    def back(self, back: Back, now: float, max_attempts: int, *, first: bool = False) -> None:
        """One row goes back, or is dead."""
        if back.is_counted:
            self.tries[back.key] = tries = self.tries.get(back.key, 0) + 1
            if tries >= max_attempts:
                self.dead[back.key] = (back.reason or f"tried {tries} times", now)
                return
        if back.after > 0:
            self.delayed[back.key] = now + back.after
        else:
            self.waiting[back.key] = None
            if first or not back.is_counted:
                self.waiting.move_to_end(back.key, last=False)

    def finish(self, keys: Sequence[str], now: float, remember: float) -> None:
        """Rows are done."""
        for key in keys:
            del self.values[key]
        if self.tries:
            for key in keys:
                self.tries.pop(key, None)
        if remember > 0:
            self.seen.update(dict.fromkeys(keys, now + remember))


def _expire(moments: dict[str, float], now: float) -> None:
    """Forget what is over: from the front, where the oldest are."""
    while moments:
        key = next(iter(moments))
        if moments[key] > now:
            return
        del moments[key]


def _drop(queue: _Queue, fence: int, keys: Sequence[str]) -> None:
    """These rows are claimed no more."""
    held = queue.claims[fence][1]
    for key in keys:
        held.pop(key, None)
    if not held:
        del queue.claims[fence]


class MemoryStore(LocalBudgets):
    """See the module's text.

    :param name: part of its address only.
    """

    is_quick = True

    def __init__(self, name: str = "") -> None:
        self.url = f"memory://{name}"
        self._lock = threading.Lock()
        self._budgets: dict[str, State] = {}
        self._queues: defaultdict[str, _Queue] = defaultdict(_Queue)
        self._progress: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
        self._fences = itertools.count(1)

    # -- budgets --

    def on_state(self, budget: BudgetSpec, work: Callable[[State], T]) -> T:
        with self._lock:
            return work(self._budgets.setdefault(budget.name, {}))

    # -- rows --

    def put(self, put: Put) -> int:
        with self._lock:
            return self._queues[put.queue].put(put.rows, clock().now(), put.after)

    def feed(self, put: Put, before: str | None, after: str) -> bool:
        with self._lock:
            queue = self._queues[put.queue]
            if queue.cursor != before:
                return False
            queue.put(put.rows, clock().now(), put.after)
            queue.cursor = after
            return True

    def cursor(self, queue: str) -> str | None:
        return self._queues[queue].cursor

    def claim(self, queue: str, limit: int, lease: float, max_attempts: int, least: int = 1) -> Claim:
        now = clock().now()
        with self._lock:
            found = self._queues[queue]
            found.take_back(now, max_attempts)
            if len(found.waiting) < max(1, least):
                due = min((*found.delayed.values(), *(until for until, _ in found.claims.values())), default=None)
                return Claim(0, (), len(found.waiting), None if due is None else max(0.0, due - now))
            keys = list(itertools.islice(found.waiting, limit))
            for key in keys:
                del found.waiting[key]
            fence = next(self._fences)
            found.claims[fence] = (now + lease, dict.fromkeys(keys))
            values, tries = found.values, found.tries
            if not tries:
                return Claim(fence, tuple([Row(key, values[key]) for key in keys]))
            return Claim(fence, tuple([Row(key, values[key], tries.get(key, 0) + 1) for key in keys]))

    def renew(self, queue: str, fence: int, lease: float) -> bool:
        with self._lock:
            claims = self._queues[queue].claims
            if fence not in claims:
                return False
            claims[fence] = (clock().now() + lease, claims[fence][1])
            return True

    def settle(self, settlement: Settlement) -> bool:
        now = clock().now()
        with self._lock:
            queue = self._queues[settlement.queue]
            claim = queue.claims.get(settlement.fence)
            if claim is None:
                return False
            keys = list(claim[1]) if settlement.keys is None else [key for key in settlement.keys if key in claim[1]]
            self._settle_rows(queue, settlement, keys, now)
            if settlement.keys is None:
                del queue.claims[settlement.fence]
            else:
                _drop(queue, settlement.fence, keys)
            for put in settlement.puts:
                self._queues[put.queue].put(put.rows, now, put.after)
            for part in settlement.parts:
                self._arrive(part, now)
            self._add(settlement.pipeline, settlement.counts)
            return True

    @staticmethod
    def _settle_rows(queue: _Queue, settlement: Settlement, keys: Sequence[str], now: float) -> None:
        if not settlement.back and not settlement.dead:
            queue.finish(keys, now, settlement.remember)
            return
        back = {one.key: one for one in settlement.back}
        dead = dict(settlement.dead)
        # Those that were not begun go to the front, the first of them first.
        for key in reversed(keys):
            if key in back and not back[key].is_counted:
                queue.back(back[key], now, settlement.max_attempts)
        for key in keys:
            if key in back:
                if back[key].is_counted:
                    queue.back(back[key], now, settlement.max_attempts)
            elif key in dead:
                queue.tries[key] = queue.tries.get(key, 0) + 1
                queue.dead[key] = (dead[key], now)
            else:
                queue.finish([key], now, settlement.remember)

    def counts(self, queue: str) -> Counts:
        with self._lock:
            found = self._queues[queue]
            leased = sum(len(keys) for _, keys in found.claims.values())
            return Counts(len(found.waiting), len(found.delayed), leased, len(found.dead))

    def dead(self, queue: str, limit: int) -> list[DeadRow]:
        with self._lock:
            found = self._queues[queue]
            dead = itertools.islice(found.dead.items(), limit)
            return [DeadRow(key, found.values[key], reason, found.tries.get(key, 0), at) for key, (reason, at) in dead]

    def revive(self, queue: str, keys: Sequence[str] | None) -> int:
        with self._lock:
            found = self._queues[queue]
            wanted = [key for key in (found.dead if keys is None else keys) if key in found.dead]
            for key in wanted:
                del found.dead[key]
                found.tries.pop(key, None)
                found.waiting[key] = None
            return len(wanted)

    # -- joins --

    def arrive(self, part: Part) -> Arrived:
        with self._lock:
            return self._arrive(part, clock().now())

    def _arrive(self, part: Part, now: float) -> Arrived:
        join, queue = part.join, self._queues[part.join.queue]
        if queue.fired.get(part.key, 0.0) > now:
            if join.late:
                self._queues[join.late].put([late_row(part)], now, 0)
            return "late"
        parts = queue.parts.setdefault(part.key, {})
        if part.name in parts:
            return "again"
        parts[part.name] = part.value
        if len(parts) < join.expect:
            if join.timeout is not None:
                queue.deadlines.setdefault(part.key, now + join.timeout)
            return "waiting"
        self._fire(join, part.key, now, is_complete=True)
        return "fired"

    def _fire(self, join: JoinSpec, key: str, now: float, *, is_complete: bool) -> None:
        queue = self._queues[join.queue]
        _expire(queue.fired, now)
        queue.fired[key] = now + join.remember
        queue.deadlines.pop(key, None)
        row = joined_row(key, queue.parts.pop(key), is_complete=is_complete)
        self._queues[join.queue if is_complete else join.timed_out].put([row], now, 0)

    def expire(self, join: JoinSpec) -> int:
        now = clock().now()
        with self._lock:
            late = [key for key, deadline in self._queues[join.queue].deadlines.items() if deadline <= now]
            for key in late:
                self._fire(join, key, now, is_complete=False)
            return len(late)

    # -- counts --

    def add(self, pipeline: str, counts: Mapping[str, float]) -> None:
        with self._lock:
            self._add(pipeline, counts)

    def _add(self, pipeline: str, counts: Mapping[str, float]) -> None:
        for name, count in counts.items():
            if count:
                self._progress[pipeline][name] += count

    def progress(self, pipeline: str) -> dict[str, float]:
        with self._lock:
            return dict(self._progress[pipeline])

    def close(self) -> None:
        """There is nothing to close."""

    def forget(self, queue: str) -> None:
        with self._lock:
            self._queues.pop(queue, None)

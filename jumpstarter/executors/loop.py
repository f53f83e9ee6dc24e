"""Slots on the event loop, for coroutine jobs."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from anyio.abc import TaskGroup

from jumpstarter.abc.executor import AsyncRun, Executor, OnOutcome, OnSlot
from jumpstarter.jobs import Job


class LoopExecutor(Executor):
    """At most ``slots`` coroutine jobs at a time, as tasks of the given group. To be used on its loop only.

    A run of jobs on one slot is one task that goes on to the next job of the backlog, so a task is started per run, not per job.
    """

    def __init__(self, slots: int, run: AsyncRun, on_outcome: OnOutcome, on_slot: OnSlot, group: TaskGroup) -> None:
        self.slots = slots
        self._run = run
        self._on_outcome = on_outcome
        self._on_slot = on_slot
        self._group = group
        self._backlog: deque[Job] = deque()
        self._free = list(range(slots - 1, -1, -1))

    def submit(self, jobs: Sequence[Job]) -> None:
        self._backlog.extend(jobs)
        for _ in range(min(len(self._free), len(self._backlog))):
            slot = self._free.pop()
            self._group.start_soon(self._serve, slot, self._backlog.popleft(), name=f"loop slot {slot}")

    @property
    def backlog(self) -> int:
        return len(self._backlog)

    @property
    def busy(self) -> int:
        return self.slots - len(self._free)

    def withdraw(self) -> list[Job]:
        withdrawn = list(self._backlog)
        self._backlog.clear()
        return withdrawn

    async def _serve(self, slot: int, job: Job) -> None:
        self._on_slot(slot, job)
        try:
            self._on_outcome(await self._run(job, slot))
            while self._backlog:
                self._on_outcome(await self._run(self._backlog.popleft(), slot))
        finally:
            self._free.append(slot)
            self._on_slot(slot, None)

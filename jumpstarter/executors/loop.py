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

    takes_from_threads = False

    def __init__(self, slots: int, run: AsyncRun, on_outcome: OnOutcome, on_slot: OnSlot, group: TaskGroup) -> None:
        self.slots = slots
        self._run = run
        self._on_outcome = on_outcome
        self._on_slot = on_slot
        self._group = group
        self._backlog: deque[Job] = deque()
        self._free = list(range(slots - 1, -1, -1))
        #: How often each slot was given to another task; a task that finds a newer number than its own has lost the slot.
        self._turns = [0] * slots
        self._stuck = 0

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

    @property
    def stuck(self) -> int:
        return self._stuck

    def withdraw(self) -> list[Job]:
        withdrawn = list(self._backlog)
        self._backlog.clear()
        return withdrawn

    def replace(self, slot: int) -> bool:
        self._turns[slot] += 1
        self._stuck += 1
        self._release(slot)
        self.submit(())
        return True

    async def _serve(self, slot: int, first: Job) -> None:
        turn = self._turns[slot]
        self._on_slot(slot, first)
        try:
            await self._serve_run(slot, turn, first)
        finally:
            if self._turns[slot] == turn:
                self._release(slot)
            else:
                self._stuck -= 1

    async def _serve_run(self, slot: int, turn: int, first: Job) -> None:
        job: Job | None = first
        while job is not None:
            outcome = await self._run(job, slot)
            if self._turns[slot] != turn:
                return
            if outcome is not None:
                self._on_outcome(outcome)
            if len(self._backlog) <= self._low_water:
                self._on_low()
            job = self._backlog.popleft() if self._backlog else None

    def _release(self, slot: int) -> None:
        self._free.append(slot)
        self._on_slot(slot, None)

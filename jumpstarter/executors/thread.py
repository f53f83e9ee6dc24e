"""Slots that are threads: N of a pool's own, or the one thread that lends itself.

A slot takes jobs from one queue that all slots of an executor share. It says that it turned busy once, runs whatever is there, and
says that it turned idle once: so with tiny jobs the worker's chart steps per batch, not per job.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from jumpstarter.abc.executor import Executor, OnOutcome, OnSlot, Run
from jumpstarter.jobs import Job

_STOP: Final = None


class _SlotExecutor(Executor):
    """What both kinds share: the queue, and a slot's way of serving it."""

    def __init__(self, slots: int, run: Run, on_outcome: OnOutcome, on_slot: OnSlot) -> None:
        self.slots = slots
        self._run = run
        self._on_outcome = self._on_last = on_outcome
        self._on_slot = on_slot
        # SimpleQueue is written in C and re-entrant: a signal handler that interrupts `get` cannot deadlock it.
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._is_busy = [False] * slots
        #: How often each slot was given to another thread; a thread that finds a newer number than its own has lost the slot.
        self._turns = [0] * slots

    def call_with_last(self, call: OnOutcome) -> None:
        self._on_last = call

    def submit(self, jobs: Sequence[Job]) -> None:
        put = self._jobs.put
        for job in jobs:
            put(job)

    @property
    def backlog(self) -> int:
        return self._jobs.qsize()

    @property
    def busy(self) -> int:
        return sum(self._is_busy)

    def withdraw(self) -> list[Job]:
        withdrawn: list[Job] = []
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return withdrawn
            if job is _STOP:  # somebody stops the slots at the same time: the sign must stay
                self._jobs.put(_STOP)
                return withdrawn
            withdrawn.append(job)

    def _serve(self, slot: int) -> None:
        """Run jobs until a stop sign is taken, or the slot is given to another thread."""
        turn = self._turns[slot]
        while (job := self._jobs.get()) is not _STOP:
            self._is_busy[slot] = True
            self._on_slot(slot, job)
            try:
                stop = self._serve_run(slot, turn, job)
            finally:
                if self._turns[slot] == turn:
                    self._release(slot)
            if stop:
                return

    def _serve_run(self, slot: int, turn: int, first: Job) -> bool:
        """Run jobs for as long as there are any; True when a stop sign or the loss of the slot ended it."""
        run, done, take, waiting = self._run, self._on_outcome, self._jobs.get_nowait, self._jobs.qsize
        turns = self._turns
        job: Job | None = first
        while job is not _STOP:
            outcome = run(job, slot)
            if outcome is not None:
                if waiting():
                    done(outcome)
                else:
                    self._on_last(outcome)
            if turns[slot] != turn:
                return True
            if waiting() <= self._low_water:
                self._on_low()
            try:
                job = take()
            except queue.Empty:
                return False
        return True

    def _release(self, slot: int) -> None:
        self._is_busy[slot] = False
        self._on_slot(slot, None)


class ThreadExecutor(_SlotExecutor):
    """N threads, one slot each."""

    def __init__(self, slots: int, run: Run, on_outcome: OnOutcome, on_slot: OnSlot) -> None:
        super().__init__(slots, run, on_outcome, on_slot)
        self._threads = [self._start(slot) for slot in range(slots)]
        self._lost: list[threading.Thread] = []

    def _start(self, slot: int) -> threading.Thread:
        # Daemons: a job that never returns must not keep a cold-stopped process alive. `close` joins them otherwise.
        thread = threading.Thread(target=self._serve, args=(slot,), name=f"slot-{slot}", daemon=True)
        thread.start()
        return thread

    @property
    def stuck(self) -> int:
        self._lost = [thread for thread in self._lost if thread.is_alive()]
        return len(self._lost)

    def replace(self, slot: int) -> bool:
        self._turns[slot] += 1
        self._lost.append(self._threads[slot])
        self._release(slot)
        self._threads[slot] = self._start(slot)
        return True

    def close(self) -> None:
        """End the threads once they have run what is in the backlog, and wait for them; not for those that are stuck."""
        for _ in self._threads:
            self._jobs.put(_STOP)
        for thread in self._threads:
            thread.join()


class CallingThreadExecutor(_SlotExecutor):
    """One slot, in the thread that calls :meth:`serve`: a child's main thread, where signals arrive."""

    def __init__(self, run: Run, on_outcome: OnOutcome, on_slot: OnSlot) -> None:
        super().__init__(1, run, on_outcome, on_slot)

    def serve(self) -> None:
        """Run jobs until :meth:`close`. Only what a job means to end the process with (``SystemExit``) gets out of here."""
        self._serve(0)

    @property
    def stuck(self) -> int:
        return self._turns[0]

    def replace(self, slot: int) -> bool:
        self._turns[slot] += 1
        self._is_busy[slot] = False
        return False

    def close(self) -> None:
        """Make :meth:`serve` return once the backlog is done. From any thread."""
        self._jobs.put(_STOP)


@contextmanager
def _outside_the_loop() -> Iterator[None]:
    """Let asyncio believe that no loop runs in this thread: a plain function's job may call ``asyncio.run``, and Django refuses to
    touch a database where one does (SynchronousOnlyOperation)."""
    loop = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    try:
        yield
    finally:
        asyncio._set_running_loop(loop)


class InlineExecutor(Executor):
    """One slot that runs a job inside ``submit``, in the caller's thread: ``solo``. Nothing else happens there meanwhile."""

    takes_from_threads = False

    def __init__(self, run: Run, on_outcome: OnOutcome, on_slot: OnSlot) -> None:
        self.slots = 1
        self._run = run
        self._on_outcome = on_outcome
        self._on_slot = on_slot

    def submit(self, jobs: Sequence[Job]) -> None:
        if not jobs:
            return
        self._on_slot(0, jobs[0])
        try:
            for job in jobs:
                with _outside_the_loop():
                    outcome = self._run(job, 0)
                if outcome is not None:
                    self._on_outcome(outcome)
                if self._low_water >= 0:
                    self._on_low()
        finally:
            self._on_slot(0, None)

    @property
    def backlog(self) -> int:
        return 0

    @property
    def busy(self) -> int:
        return 0

    def withdraw(self) -> list[Job]:
        return []

    @property
    def stuck(self) -> int:
        return 0

    def replace(self, slot: int) -> bool:  # noqa: ARG002 - the port's
        return True  # the job has the loop's own thread: nothing goes on until it ends

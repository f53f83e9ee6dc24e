"""Execute: give jobs to slots, and know how many more could be taken. Comes from: admit. Goes to: settle.

A worker claims what its free slots can start, plus a look-ahead sized from what the last jobs took: hundreds when jobs take
microseconds (so that they travel in batches), none when they take longer than a blink (so that nobody hoards). What was claimed
ahead and then waits behind a job that turns out long is handed back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from jumpstarter.abc.application import Application
from jumpstarter.abc.executor import Executor
from jumpstarter.clock import SYSTEM_CLOCK, Clock
from jumpstarter.jobs import Job, Outcome, Quarantine
from jumpstarter.telemetry import tracing
from jumpstarter.worker.marks import Ring
from jumpstarter.worker.options import WorkerOptions
from jumpstarter.worker.settle import Settler

logger = logging.getLogger(__name__)

_UNSETTLED = 1024
_WEIGHT = 0.1  # of the newest job in the moving average of run times


class Runner:
    """Runs one job, whatever it does: the functions that executors call in their slots."""

    def __init__(
        self, application: Application, url: str, marks: Ring | None, *, may_exit: bool = False, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        """:param url: the broker's, for spans.
        :param marks: where starts are marked for the parent; None where no parent outlives this process.
        :param may_exit: a job that raises SystemExit ends this process; else it only counts as lost.
        """
        self._application = application
        self._url = url
        self._mark: Callable[[str, str, int, int], None] = marks.mark if marks is not None else _no_mark
        self._may_exit = may_exit
        self._now = clock.now
        #: Moving average of run times, seconds; None before the first job.
        self.average: float | None = None
        #: What the slots for plain functions run now, by slot.
        self.current: dict[int, Job] = {}
        #: Jobs that ended, for whoever wants to see whether anything moves.
        self.finished = 0

    def run(self, job: Job, slot: int) -> Outcome:
        """Run a plain function's job in this thread."""
        if self._is_late(job):
            return self._application.expire(job)
        self._start(job, slot)
        self.current[slot] = job
        if tracing.enabled:
            with self._span(job) as span:
                outcome = self._run(job)
                span.outcome(outcome.status, outcome.error)
        else:
            outcome = self._run(job)
        del self.current[slot]
        return self._finish(outcome, job)

    def _run(self, job: Job) -> Outcome:
        try:
            return job.handler.run(job)
        except Exception as error:  # noqa: BLE001 - a handler that breaks its promise must not cost a slot
            return _broken(job, error)
        except SystemExit as error:
            if self._may_exit:
                raise
            return self._application.lose(job, f"it called exit({error.code!r})", quarantine=False)

    async def arun(self, job: Job, slot: int) -> Outcome:
        """Run a coroutine's job on this loop."""
        if self._is_late(job):
            return self._application.expire(job)
        self._start(job, slot)
        if tracing.enabled:
            with self._span(job) as span:
                outcome = await self._arun(job)
                span.outcome(outcome.status, outcome.error)
        else:
            outcome = await self._arun(job)
        return self._finish(outcome, job)

    async def _arun(self, job: Job) -> Outcome:
        try:
            return await job.handler.arun(job)
        except Exception as error:  # noqa: BLE001 - as above
            return _broken(job, error)
        except SystemExit as error:
            # Never the process: other coroutines share it.
            return self._application.lose(job, f"it called exit({error.code!r})", quarantine=False)

    def _is_late(self, job: Job) -> bool:
        return job.expires is not None and job.expires <= self._now()

    def _start(self, job: Job, slot: int) -> None:
        self._mark(job.delivery.tag, job.id, slot, job.delivery.attempt)
        job.started = time.monotonic()

    def _finish(self, outcome: Outcome, job: Job) -> Outcome:
        outcome.runtime = runtime = time.monotonic() - job.started
        average = self.average
        # Threads may overwrite each other's update: it is an estimate, and a lock would cost more than it is worth.
        self.average = runtime if average is None else average + _WEIGHT * (runtime - average)
        self.finished += 1
        return outcome

    def _span(self, job: Job) -> tracing.Operation:
        delivery = job.delivery
        headers = delivery.envelope.headers if delivery.envelope is not None else {}
        return tracing.process(
            delivery.queue,
            headers,
            url=self._url,
            message_id=job.id,
            conversation_id=headers.get("root_id"),
            job=job.name,
            attempt=delivery.attempt,
        )


class Capacity:
    """How many jobs may still be claimed, given the executors and the measured run time."""

    def __init__(self, options: WorkerOptions, runner: Runner, sync: Executor, loop: Executor, settler: Settler) -> None:
        self._settler = settler
        self._options = options
        self._runner = runner
        self._sync = sync
        self._loop = loop
        # Numbers of jobs that had ended, so that the next one to end needs to reset nothing.
        self._looked_at = -1
        self._stalled_at = -1

    @property
    def room(self) -> int:
        """Jobs that may be claimed now: none while more outcomes wait to be settled than a few batches."""
        if self._settler.pending > _UNSETTLED:
            return 0
        sync, loop = self._sync, self._loop
        free = sync.slots + self.look_ahead - sync.backlog - sync.busy
        if self._options.pool == "async":
            free = loop.slots + self.look_ahead - loop.backlog - loop.busy - sync.backlog
        return max(0, free)

    @property
    def look_ahead(self) -> int:
        """Jobs to hold beyond those that run: none before anything is known, nor while something takes unexpectedly long."""
        average = self._runner.average
        if average is None or self._stalled_at == self._runner.finished:
            return 0
        seconds = self._options.look_ahead_seconds
        return 0 if average > seconds else min(self._options.look_ahead, int(seconds * self._sync.slots / max(average, 1e-6)))

    @property
    def worthwhile(self) -> int:
        """The room from which on a claim is worth its round trip: half of what is held when full, so that batches stay large."""
        return max(1, self.look_ahead // 2)

    def notice_stall(self) -> bool:
        """To be called at intervals: True when slots were busy and no job has ended since the last time. Until one does, nothing is
        claimed ahead."""
        finished, last = self._runner.finished, self._looked_at
        self._looked_at = finished
        if finished != last or not (self._sync.busy or self._loop.busy):
            return False
        is_news = self._stalled_at != finished
        self._stalled_at = finished
        return is_news

    @property
    def is_idle(self) -> bool:
        """Nothing runs and nothing waits to run."""
        return not (self._sync.busy or self._sync.backlog or self._loop.busy or self._loop.backlog)

    def withdraw(self) -> Sequence[Job]:
        """Take back what is not started."""
        return [*self._sync.withdraw(), *self._loop.withdraw()]


def _broken(job: Job, error: Exception) -> Outcome:
    logger.error("%s[%s]: its handler failed; the message is kept in quarantine", job.name, job.id, exc_info=error)
    return Outcome(job.delivery, job, "FAILURE", Quarantine(f"its handler failed: {error!r}"), error=error)


def _no_mark(_tag: str, _job: str, _slot: int, _attempt: int) -> None:
    """Nobody watches this process: it has no parent that outlives it."""

"""Execute: run one job, whatever it does. Comes from: admit, by way of an executor's slot. Goes to: settle.

Any thread may ask a running job to end (see :mod:`jumpstarter.worker.watch`). It is asked by an exception: raised by a signal
handler in the main thread, put into another thread by the interpreter, or as the cancellation of a coroutine. A job that does not
end is *abandoned*: settled without it, and what it still does counts for nothing.

Who ends a job is settled by one atomic step: whoever takes it out of :attr:`Runner.running`.
"""

from __future__ import annotations

import ctypes
import logging
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import anyio
import anyio.to_thread

from jumpstarter.abc.application import Application
from jumpstarter.clock import SYSTEM_CLOCK, Clock
from jumpstarter.errors import BrokerUnavailable, JobCancelled
from jumpstarter.jobs import RETURN, Job, Outcome, Place, Quarantine
from jumpstarter.telemetry import tracing
from jumpstarter.worker.marks import Ring

logger = logging.getLogger(__name__)

#: Interrupts a child's main thread, also in the middle of a system call. Celery's pool uses the same.
INTERRUPT: Final = signal.SIGUSR1
_WEIGHT: Final = 0.1  # of the newest job in the moving average of run times


@dataclass(frozen=True, slots=True)
class Ask:
    """A running job was asked to end: by raising ``error`` in it; ``outcome`` is what comes of it if it does not catch that."""

    error: type[BaseException]
    outcome: Callable[[], Outcome]


_FIRST_MARKS: Final[Mapping[Place, int]] = MappingProxyType({"slot": 0, "thread": 0, "loop": 0})

#: Acks a message before its job begins; raises BrokerUnavailable, or answers False when another worker owns it by now.
AckNow = Callable[[Job], bool]


class Runner:
    """Runs one job: the functions that executors call in their slots."""

    def __init__(
        self,
        application: Application,
        url: str,
        marks: Ring | None,
        *,
        may_exit: bool = False,
        first_marks: Mapping[Place, int] = _FIRST_MARKS,
        ack_now: AckNow | None = None,
        ack_blocks: bool = True,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """:param url: the broker's, for spans.
        :param marks: where starts are marked for the parent; None where no parent outlives this process.
        :param may_exit: a job that raises SystemExit ends this process; else it only counts as lost.
        :param first_marks: the number under which the first slot of each kind is marked.
        :param ack_now: how jobs that are acked early are acked before they begin; None: they are acked with what came of them.
        :param ack_blocks: that takes a round trip, so that the loop must not wait for it.
        """
        self._application = application
        self._url = url
        self._mark: Callable[[str, str, int, int, float], None] = marks.mark if marks is not None else _no_mark
        self._may_exit = may_exit
        self.first_marks = first_marks
        self._ack_now = ack_now
        self._ack_blocks = ack_blocks
        self._now = clock.now
        self._interruptions = (application.soft_limit_error, JobCancelled)
        self._lock = threading.Lock()
        #: What runs now: where it can be interrupted, a thread's identity or a scope.
        self.running: dict[Job, int | anyio.CancelScope] = {}
        #: Jobs that were asked to end.
        self.asked: dict[Job, Ask] = {}
        #: Moving averages of run times by the place where jobs run, seconds.
        self.averages: dict[Place, float] = {}
        #: Jobs that were begun, and by place those that ended, for whoever wants to see whether anything moves.
        self.begun = 0
        self.ended: dict[Place, int] = {"slot": 0, "thread": 0, "loop": 0}

    def run(self, job: Job, slot: int, place: Place = "slot") -> Outcome | None:
        """Run a plain function's job in this thread; None when it was abandoned meanwhile."""
        refusal = self._begin(job, slot, self.first_marks[place] + slot)
        if refusal is not None:
            job.returned = True
            return refusal
        self.running[job] = threading.get_ident()
        try:
            if tracing.enabled:
                with self._span(job) as span:
                    outcome = self._call(job)
                    span.outcome(outcome.status, outcome.error)
            else:
                outcome = self._call(job)
        except self._interruptions:  # it came when the function was through, or was not caught in there
            outcome = self._interrupted(job)
        try:
            return self._end(job, outcome)
        except self._interruptions:  # the last moment for one
            return self._end(job, outcome)

    def run_beside(self, job: Job, slot: int) -> Outcome | None:
        """The same in a thread slot beside the pool's own."""
        return self.run(job, slot, "thread")

    def _call(self, job: Job) -> Outcome:
        try:
            return job.handler.run(job)
        except self._interruptions:
            raise
        except Exception as error:  # noqa: BLE001 - a handler that breaks its promise must not cost a slot
            return _broken(job, error)
        except SystemExit as error:
            if self._may_exit:
                raise
            return self._application.lose(job, f"it called exit({error.code!r})", quarantine=False)

    async def arun(self, job: Job, slot: int) -> Outcome | None:
        """Run a coroutine's job on this loop; None when it was abandoned meanwhile."""
        if self._ack_blocks and self._ack_now is not None and job.early_ack:
            refusal = await anyio.to_thread.run_sync(self._begin, job, slot, self.first_marks["loop"] + slot)
        else:
            refusal = self._begin(job, slot, self.first_marks["loop"] + slot)
        if refusal is not None:
            job.returned = True
            return refusal
        outcome: Outcome | None = None
        with anyio.CancelScope() as scope:
            self.running[job] = scope
            outcome = await self._arun(job)
        if outcome is None:
            outcome = self._interrupted(job)
        return self._end(job, outcome)

    async def _arun(self, job: Job) -> Outcome:
        if not tracing.enabled:
            return await self._acall(job)
        with self._span(job) as span:
            outcome = await self._acall(job)
            span.outcome(outcome.status, outcome.error)
            return outcome

    async def _acall(self, job: Job) -> Outcome:
        try:
            return await job.handler.arun(job)
        except Exception as error:  # noqa: BLE001 - as above
            return _broken(job, error)
        except SystemExit as error:
            # Never the process: other coroutines share it.
            return self._application.lose(job, f"it called exit({error.code!r})", quarantine=False)

    def _begin(self, job: Job, slot: int, mark: int) -> Outcome | None:
        """Mark the start; an outcome when it may not start."""
        if job.expires is not None and job.expires <= self._now():
            return self._application.expire(job)
        if self._application.bars and (barred := self._application.bar(job)) is not None:
            return barred
        if job.early_ack and self._ack_now is not None:
            refusal = self._ack_early(job, self._ack_now)
            if refusal is not None:
                return refusal
        delivery = job.delivery
        self._mark(delivery.tag, job.id, mark, delivery.attempt, job.hard_limit or 0.0)
        job.slot = slot
        job.started = time.monotonic()
        self.begun += 1
        return None

    def _ack_early(self, job: Job, ack_now: AckNow) -> Outcome | None:
        try:
            job.acked = ack_now(job)
        except BrokerUnavailable:
            return Outcome(job.delivery, job, "RETURNED", RETURN)
        # Another worker's by now: settling it will say so, and do nothing.
        return None if job.acked else Outcome(job.delivery, job, "RETURNED", RETURN)

    def _end(self, job: Job, outcome: Outcome) -> Outcome | None:
        """The job has ended: its outcome, if that still counts. Harmless when it is interrupted and called again."""
        if (self.running.pop(job, None) is None or job in self.asked) and not self._was_asked(job):
            return None
        outcome.runtime = runtime = time.monotonic() - job.started
        place = job.handler.runs_in
        average = self.averages.get(place)
        # Threads may overwrite each other's update: it is an estimate, and a lock would cost more than it is worth.
        self.averages[place] = runtime if average is None else average + _WEIGHT * (runtime - average)
        self.ended[place] += 1
        return outcome

    # Ending a job from outside.

    def ask(self, job: Job, ask: Ask) -> None:
        """Raise an error inside the job, wherever it is. From the loop's thread."""
        place = self.running.get(job)
        if isinstance(place, anyio.CancelScope):
            self.asked[job] = ask
            place.cancel()
        elif place is not None:
            self._ask_thread(job, place, ask)

    def _ask_thread(self, job: Job, thread: int, ask: Ask) -> None:
        with self._lock:
            # Noted before the look: a job that ends now either is seen to have ended, or sees that it was asked.
            self.asked[job] = ask
            if job not in self.running:
                del self.asked[job]
            elif thread == threading.main_thread().ident and signal.getsignal(INTERRUPT) == self.interrupted:
                signal.pthread_kill(thread, INTERRUPT)
            else:
                _raise_in(thread, ask.error)

    def interrupted(self, _signal: int, _frame: object) -> None:
        """The handler of :data:`INTERRUPT`: in the main thread, between two of the job's own instructions."""
        main = threading.main_thread().ident
        for job, ask in list(self.asked.items()):
            if self.running.get(job) == main:
                raise ask.error

    def abandon(self, job: Job) -> bool:
        """Take the job's end out of its own hands. False when it has ended by itself."""
        with self._lock:
            if self.running.pop(job, None) is None:
                return False
            job.abandoned = True
            return True

    def _was_asked(self, job: Job) -> bool:
        """A job that was asked to end, or abandoned, has ended: take back what was not raised yet; whether its end still counts."""
        with self._lock:
            if self.asked.pop(job, None) is not None:
                _raise_in(threading.get_ident(), None)
            return not job.abandoned

    def _interrupted(self, job: Job) -> Outcome:
        ask = self.asked.get(job)
        return ask.outcome() if ask is not None else self._application.cancel(job, "it was cancelled")

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


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    """Have the interpreter raise this in the thread when it runs Python code next; None takes back what was not raised yet."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), None if error is None else ctypes.py_object(error))


def _broken(job: Job, error: Exception) -> Outcome:
    logger.error("%s[%s]: its handler failed; the message is kept in quarantine", job.name, job.id, exc_info=error)
    return Outcome(job.delivery, job, "FAILURE", Quarantine(f"its handler failed: {error!r}"), error=error)


def _no_mark(_tag: str, _job: str, _slot: int, _attempt: int, _hard_limit: float) -> None:
    """Nobody watches this process: it has no parent that outlives it."""

"""Watch: end jobs whose time is over or that somebody cancelled. Comes from: worker, at intervals. Goes to: execute, settle.

::

    running ──soft limit, cancelled──▶ asked ──grace or hard limit──▶ abandoned ──▶ its slot is replaced
       └───────────────────────────hard limit─────────────────────────▶

An *asked* job gets an exception raised inside it and may clean up. An *abandoned* one is settled without it; the slot goes on
elsewhere: another thread, another task of the loop, another process. The slot's region of the worker's chart shows it
(``processing → asked → stuck → idle``). Nothing here knows a process by its number: jobs are named by id and attempt.

A child whose interpreter is held by C code cannot do any of this; its node does it then (see :mod:`jumpstarter.worker.node`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from enum import Enum
from typing import Final

from jumpstarter.abc.application import Application
from jumpstarter.errors import JobCancelled
from jumpstarter.jobs import Job, Outcome
from jumpstarter.worker.execute import Ask, Runner

logger = logging.getLogger(__name__)

#: Seconds that a cancelled job has for its clean-up.
GRACE: Final = 1.0


class Step(Enum):
    """What is to be done about a running job."""

    WAIT = "left alone"
    ASK = "asked to end"
    ABANDON = "abandoned"


def next_step(job: Job, *, now: float, asked_at: float | None, is_cancelled: bool) -> Step:
    """Pure. ``now`` and ``asked_at`` are monotonic seconds.

    A coroutine that was asked and is still there after the grace is shielded against its cancellation; a function may be busy with
    what it caught, so only its hard limit, or a cancellation, ends it.
    """
    elapsed = now - job.started
    if job.hard_limit and elapsed >= job.hard_limit:
        return Step.ABANDON
    if asked_at is None:
        is_over = job.soft_limit is not None and elapsed >= job.soft_limit
        return Step.ASK if is_cancelled or is_over else Step.WAIT
    must_end = is_cancelled or job.handler.runs_in == "loop"
    return Step.ABANDON if must_end and now - asked_at >= GRACE else Step.WAIT


class Watch:
    """Looks after the running jobs of one worker. All methods belong on the loop's thread."""

    def __init__(
        self,
        application: Application,
        runner: Runner,
        *,
        settle: Callable[[Outcome], None],
        on_step: Callable[[Job, Step], None],
    ) -> None:
        """:param settle: takes the outcomes of abandoned jobs.
        :param on_step: told after a job was asked, or abandoned and settled.
        """
        self._application = application
        self._runner = runner
        self._settle = settle
        self._on_step = on_step
        self._asked_at: dict[Job, float] = {}
        self._cancelled: set[Job] = set()

    def cancel(self, job_id: str, attempt: int | None = None) -> bool:
        """End the job with this id, if it runs here; True then. ``attempt`` None: whichever it is."""
        found = [job for job in list(self._runner.running) if job.id == job_id and attempt in (None, job.delivery.attempt)]
        self._cancelled.update(found)
        self.look()
        return bool(found)

    def look(self) -> None:
        """Do what is due. Precise to the interval at which this is called."""
        running = list(self._runner.running)
        if self._asked_at or self._cancelled:
            self._asked_at = {job: at for job, at in self._asked_at.items() if job in self._runner.running}
            self._cancelled.intersection_update(self._runner.running)
        now = time.monotonic()
        for job in running:
            self._look_at(job, now)

    def _look_at(self, job: Job, now: float) -> None:
        is_cancelled = job in self._cancelled
        step = next_step(job, now=now, asked_at=self._asked_at.get(job), is_cancelled=is_cancelled)
        if step is Step.WAIT:
            return
        ask = self._ask(job, now, is_cancelled)
        self._asked_at[job] = now
        self._runner.ask(job, ask)
        if step is Step.ABANDON:
            if not self._runner.abandon(job):
                return
            outcome = ask.outcome()
            outcome.runtime = now - job.started
            self._settle(outcome)
        logger.warning("%s[%s]: %s after %.1f s", job.name, job.id, step.value, now - job.started)
        self._on_step(job, step)

    def _ask(self, job: Job, now: float, is_cancelled: bool) -> Ask:
        application = self._application
        if is_cancelled:
            return Ask(JobCancelled, lambda: application.cancel(job, "it was cancelled"))
        if job.hard_limit and now - job.started >= job.hard_limit:
            hard = job.hard_limit
            return Ask(JobCancelled, lambda: application.overrun(job, hard, soft=False))
        soft = job.soft_limit or 0.0
        return Ask(application.soft_limit_error, lambda: application.overrun(job, soft, soft=True))

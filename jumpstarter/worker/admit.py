"""Admit: decide what a delivery becomes, a job for a slot or an outcome at once. Pure. Comes from: receive. Goes to: execute,
settle."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from jumpstarter.abc.application import Application
from jumpstarter.errors import MessageError
from jumpstarter.jobs import Delivery, Job, Outcome, Park, Quarantine

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Admitted:
    """A batch, sorted.

    :ivar jobs: for slots.
    :ivar outcomes: what needs no slot.
    """

    jobs: list[Job] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)


def admit(deliveries: list[Delivery], application: Application, *, now: float, max_attempts: int) -> Admitted:
    """Sort a batch. ``now`` is wall time in seconds."""
    admitted = Admitted()
    for delivery in deliveries:
        verdict: Job | Outcome
        try:
            if delivery.fault is not None:
                raise delivery.fault
            verdict = job = application.decode(delivery)
            # Most jobs may start at once, which is seen here, without a call for each.
            if job.expires is not None or job.due is not None or delivery.attempt > max_attempts:
                verdict = judge(job, application, now=now, max_attempts=max_attempts)
        except Exception as error:  # noqa: BLE001 - a message must not take the rest of its batch along
            verdict = _refuse(delivery, error, application)
        if isinstance(verdict, Outcome):
            admitted.outcomes.append(verdict)
        else:
            admitted.jobs.append(verdict)
    return admitted


def judge(job: Job, application: Application, *, now: float, max_attempts: int) -> Job | Outcome:
    """The job itself if it may start now, or what came of it without a start."""
    delivery = job.delivery
    if delivery.attempt > max_attempts:
        evidence = f"delivered {delivery.attempt - 1} times without an outcome"
        return application.lose(job, evidence, quarantine=True)
    if job.expires is not None and job.expires <= now:
        return application.expire(job)
    if job.due is not None and job.due > now:
        return Outcome(delivery, job, "PARKED", Park(job.due))
    return job


def _refuse(delivery: Delivery, error: Exception, application: Application) -> Outcome:
    if isinstance(error, MessageError):
        try:
            return application.refuse(delivery, error)
        except Exception as failure:  # noqa: BLE001 - logged below
            error = failure
    # Something that the application has no word for.
    logger.error("a message in %r could not be admitted and is kept in quarantine", delivery.queue, exc_info=error)
    return Outcome(delivery, None, "REFUSED", Quarantine(f"it could not be admitted: {error!r}"), error=error)

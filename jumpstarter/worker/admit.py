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
        try:
            verdict = admit_one(delivery, application, now=now, max_attempts=max_attempts)
        except Exception as error:
            # Something that the application has no word for. It must not take the rest of the batch along.
            logger.exception("a message in %r could not be admitted and is kept in quarantine", delivery.queue)
            verdict = Outcome(delivery, None, "REFUSED", Quarantine(f"it could not be admitted: {error!r}"), error=error)
        if isinstance(verdict, Outcome):
            admitted.outcomes.append(verdict)
        else:
            admitted.jobs.append(verdict)
    return admitted


def admit_one(delivery: Delivery, application: Application, *, now: float, max_attempts: int) -> Job | Outcome:
    """A job that may start now, or what came of the delivery without one."""
    if delivery.fault is not None:
        return application.refuse(delivery, delivery.fault)
    try:
        job = application.decode(delivery)
    except MessageError as error:
        return application.refuse(delivery, error)
    if delivery.attempt > max_attempts:
        evidence = f"delivered {delivery.attempt - 1} times without an outcome"
        return application.lose(job, evidence, quarantine=True)
    if job.expires is not None and job.expires <= now:
        return application.expire(job)
    if job.due is not None and job.due > now:
        return Outcome(delivery, job, "PARKED", Park(job.due))
    return job

"""Bury: decide what comes of the messages that a dead child held. Pure. Comes from: node. Goes to: settle."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from jumpstarter.abc.application import Application
from jumpstarter.errors import MessageError
from jumpstarter.jobs import REQUEUE, RETURN, Delivery, Job, Outcome

#: What comes of a job that the node itself had to end.
Condemn = Callable[[Job], Outcome]


def bury(
    held: Iterable[Delivery],
    started: Collection[str],
    application: Application,
    *,
    evidence: str,
    facts: Mapping[str, Any],
    max_attempts: int,
    killed_by_us: bool,
    condemned: Mapping[str, Condemn],
) -> list[Outcome]:
    """The outcomes of all that a dead child held.

    :param started: tags of the jobs that had started (see :mod:`jumpstarter.worker.marks`).
    :param evidence: how the child died, for people.
    :param facts: what else is known about that, for the quarantine.
    :param killed_by_us: a cold shutdown, or the end of another job: no fault of the job's, so it is returned without being counted.
    :param condemned: by tag, the jobs for whose sake the node killed the child.
    """
    return [
        _bury_one(
            delivery,
            application,
            was_started=delivery.tag in started,
            evidence=evidence,
            facts=facts,
            max_attempts=max_attempts,
            killed_by_us=killed_by_us,
            condemn=condemned.get(delivery.tag),
        )
        for delivery in held
    ]


def _bury_one(
    delivery: Delivery,
    application: Application,
    *,
    was_started: bool,
    evidence: str,
    facts: Mapping[str, Any],
    max_attempts: int,
    killed_by_us: bool,
    condemn: Condemn | None,
) -> Outcome:
    if not was_started:
        return Outcome(delivery, None, "RETURNED", RETURN)
    try:
        job = application.decode(delivery)
    except MessageError as error:
        return application.refuse(delivery, error)
    if condemn is not None:
        return condemn(job)
    if job.early_ack:
        return application.lose(job, evidence, quarantine=False)
    if killed_by_us:
        return Outcome(delivery, job, "RETURNED", RETURN)
    if not job.requeue_if_lost:
        return application.lose(job, evidence, quarantine=False)
    if delivery.attempt >= max_attempts:
        return application.lose(
            job, f"{evidence}; attempt {delivery.attempt} of {max_attempts}", quarantine=True, facts=facts
        )
    return Outcome(delivery, job, "LOST", REQUEUE)

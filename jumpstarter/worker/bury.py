"""Bury: decide what comes of the messages that a dead child held. Pure. Comes from: node. Goes to: settle."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jumpstarter.abc.application import Application
from jumpstarter.errors import MessageError
from jumpstarter.jobs import REQUEUE, RETURN, Delivery, Job, Outcome

#: What comes of a job that the node itself had to end.
Condemn = Callable[[Job], Outcome]


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """How a child died.

    :ivar evidence: for people.
    :ivar facts: what else is known, for the quarantine; JSON values.
    :ivar killed_by_us: in a cold shutdown, or for the sake of another job: no fault of the job's, so that it is returned without
        being counted.
    :ivar condemned: by tag, the jobs for whose sake the node killed the child.
    :ivar ran: tags of the jobs that ran at that moment. What had started and is not among them had ended and was about to be
        settled: it is no suspect. Empty: nobody knows, or nothing ran, and all that had started are suspects.
    """

    evidence: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    killed_by_us: bool = False
    condemned: Mapping[str, Condemn] = field(default_factory=dict)
    ran: Collection[str] = ()

    def is_fault_of(self, tag: str) -> bool:
        """Whether this job may have brought it about, so that it counts as one of its attempts."""
        return not self.killed_by_us and (not self.ran or tag in self.ran)


def bury(
    held: Iterable[Delivery], started: Collection[str], application: Application, death: Death, *, max_attempts: int
) -> list[Outcome]:
    """The outcomes of all that a dead child held.

    :param started: tags of the jobs that had started (see :mod:`jumpstarter.worker.marks`).
    """
    return [
        _bury_one(delivery, application, death, max_attempts)
        if delivery.tag in started
        else Outcome(delivery, None, "RETURNED", RETURN)
        for delivery in held
    ]


def _bury_one(delivery: Delivery, application: Application, death: Death, max_attempts: int) -> Outcome:
    """What comes of a job that had started."""
    try:
        job = application.decode(delivery)
    except MessageError as error:
        return application.refuse(delivery, error)
    if delivery.tag in death.condemned:
        return death.condemned[delivery.tag](job)
    if job.early_ack:
        return application.lose(job, death.evidence, quarantine=False)
    if not (job.requeue_if_lost or death.killed_by_us):
        return application.lose(job, death.evidence, quarantine=False)
    if not death.is_fault_of(delivery.tag):
        return Outcome(delivery, job, "RETURNED", RETURN)
    if delivery.attempt >= max_attempts:
        evidence = f"{death.evidence}; attempt {delivery.attempt} of {max_attempts}"
        return application.lose(job, evidence, quarantine=True, facts=death.facts)
    return Outcome(delivery, job, "LOST", REQUEUE)

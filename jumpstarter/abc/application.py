"""The port of applications: what a worker runs. ``compat_celery`` implements it for a Celery app."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

from jumpstarter.jobs import Delivery, Handler, Job, Outcome


class Application(Protocol):
    """Turns deliveries into jobs and knows what to store when a job ends without having run."""

    #: For people: the application's name in logs and traces.
    name: str
    #: What is raised inside a plain function when its soft limit is over.
    soft_limit_error: type[Exception]
    #: Whether some jobs may not start now: only then :meth:`bar` is asked about each, just before it starts.
    bars: bool

    @property
    def throttles(self) -> bool:
        """Whether some jobs may start only so often: only then :meth:`turn` is asked about each that was claimed."""
        ...

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """Every task by its name."""
        ...

    def decode(self, delivery: Delivery) -> Job:
        """Understand the headers (not the payload). Pure.

        :raises UnknownTask: no handler has that name.
        :raises Undecodable: the headers or the content type are wrong.
        """
        ...

    def refuse(self, delivery: Delivery, error: Exception) -> Outcome:
        """What comes of a delivery that cannot become a job (``UnknownTask``, ``Undecodable``)."""
        ...

    def expire(self, job: Job) -> Outcome:
        """What comes of a job that was not started before its time ran out."""
        ...

    def lose(self, job: Job, evidence: str, *, quarantine: bool, facts: Mapping[str, Any] = MappingProxyType({})) -> Outcome:
        """What comes of a job whose process died under it. ``evidence`` says how, e.g. ``signal 9 (SIGKILL)``; ``facts`` are what
        else is known, kept with a message that goes to quarantine."""
        ...

    def overrun(self, job: Job, limit: float, *, soft: bool) -> Outcome:
        """What comes of a job that ran longer than ``limit`` seconds and was ended: its hard limit, or a soft one that it did not
        catch."""
        ...

    def cancel(self, job: Job, reason: str) -> Outcome:
        """What comes of a job that somebody cancelled."""
        ...

    def bar(self, job: Job) -> Outcome | None:
        """What comes of a job that may not start (somebody revoked it), or None when it may. From any thread."""
        ...

    def turn(self, job: Job, *, may_wait: bool) -> float | Outcome:
        """When a job that was claimed may start: in so many seconds (0: now), which is its turn and nobody else's; or what comes of
        it instead, most likely that it is parked until it may try again. From any thread.

        :param may_wait: False when this process holds back enough of such jobs already: then the seconds are 0, or there are none.
        """
        ...

    def note(self, notice: str) -> None:
        """Bear in mind what was said to the whole node, in words of the application's own. From any thread."""
        ...

    def answer(self, question: str, running: Sequence[Job], waiting: Sequence[Job]) -> str:
        """Answer a question of the application's own about this process.

        :param running: the jobs that run.
        :param waiting: those that were claimed and not started.
        """
        ...

    def settled(self, outcomes: Sequence[Outcome]) -> None:
        """Told of each batch that was settled, in the thread that did it."""
        ...

    def child_started(self) -> None:
        """Called in each child process before its first job, in the main thread."""
        ...

    def child_stopping(self) -> None:
        """Called in each child process after its last job, in the main thread."""
        ...

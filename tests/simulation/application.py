"""The jobs of a story: what they do stands in their headers, so that every attempt of every worker knows it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from jumpstarter.errors import UnknownTask
from jumpstarter.jobs import ACK, Delivery, Document, Envelope, Handler, Job, Outcome, Part, Place, Quarantine
from tests.simulation.ledger import Join, Ledger

QUEUE = "jobs"


def envelope(id: str, **headers: Any) -> Envelope:
    """A job.

    :param seconds: how long it runs.
    :param kills: so many attempts kill their process.
    :param fails: these attempts fail.
    :param steps: so many more jobs follow, one after the other.
    :param join, index: it is a member of this join.
    """
    return Envelope(queue=QUEUE, body=b"", headers={"id": id, **headers})


class Worked(Handler):
    """Runs every job: what a run comes to depends on its headers and its attempt alone."""

    name = "work"
    runs_in: Place = "slot"

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def run(self, job: Job) -> Outcome:
        headers = headers_of(job.delivery)
        if job.delivery.attempt in headers.get("fails", ()):
            return Outcome(job.delivery, job, "FAILURE", documents=[document(job, "FAILURE")])
        return Outcome(
            job.delivery,
            job,
            "SUCCESS",
            publish=self._next(job.id, headers),
            documents=[document(job, "SUCCESS")],
            part=self._part(job.id, headers),
        )

    async def arun(self, job: Job) -> Outcome:
        return self.run(job)

    def _next(self, id: str, headers: Mapping[str, Any]) -> Sequence[Envelope]:
        steps = headers.get("steps", 0)
        return [envelope(f"{id}+", seconds=headers["seconds"], steps=steps - 1)] if steps else ()

    def _part(self, id: str, headers: Mapping[str, Any]) -> Part | None:
        name = headers.get("join")
        if name is None:
            return None
        join = self._ledger.joins[name]
        return Part(name, id, headers["index"], id.encode(), None, lambda bodies: self._complete(name, join, bodies))

    def _complete(self, name: str, join: Join, bodies: Sequence[bytes]) -> tuple[list[Envelope], list[Document]]:
        if [body.decode() for body in bodies] != join.members:
            self._ledger.violations.append(f"{name} was completed by {bodies!r} instead of {join.members}")
        return [envelope(join.body, seconds=0.1)], []


def headers_of(delivery: Delivery) -> Mapping[str, Any]:
    """The message's headers."""
    assert delivery.envelope is not None
    return delivery.envelope.headers


def document(job: Job, status: str) -> Document:
    """The job's result, which says whose attempt wrote it."""
    return Document(job.id, json.dumps({"status": status, "attempt": job.delivery.attempt}).encode(), final=status == "SUCCESS")


class Story:
    """The application's port."""

    name = "story"
    soft_limit_error = RuntimeError

    def __init__(self, ledger: Ledger) -> None:
        self._handler = Worked(ledger)

    @property
    def handlers(self) -> Mapping[str, Handler]:
        return {"work": self._handler}

    def decode(self, delivery: Delivery) -> Job:
        headers = headers_of(delivery)
        if headers.get("unknown"):
            raise UnknownTask(headers["id"])
        return Job(
            id=headers["id"],
            name="work",
            delivery=delivery,
            handler=self._handler,
            due=headers.get("due"),
            early_ack=headers.get("early_ack", False),
            lease=headers.get("lease"),
        )

    def refuse(self, delivery: Delivery, error: Exception) -> Outcome:
        return Outcome(delivery, None, "REFUSED", Quarantine(str(error)), error=error)

    def expire(self, job: Job) -> Outcome:
        raise AssertionError("no job of a story expires")

    def lose(self, job: Job, evidence: str, *, quarantine: bool, facts: Mapping[str, Any] = MappingProxyType({})) -> Outcome:
        action = Quarantine(evidence, facts) if quarantine else ACK
        return Outcome(job.delivery, job, "LOST", action, documents=[document(job, "LOST")])

    def overrun(self, job: Job, limit: float, *, soft: bool) -> Outcome:
        raise AssertionError("no job of a story has a limit")

    def cancel(self, job: Job, reason: str) -> Outcome:
        raise AssertionError("no job of a story is cancelled")

    throttles = False

    def turn(self, job: Job, *, may_wait: bool) -> float | Outcome:
        return 0.0

    bars = False

    def bar(self, job: Job) -> Outcome | None:
        return None

    def note(self, notice: str) -> None:
        pass

    def answer(self, question: str, running: Sequence[Job], waiting: Sequence[Job]) -> str:
        return f"{question}: {len(running)} running, {len(waiting)} waiting"

    def settled(self, outcomes: Sequence[Outcome]) -> None:
        pass

    def child_started(self) -> None:
        pass

    def child_stopping(self) -> None:
        pass

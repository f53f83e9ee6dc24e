"""A small application of the worker's port: JSON calls to plain functions and coroutines, results as documents."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from jumpstarter.errors import Undecodable, UnknownTask
from jumpstarter.jobs import ACK, Delivery, Document, Envelope, Handler, Job, Outcome, Place, Quarantine


def envelope(name: str, *args: Any, queue: str = "toys", id: str = "", **headers: Any) -> Envelope:
    """A call of the toy application's function ``name``."""
    body = json.dumps(list(args)).encode()
    return Envelope(queue=queue, body=body, headers={"task": name, "id": id or f"{name}-{args}", **headers})


class ToyTooSlow(Exception):
    """The soft limit of a toy is over."""


class ToyHandler:
    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name = name
        self.function = function
        self.runs_in: Place = "loop" if inspect.iscoroutinefunction(function) else "slot"
        if name.startswith("thread_"):
            self.runs_in = "thread"

    def run(self, job: Job) -> Outcome:
        try:
            return self._succeeded(job, self.function(*self._arguments(job)))
        except Exception as error:  # noqa: BLE001 - the user's error becomes the outcome
            return Outcome(job.delivery, job, "FAILURE", error=error, documents=[_document(job, "FAILURE", repr(error))])

    async def arun(self, job: Job) -> Outcome:
        try:
            return self._succeeded(job, await self.function(*self._arguments(job)))
        except Exception as error:  # noqa: BLE001 - the user's error becomes the outcome
            return Outcome(job.delivery, job, "FAILURE", error=error, documents=[_document(job, "FAILURE", repr(error))])

    def _arguments(self, job: Job) -> list[Any]:
        assert job.delivery.envelope is not None
        arguments: list[Any] = json.loads(job.delivery.envelope.body)
        return arguments

    def _succeeded(self, job: Job, value: Any) -> Outcome:
        return Outcome(job.delivery, job, "SUCCESS", documents=[_document(job, "SUCCESS", value)])


def _document(job: Job, status: str, value: Any) -> Document:
    return Document(f"result-{job.id}", json.dumps({"status": status, "value": value}).encode(), final=status == "SUCCESS")


class ToyApplication:
    name = "toys"
    soft_limit_error = ToyTooSlow

    def __init__(self, **functions: Callable[..., Any]) -> None:
        self._handlers: dict[str, Handler] = {name: ToyHandler(name, function) for name, function in functions.items()}

    @property
    def handlers(self) -> Mapping[str, Handler]:
        return self._handlers

    def decode(self, delivery: Delivery) -> Job:
        assert delivery.envelope is not None
        headers = delivery.envelope.headers
        if "task" not in headers:
            raise Undecodable("no header 'task'")
        if headers["task"] not in self._handlers:
            raise UnknownTask(headers["task"])
        return Job(
            id=headers["id"],
            name=headers["task"],
            delivery=delivery,
            handler=self._handlers[headers["task"]],
            due=headers.get("due"),
            expires=headers.get("expires"),
            early_ack=headers.get("early_ack", False),
            requeue_if_lost=headers.get("requeue_if_lost", True),
            soft_limit=headers.get("soft_limit"),
            hard_limit=headers.get("hard_limit"),
            lease=headers.get("lease"),
        )

    def refuse(self, delivery: Delivery, error: Exception) -> Outcome:
        return Outcome(delivery, None, "REFUSED", Quarantine(str(error)), error=error)

    def expire(self, job: Job) -> Outcome:
        return Outcome(job.delivery, job, "EXPIRED", documents=[_document(job, "EXPIRED", None)])

    def lose(self, job: Job, evidence: str, *, quarantine: bool, facts: Mapping[str, Any] = MappingProxyType({})) -> Outcome:
        action = Quarantine(evidence, facts) if quarantine else ACK
        return Outcome(job.delivery, job, "LOST", action, documents=[_document(job, "LOST", evidence)])

    def overrun(self, job: Job, limit: float, *, soft: bool) -> Outcome:
        status = "SOFT" if soft else "HARD"
        return Outcome(job.delivery, job, status, documents=[_document(job, status, limit)])

    def cancel(self, job: Job, reason: str) -> Outcome:
        return Outcome(job.delivery, job, "CANCELLED", documents=[_document(job, "CANCELLED", reason)])

    throttles = False

    def turn(self, job: Job, *, may_wait: bool) -> float | Outcome:
        return 0.0

    bars = False

    def bar(self, job: Job) -> Outcome | None:
        return None

    def note(self, notice: str) -> None:
        self.noted = notice

    noted = ""

    def answer(self, question: str, running: Sequence[Job], waiting: Sequence[Job]) -> str:
        if question == "noted":
            return str(len(self.noted))
        return f"{question}: {len(running)} running, {len(waiting)} waiting"

    def settled(self, outcomes: Sequence[Outcome]) -> None:
        pass

    def child_started(self) -> None:
        pass

    def child_stopping(self) -> None:
        pass

"""A worker without processes or threads, for tests: it claims, runs and settles in the calling thread until its queues are empty.

All of its parts are the real ones (broker, application, settle); only the actor around them is missing.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from compat_celery import Celery
from compat_celery.app.publisher import broker_for, capture
from compat_celery.worker.application import CeleryApplication
from jumpstarter.jobs import Envelope, Outcome
from jumpstarter.worker.settle import Settler


def make_app(url: str | None = None, results: str | None = None, **settings: Any) -> Celery:
    """An app on a broker and a results store of its own, by default in memory."""
    name = uuid.uuid4().hex
    app = Celery("tests", broker=url or f"memory://{name}", backend=results or f"memory://{name}", set_as_current=False)
    app.conf.update(task_allow_error_cb_on_chord_header=True, **settings)
    return app


class InlineWorker:
    """Runs what is in the queues of an app."""

    def __init__(self, app: Celery, queues: Sequence[str] = ("celery",)) -> None:
        self.app = app
        self.queues = queues
        self.outcomes: list[Outcome] = []
        self._application = CeleryApplication(app, "celery@inline")
        self._broker = broker_for(app)
        self._incarnation = uuid.uuid4().hex
        results = app.backend.results
        self._settler = Settler(self._broker, results, self._incarnation, on_trouble=lambda error: None)

    def run(self, limit: int = 1000) -> int:
        """Run jobs, one at a time, until there are no more or ``limit`` have run; how many."""
        for count in range(limit):
            deliveries = self._broker.claim(self.queues, 1, incarnation=self._incarnation, lease=60)
            if not deliveries:
                return count
            job = self._application.decode(deliveries[0])
            outcome = job.handler.run(job)
            self._settler.settle([outcome])
            self.outcomes.append(outcome)
        return limit

    def give_back(self) -> None:
        """Return what it still holds to its queues."""
        self._broker.release(self._incarnation)

    def ran(self, task: str) -> list[Outcome]:
        """The outcomes of the tasks of this name."""
        return [outcome for outcome in self.outcomes if outcome.job is not None and outcome.job.name == task]


class Message:
    """A captured task message, decoded."""

    def __init__(self, envelope: Envelope) -> None:
        self.queue = envelope.queue
        self.headers = envelope.headers
        self.properties = envelope.properties
        self.args, self.kwargs, self.embed = json.loads(envelope.body)
        self.size = len(envelope.body)

    @property
    def task(self) -> str:
        return str(self.headers["task"])

    @property
    def id(self) -> str:
        return str(self.headers["id"])

    @property
    def chain(self) -> list[dict[str, Any]]:
        return self.embed["chain"] or []


@contextmanager
def sent() -> Iterator[list[Message]]:
    """What is published in the block goes to the list, at the end of the block, and nowhere else."""
    messages: list[Message] = []
    with capture() as envelopes:
        yield messages
    messages.extend(Message(envelope) for envelope in envelopes)

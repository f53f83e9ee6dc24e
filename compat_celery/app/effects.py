"""What a job wants done when it is settled: messages to send and results to store, together with the ack or not at all.

While a worker runs a job, the :class:`~jumpstarter.jobs.Outcome` that it will have is the context's ``current`` one. The tracer
adds to it, and so do ``Task.retry`` and ``Task.replace`` (through :func:`deferred`), so that a crash before the ack neither loses
nor doubles the follow-up. What user code publishes itself, with ``delay`` in the middle of a task, is sent at once, as in Celery.
Comes from: app.trace. Goes to: worker.application.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from compat_celery.app.publisher import capture
from jumpstarter.jobs import Outcome

current: ContextVar[Outcome | None] = ContextVar("the running job's outcome", default=None)


@contextmanager
def deferred() -> Iterator[None]:
    """Within a worker's job: messages published in the block are sent when the job is settled. Elsewhere: at once."""
    outcome = current.get()
    if outcome is None:
        yield
        return
    with capture() as envelopes:
        yield
    # Only now: a block that raised has published nothing.
    outcome.publish = [*outcome.publish, *envelopes]

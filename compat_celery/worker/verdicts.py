"""What becomes of a message, by what came of its task. Pure. Used by: worker.application."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from compat_celery import states
from jumpstarter.jobs import ACK, Action, Delivery, Envelope, Quarantine

__all__ = ("REDELIVERED", "again", "verdict")

#: The header by which kombu marks messages that were delivered before; others do not have it.
REDELIVERED = "redelivered"


def verdict(task: Any, status: str) -> Action:
    """What happens to the message of a task that ended so."""
    if status == states.FAILURE and task.acks_late and not _acks_failures(task):
        return Quarantine("the task failed, and acks_on_failure_or_timeout is off")
    return ACK


def _acks_failures(task: Any) -> bool:
    specific = getattr(task, "acks_on_failure", None)
    return bool(task.acks_on_failure_or_timeout if specific is None else specific)


def again(delivery: Delivery) -> Envelope:
    """The message once more, for a task that rejected it with ``requeue=True``: behind those that wait, since at the front it would
    be taken again at once, for ever. Not counted as an attempt that killed its process."""
    envelope = delivery.envelope
    assert envelope is not None, "a task ran"
    headers = {**envelope.headers, REDELIVERED: True}
    return replace(envelope, headers=headers, exchange="", routing_key=delivery.queue, queue=delivery.queue, due=None)

"""The states of a task and their order. Used by: results, backends, the tracer, events.

======== ==================================================================================
PENDING  nobody knows anything about the id (also: it was never sent)
RECEIVED a worker holds the message (events only)
STARTED  it runs (stored only with ``task_track_started``)
SUCCESS  it returned
FAILURE  it raised, or ran out of retries
REVOKED  it was revoked or expired before it ran
REJECTED the worker gave the message back or dropped it (events only)
RETRY    it waits for its next attempt
IGNORED  it raised ``Ignore``: nothing is stored
======== ==================================================================================
"""

from __future__ import annotations

__all__ = (
    "ALL_STATES",
    "EXCEPTION_STATES",
    "FAILURE",
    "IGNORED",
    "PENDING",
    "PROPAGATE_STATES",
    "READY_STATES",
    "RECEIVED",
    "REJECTED",
    "RETRY",
    "REVOKED",
    "STARTED",
    "SUCCESS",
    "UNREADY_STATES",
    "precedence",
    "state",
)

PENDING = "PENDING"
RECEIVED = "RECEIVED"
STARTED = "STARTED"
SUCCESS = "SUCCESS"
FAILURE = "FAILURE"
REVOKED = "REVOKED"
REJECTED = "REJECTED"
RETRY = "RETRY"
IGNORED = "IGNORED"

#: The task has run; its result will not change any more.
READY_STATES = frozenset({SUCCESS, FAILURE, REVOKED})
#: The task may still run.
UNREADY_STATES = frozenset({PENDING, RECEIVED, STARTED, REJECTED, RETRY})
#: The stored result is an exception.
EXCEPTION_STATES = frozenset({RETRY, FAILURE, REVOKED})
#: The stored exception is raised by ``get()``.
PROPAGATE_STATES = frozenset({FAILURE, REVOKED})
#: What a results store may hold.
ALL_STATES = frozenset({PENDING, RECEIVED, STARTED, SUCCESS, FAILURE, RETRY, REVOKED})

#: From the strongest to the weakest; None stands for every state of a user's own.
PRECEDENCE: list[str | None] = [SUCCESS, FAILURE, None, REVOKED, STARTED, RECEIVED, REJECTED, RETRY, PENDING]
PRECEDENCE_LOOKUP: dict[str | None, int] = {name: index for index, name in enumerate(PRECEDENCE)}
NONE_PRECEDENCE = PRECEDENCE_LOOKUP[None]


def precedence(state: str) -> int:
    """The place of a state in the order; a lower number wins over a higher one."""
    return PRECEDENCE_LOOKUP.get(state, NONE_PRECEDENCE)


class state(str):  # noqa: N801 - Celery's public name
    """A state that compares by precedence: ``state("PENDING") < state("PROGRESS") < state("SUCCESS")``."""

    __slots__ = ()

    def __gt__(self, other: str) -> bool:
        return precedence(self) < precedence(other)

    def __ge__(self, other: str) -> bool:
        return precedence(self) <= precedence(other)

    def __lt__(self, other: str) -> bool:
        return precedence(self) > precedence(other)

    def __le__(self, other: str) -> bool:
        return precedence(self) >= precedence(other)

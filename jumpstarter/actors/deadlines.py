"""The deadlines of questions: one task that sleeps until the earliest of them. Used by: ref, service.

A cancel scope with a deadline costs 9 µs, as much as the question itself. Questions are many and nearly all are answered in
time, so here each is only noted and struck out (0.5 µs).
"""

from __future__ import annotations

import threading
from typing import Any

import anyio
from anyio.abc import TaskGroup

from jumpstarter.actors.letters import Reply
from jumpstarter.actors.signals import loop_clock, signal_maker
from jumpstarter.errors import AskTimeout


class Deadlines:
    """Of the questions that are asked in the event loop of one service."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self._now = loop_clock()
        #: Makes what a question of this loop waits for.
        self.make_signal = signal_maker()
        #: By their seconds, in the order of their deadlines: who was asked, what, and the deadline.
        self._waiting: dict[float, dict[Reply, tuple[float, str, Any]]] = {}
        #: When the sweeper wakes up; None while there is none.
        self._wakes_at: float | None = None
        self._scope: anyio.CancelScope | None = None
        #: Whoever asks now, while the service ends, must keep its own time.
        self.is_closed = False

    def add(self, task_group: TaskGroup, reply: Reply, seconds: float, name: str, message: Any) -> None:
        """Let the reply fail when so many seconds have passed."""
        deadline = self._now() + seconds
        waiting = self._waiting.get(seconds)
        if waiting is None:
            waiting = self._waiting[seconds] = {}
        waiting[reply] = (deadline, name, message)
        if self._wakes_at is None:
            self._wakes_at = deadline
            task_group.start_soon(self._sweep, name="deadlines")
        elif deadline < self._wakes_at:
            self._wakes_at = deadline
            if self._scope is not None:
                self._scope.deadline = deadline

    def discard(self, reply: Reply, seconds: float) -> None:
        """It was answered, or nobody waits any more."""
        waiting = self._waiting.get(seconds)
        if waiting is not None:
            waiting.pop(reply, None)

    def close(self) -> None:
        """The service ends. Questions that wait are answered by the end of who was asked."""
        self.is_closed = True
        if self._scope is not None:
            self._scope.cancel()

    async def _sweep(self) -> None:
        try:
            while self._wakes_at is not None:
                with anyio.CancelScope(deadline=self._wakes_at) as self._scope:
                    await anyio.sleep_forever()
                if self._scope.cancel_called and self._now() < self._wakes_at:
                    return  # closed
                self._wakes_at = self._expire(self._now())
        finally:
            self._wakes_at = self._scope = None

    def _expire(self, now: float) -> float | None:
        """Fail what is due; answers the next deadline."""
        following: list[float] = []
        for seconds, waiting in list(self._waiting.items()):
            while waiting:
                reply, (deadline, name, message) = next(iter(waiting.items()))
                if deadline > now:
                    following.append(deadline)
                    break
                del waiting[reply]
                reply.fail(AskTimeout(name, message, seconds))
            if not waiting:
                del self._waiting[seconds]
        return min(following, default=None)

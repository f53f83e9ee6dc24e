"""A signal on trio, of its own parts: anyio's event with what it takes to be set from other threads costs 6 µs more. See: signals.

Loaded only where trio runs.
"""

from __future__ import annotations

import threading
from contextlib import suppress

import trio

current_time = trio.current_time


class TrioSignal:
    """See :class:`~jumpstarter.actors.signals.Signal`."""

    __slots__ = ("_is_set", "_task", "_thread", "_token")

    def __init__(self) -> None:
        self._is_set = False
        self._task: trio.lowlevel.Task | None = None
        self._thread = threading.get_ident()
        self._token = trio.lowlevel.current_trio_token()

    def set(self) -> None:
        """End the wait; from any thread."""
        if threading.get_ident() == self._thread:
            self._set()
        else:
            with suppress(trio.RunFinishedError):  # that loop is over: nobody waits any more
                self._token.run_sync_soon(self._set)

    def _set(self) -> None:
        self._is_set = True
        task, self._task = self._task, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    def is_set(self) -> bool:
        """Whether it was set."""
        return self._is_set

    async def wait(self) -> None:
        """Until it is set."""
        if self._is_set:
            await trio.lowlevel.checkpoint()
            return
        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._abort)

    def _abort(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

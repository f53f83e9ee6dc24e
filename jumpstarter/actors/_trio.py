"""A signal on trio, of its own parts: anyio's event with what it takes to be set from other threads costs 6 µs more. See: signals.

Loaded only where trio runs.
"""

from __future__ import annotations

from contextlib import suppress
from threading import get_ident

import trio
from trio.lowlevel import Abort, current_task, current_trio_token, reschedule, wait_task_rescheduled

current_time = trio.current_time


class TrioSignal:
    """See :class:`~jumpstarter.actors.signals.Signal`."""

    __slots__ = ("_is_set", "_task", "_thread", "_token")

    def __init__(self) -> None:
        self._is_set = False
        self._task: trio.lowlevel.Task | None = None
        self._thread = get_ident()
        self._token = current_trio_token()

    def set(self) -> None:
        """End the wait; from any thread."""
        if get_ident() == self._thread:
            self._set()
        else:
            with suppress(trio.RunFinishedError):  # that loop is over: nobody waits any more
                self._token.run_sync_soon(self._set)

    def _set(self) -> None:
        self._is_set = True
        task, self._task = self._task, None
        if task is not None:
            reschedule(task)

    def is_set(self) -> bool:
        """Whether it was set."""
        return self._is_set

    async def wait(self) -> None:
        """Until it is set."""
        if self._is_set:
            await trio.lowlevel.checkpoint()
            return
        self._task = current_task()
        await wait_task_rescheduled(self._abort)

    def renewed(self) -> TrioSignal:
        """It, not set."""
        self._is_set = False
        return self

    def _abort(self, _raise_cancel: object) -> Abort:
        self._task = None
        return Abort.SUCCEEDED

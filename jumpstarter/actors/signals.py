"""One-shot events that are cheap to make and may be set from any thread. Used by: letters, desk, phases.

On asyncio a signal is a future, because anyio's event takes 1 µs to make and 0.9 KB to hold, which is a third of what a question
costs and a tenth of an idle actor.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Protocol

import anyio

from jumpstarter.actors.threads import Doorbell


class Signal(Protocol):
    """An event to wait for in the loop it was made in, once and by one task, and to be set from any thread."""

    def set(self) -> None:
        """End the wait."""

    def is_set(self) -> bool:
        """Whether it was set, as its own loop sees it."""

    async def wait(self) -> None:
        """Until it is set."""


class _FutureSignal:
    """On asyncio."""

    __slots__ = ("_future", "_thread")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._future: asyncio.Future[None] = loop.create_future()
        self._thread = threading.get_ident()

    def set(self) -> None:
        if threading.get_ident() == self._thread:
            self._set()
        else:
            try:
                self._future.get_loop().call_soon_threadsafe(self._set)
            except RuntimeError:  # that loop is closed: nobody waits any more
                return

    def _set(self) -> None:
        if not self._future.done():
            self._future.set_result(None)

    def is_set(self) -> bool:
        return self._future.done() and not self._future.cancelled()

    async def wait(self) -> None:
        await self._future


class _EventSignal:
    """On trio."""

    __slots__ = ("_doorbell", "_event", "_thread")

    def __init__(self) -> None:
        self._event = anyio.Event()
        self._thread = threading.get_ident()
        self._doorbell = Doorbell()

    def set(self) -> None:
        if threading.get_ident() == self._thread:
            self._event.set()
        else:
            self._doorbell.ring(self._event.set)

    def is_set(self) -> bool:
        return self._event.is_set()

    async def wait(self) -> None:
        await self._event.wait()


def make_signal() -> Signal:
    """For the loop that runs."""
    loop = asyncio._get_running_loop()
    # With trio as asyncio's guest there is a running loop, but no task of it.
    if loop is not None and asyncio.current_task(loop) is not None:
        return _FutureSignal(loop)
    return _EventSignal()

"""One-shot events that are cheap to make and may be set from any thread. Used by: letters, desk, phases.

On asyncio a signal is a future, because anyio's event takes 1 µs to make and 0.9 KB to hold, which is a third of what a question
costs and a tenth of an idle actor; on trio it is made of trio's own parts for the same reason.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import cache, partial
from types import ModuleType
from typing import Protocol


class Signal(Protocol):
    """An event to wait for in the loop it was made in, once and by one task, and to be set from any thread."""

    def set(self) -> None:
        """End the wait."""

    def is_set(self) -> bool:
        """Whether it was set, as its own loop sees it."""

    async def wait(self) -> None:
        """Until it is set."""

    def renewed(self) -> Signal:
        """One that is not set, for the same loop. The old one is not used any more; setting it may set the new one."""


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

    def renewed(self) -> Signal:
        return _FutureSignal(self._future.get_loop())


def make_signal() -> Signal:
    """For the loop that runs."""
    return signal_maker()()


def signal_maker() -> Callable[[], Signal]:
    """What makes signals for the loop that runs, for who makes many."""
    loop = _asyncio_loop()
    return partial(_FutureSignal, loop) if loop is not None else _trio().TrioSignal


def loop_clock() -> Callable[[], float]:
    """What tells the time of the loop that runs, for a third of what ``anyio.current_time`` costs."""
    loop = _asyncio_loop()
    return loop.time if loop is not None else _trio().current_time


def _asyncio_loop() -> asyncio.AbstractEventLoop | None:
    loop = asyncio._get_running_loop()
    # With trio as asyncio's guest there is a running loop, but no task of it.
    return loop if loop is not None and asyncio.current_task(loop) is not None else None


@cache
def _trio() -> ModuleType:
    from jumpstarter.actors import _trio  # noqa: PLC0415 - trio is there where it runs, and only there

    return _trio

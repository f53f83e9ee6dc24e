"""The clock that budgets, leases and loops share, and the way from a loop to a store that blocks. Knows: clock.

A store is called in a thread, so that it works on asyncio and on trio and never blocks the loop: one hop for a whole batch to look
at the budget, one to claim, one to take from the budget, one to settle, however many rows it has. With a clock that was injected it
is called in the loop's own thread: virtual time would jump while the loop waits for a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar, TypeVarTuple

import anyio.to_thread
from anyio.lowlevel import checkpoint

from jumpstarter.clock import SYSTEM_CLOCK, Clock

T = TypeVar("T")
Args = TypeVarTuple("Args")

_injected: list[Clock] = []


def clock() -> Clock:
    """The one in use."""
    return _injected[-1] if _injected else SYSTEM_CLOCK


def injected_now() -> float | None:
    """The wall time of an injected clock; None where the machine's own is used, or the server's."""
    return _injected[-1].now() if _injected else None


@contextmanager
def shared_clock(clock: Clock) -> Iterator[Clock]:
    """Have all budgets, leases and loops of this process use this clock meanwhile. For tests.

    With :class:`jumpstarter.testing.LoopClock` in a loop with virtual time, a day's budget is used up in milliseconds.
    """
    _injected.append(clock)
    try:
        yield clock
    finally:
        _injected.remove(clock)


async def hop(function: Callable[[*Args], T], *args: *Args, is_quick: bool = False) -> T:
    """Call what may block, in a thread. Not interrupted by a cancellation: what it does is done.

    :param is_quick: it does not block, so that it needs no thread.
    """
    if is_quick or _injected:
        await checkpoint()
        return function(*args)
    return await anyio.to_thread.run_sync(lambda: function(*args))


def is_injected() -> bool:
    """Whether a test has set the clock: then nothing may run in a thread."""
    return bool(_injected)

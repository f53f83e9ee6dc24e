"""Virtual time: tests in which a day's sleep takes no time at all. For loops of asyncio and trio, and for code that asks a clock.

When nothing is ready to run and somebody sleeps, the time jumps to the earliest deadline. Time stands still otherwise, so a
test knows to the second when things happen. Threads are outside of it: while the loop only waits for a thread, time jumps as well
and timeouts strike at once; tests with threads use real time, or a threshold.
"""

from __future__ import annotations

import asyncio
import functools
import selectors
from typing import Any, Literal

import anyio

from jumpstarter.errors import ConfigurationError

#: Wall time at which virtual time begins: 2030-01-01 00:00 UTC. Any moment would do, as long as it is always the same.
EPOCH = 1_893_456_000.0


class _JumpingSelector(selectors.DefaultSelector):
    """Where asyncio waits. Instead of waiting for a timer, it moves the time on."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.now = 0.0
        self._threshold = threshold

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready; if nothing is (for ``threshold`` real seconds), ``timeout`` virtual seconds have passed."""
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        ready = super().select(self._threshold)
        if not ready:
            self.now += timeout
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An asyncio loop whose ``time()`` begins at 0 and jumps to the next timer when nothing is ready.

    :param threshold: real seconds to wait for files and threads before it jumps.
    """

    def __init__(self, threshold: float = 0.0) -> None:
        self._virtual = _JumpingSelector(threshold)
        super().__init__(self._virtual)
        # asyncio runs what is due before time() + resolution. The 1 ns of the real clock is lost in rounding after 97 days, and it
        # would look for ever at a timer that is due now. See test_years_pass_in_no_time.
        self._clock_resolution = 1e-6

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._virtual.now


def virtual_backend(name: Literal["asyncio", "trio"], *, threshold: float = 0.0) -> tuple[str, dict[str, Any]]:
    """Backend and options with virtual time, as anyio's ``anyio_backend`` fixture returns them. For one run each: do not share it.

    As arguments of ``anyio.run``: ``anyio.run(main, backend=name, backend_options=options)``.

    :param threshold: real seconds without anything to do after which the time jumps.
    :raises ConfigurationError: trio is wanted and not installed.
    """
    if name == "asyncio":
        return name, {"loop_factory": functools.partial(VirtualTimeLoop, threshold)}
    try:
        import trio.testing  # noqa: PLC0415 - an extra
    except ImportError:
        raise ConfigurationError("trio is not installed: pip install 'celery-jumpstarter[trio]'") from None

    return name, {"clock": trio.testing.MockClock(autojump_threshold=threshold)}


class LoopClock:
    """A :class:`~jumpstarter.clock.Clock` that shows the time of the running event loop, so both jump together."""

    def now(self) -> float:
        """Wall time in seconds: :data:`EPOCH` when the loop's time is 0."""
        return EPOCH + anyio.current_time()

    def monotonic(self) -> float:
        """The loop's time in seconds."""
        return anyio.current_time()


class ManualClock:
    """A :class:`~jumpstarter.clock.Clock` that a test sets itself, for code without an event loop."""

    def __init__(self, now: float = EPOCH) -> None:
        self._now = now
        self._monotonic = 0.0

    def now(self) -> float:
        """Wall time in seconds."""
        return self._now

    def monotonic(self) -> float:
        """Seconds that :meth:`advance` has added up."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        if seconds < 0:
            raise ValueError(f"time cannot go back by {-seconds} s; set the wall clock with set_wall()")
        self._now += seconds
        self._monotonic += seconds

    def set_wall(self, now: float) -> None:
        """Set the wall clock, forward or back, as an administrator does. Monotonic time goes on as before."""
        self._now = now

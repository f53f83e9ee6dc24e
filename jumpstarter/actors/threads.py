"""Threads beside the event loop: a way into the loop from anywhere, and a thread that runs calls one after the other.

Used by: host (wake-ups), resources (``thread="own"``), and by whoever must make, use and close something in one thread:
sqlite3 connections, CUDA contexts, COM objects.
"""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Generic, TypeVar, TypeVarTuple

import anyio
from anyio.lowlevel import current_token

from jumpstarter.errors import ActorError

logger = logging.getLogger(__name__)

T = TypeVar("T")
Args = TypeVarTuple("Args")


class Doorbell:
    """Calls functions in the event loop that it was made in; from any thread, and from a signal handler."""

    __slots__ = ("_call_soon",)

    def __init__(self) -> None:
        token: Any = current_token().native_token
        # asyncio's loop and trio's token name the same thing differently. Both may be called from a signal handler.
        self._call_soon: Callable[[Callable[[], object]], object] = (
            token.call_soon_threadsafe if hasattr(token, "call_soon_threadsafe") else token.run_sync_soon
        )

    def ring(self, function: Callable[[], object]) -> bool:
        """Have ``function`` called in the loop soon. False when that loop has ended."""
        try:
            self._call_soon(function)
        except RuntimeError:  # asyncio: the loop is closed; trio: RunFinishedError
            return False
        return True


class _Call(Generic[T]):
    """One call on its way through a thread: waiting → running → done, and perhaps abandoned on the way."""

    __slots__ = (
        "_abandoned",
        "_context",
        "_doorbell",
        "_function",
        "_lock",
        "_must_run",
        "_on_abandoned",
        "done",
        "error",
        "finished",
        "result",
    )

    def __init__(self, function: Callable[[], T], on_abandoned: Callable[[T], object] | None, *, must_run: bool) -> None:
        self._function = function
        self._must_run = must_run
        self._on_abandoned = on_abandoned
        self._context = contextvars.copy_context()
        self._doorbell = Doorbell()
        self._lock = threading.Lock()
        self._abandoned = False
        self.finished = anyio.Event()
        self.done = False
        self.result: T
        self.error: BaseException | None = None

    def run(self) -> None:
        """In the thread: make the call, unless nobody waits for it any more."""
        if self._abandoned and not self._must_run:
            return
        try:
            self.result = self._context.run(self._function)
        except BaseException as error:  # noqa: BLE001 - it belongs to the caller, who waits in another thread for whatever ends this
            self.error = error
        with self._lock:
            self.done = True
            was_abandoned = self._abandoned
        if was_abandoned:
            self.hand_over()
        else:
            self._doorbell.ring(self.finished.set)

    def abandon(self) -> bool:
        """In the loop: nobody waits any more. True when the call had ended, so that its result is still to be handed over."""
        with self._lock:
            self._abandoned = True
            return self.done

    def hand_over(self) -> None:
        """In the thread: give the result that nobody waited for to the callback."""
        if self.error is not None:
            logger.warning("an abandoned call failed", exc_info=self.error)
        elif self._on_abandoned is not None:
            try:
                self._on_abandoned(self.result)
            except Exception:
                logger.exception("the callback for an abandoned call failed")

    def outcome(self) -> T:
        """In the loop, once finished: the result, or what the call raised."""
        if self.error is None:
            return self.result
        try:
            raise self.error
        finally:
            self.error = None  # the traceback refers to this frame: a cycle that would keep the caller's variables alive


class DedicatedThread:
    """One named thread that runs the calls given to it, one after the other, in order.

    It starts with the first call. It is no daemon: whoever makes one stops it, or the interpreter waits for it at exit.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._queue: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._stopped = False

    async def run(
        self,
        function: Callable[[*Args], T],
        *args: *Args,
        abandoned: Callable[[T], object] | None = None,
        must_run: bool = False,
    ) -> T:
        """Call ``function(*args)`` in the thread and return its result, from asyncio or trio. Context variables go with it.

        Cancelling does not interrupt a function that runs: it goes on, and what it returns is given to ``abandoned`` (in the
        thread), so that for example a connection that nobody waits for is closed. A call that has not begun is dropped, unless it
        ``must_run``.

        :raises ActorError: when the thread was stopped.
        """
        call: _Call[T] = _Call(lambda: function(*args), abandoned, must_run=must_run)
        self._put(call.run)
        try:
            await call.finished.wait()
        except anyio.get_cancelled_exc_class():
            if call.abandon():
                self._put_last_will(call)
            raise
        return call.outcome()

    def submit(self, function: Callable[[], object]) -> None:
        """Have ``function`` called in the thread and forget about it; what it raises is logged. Never blocks."""
        self._put(function)

    def stop(self, timeout: float | None = None) -> bool:
        """Run what was submitted, end the thread and join it, for at most ``timeout`` seconds. True when it ended. Blocks.

        May be called again; from the thread itself it only asks it to end.
        """
        with self._lock:
            if not self._stopped:
                self._stopped = True
                self._queue.put(None)
            thread = self._thread
        if thread is None or thread is threading.current_thread():
            return True
        thread.join(timeout)
        return not thread.is_alive()

    async def aclose(self) -> None:
        """As :meth:`stop`, without blocking the event loop while calls that were submitted before still run."""
        with self._lock:
            is_running = self._thread is not None and not self._stopped
        if is_running:
            await self.run(_nothing)
        self.stop()

    def _put(self, function: Callable[[], object]) -> None:
        with self._lock:
            if self._stopped:
                raise ActorError(f"thread {self.name!r} was stopped: nothing can run in it any more")
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=self.name, daemon=False)
                self._thread.start()
            self._queue.put(function)

    def _put_last_will(self, call: _Call[T]) -> None:
        with self._lock:
            if not self._stopped:
                self._queue.put(call.hand_over)
                return
        call.hand_over()  # the thread has ended, so nothing else can use what it made

    def _work(self) -> None:
        while (function := self._queue.get()) is not None:
            try:
                function()
            except Exception:
                logger.exception("a call submitted to thread %r failed", self.name)
            del function  # or the last call's arguments would live until the next call


def _nothing() -> None:
    """The call that is made to learn that every call before it has ended."""

"""A thread that calls functions when their time has come, by Celery's name. Nothing of Jumpstarter's uses it; programs do.

The order of what is due is kombu's (:class:`Schedule`); the thread sleeps until the first is.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from time import sleep
from typing import Any

from kombu.asynchronous.timer import Entry, logger, to_timestamp
from kombu.asynchronous.timer import Timer as Schedule

__all__ = ("Entry", "Schedule", "Timer", "to_timestamp")

#: Seconds between looks into an empty schedule, unless something is entered before.
_IDLE = 1.0

_numbers = count(1)


class Timer(threading.Thread):
    """A thread that works off a schedule. It starts when something is entered.

    :param schedule: what is due when; a new one if None.
    :param on_error: called with what an entry raised.
    :param on_tick: called with the seconds of every sleep, before it.
    :param on_start: called with the timer when it starts.
    :param max_interval: seconds that it sleeps at most.
    """

    Entry = Entry
    Schedule = Schedule

    running: bool = False
    on_tick: Callable[[float], None] | None = None

    def __init__(
        self,
        schedule: Any = None,
        on_error: Callable[[Exception], None] | None = None,
        on_tick: Callable[[float], None] | None = None,
        on_start: Callable[[Timer], None] | None = None,
        max_interval: float | None = None,
        **kwargs: Any,  # noqa: ARG002 - Celery's signature
    ) -> None:
        super().__init__(name=f"Timer-{next(_numbers)}", daemon=True)
        # An empty schedule is false.
        self.schedule = self.Schedule(on_error=on_error, max_interval=max_interval) if schedule is None else schedule
        self.on_start = on_start
        self.on_tick = on_tick or self.on_tick
        # Mangled: Thread has attributes of such names.
        self.__is_shutdown = threading.Event()
        self.__is_stopped = threading.Event()
        self.mutex = threading.Lock()
        self.not_empty = threading.Condition(self.mutex)

    def _next_entry(self) -> float | None:
        with self.not_empty:
            delay, entry = next(self._due)
            if entry is None:
                if delay is None:
                    self.not_empty.wait(_IDLE)
                return delay  # type: ignore[no-any-return] # kombu's
        self.schedule.apply_entry(entry)
        return None

    next = __next__ = _next_entry

    def run(self) -> None:
        """Work off the schedule until :meth:`stop`. An error of the schedule itself ends the process: what is due would never
        be done, and nobody would know."""
        try:
            self.running = True
            self._due = iter(self.schedule)
            while not self.__is_shutdown.is_set():
                delay = self._next_entry()
                if delay:
                    if self.on_tick:
                        self.on_tick(delay)
                    sleep(delay)
            with suppress(TypeError):  # the interpreter is going down, and took the event's parts already
                self.__is_stopped.set()
        except Exception:  # noqa: BLE001 - logged, and ends the process
            logger.exception("a timer's thread crashed")
            sys.stderr.flush()
            os._exit(1)

    def stop(self) -> None:
        """Call nothing any more; returns when the thread has ended."""
        self.__is_shutdown.set()
        if self.running:
            self.__is_stopped.wait()
            self.join(threading.TIMEOUT_MAX)
            self.running = False

    def ensure_started(self) -> None:
        """Start the thread unless it runs."""
        if not self.running and not self.is_alive():
            if self.on_start:
                self.on_start(self)
            self.start()

    def _do_enter(self, method: str, *args: Any, **kwargs: Any) -> Any:
        self.ensure_started()
        with self.mutex:
            entry = getattr(self.schedule, method)(*args, **kwargs)
            self.not_empty.notify()
            return entry

    def enter(self, entry: Any, eta: Any, priority: int | None = None) -> Any:
        """Call an entry at a time."""
        return self._do_enter("enter_at", entry, eta, priority=priority)

    def call_at(self, *args: Any, **kwargs: Any) -> Any:
        """``call_at(eta, fun, args=(), kwargs={}, priority=0)``."""
        return self._do_enter("call_at", *args, **kwargs)

    def enter_after(self, *args: Any, **kwargs: Any) -> Any:
        """``enter_after(secs, entry, priority=0)``."""
        return self._do_enter("enter_after", *args, **kwargs)

    def call_after(self, *args: Any, **kwargs: Any) -> Any:
        """``call_after(secs, fun, args=(), kwargs={}, priority=0)``."""
        return self._do_enter("call_after", *args, **kwargs)

    def call_repeatedly(self, *args: Any, **kwargs: Any) -> Any:
        """``call_repeatedly(secs, fun, args=(), kwargs={}, priority=0)``."""
        return self._do_enter("call_repeatedly", *args, **kwargs)

    def exit_after(self, secs: float, priority: int = 10) -> None:
        """End the program in so many seconds."""
        self.call_after(secs, sys.exit, priority)

    def cancel(self, tref: Any) -> None:
        """Do not call this entry."""
        tref.cancel()

    def clear(self) -> None:
        """Forget all entries."""
        self.schedule.clear()

    def empty(self) -> bool:
        """Whether nothing is due, now or ever."""
        return not len(self)

    @property
    def queue(self) -> Any:
        """The entries, the next one first."""
        return self.schedule.queue

    def __len__(self) -> int:
        return len(self.schedule)

    def __bool__(self) -> bool:
        return True

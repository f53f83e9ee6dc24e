"""One bus for everything that happens to machines: who makes a step tells it, who wants to see steps subscribes.

Comes from: actors (every step of a chart). Goes to: :mod:`jumpstarter.telemetry.observer` (OpenTelemetry),
:mod:`jumpstarter.telemetry.log`, the inspector, tests. Nothing here knows OpenTelemetry, so an idle bus costs one attribute.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

logger = logging.getLogger(__name__)

Severity = Literal["info", "warning", "error"]

_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class StateTransition:
    """One transition of one machine.

    :ivar machine: the name of the instance, for example ``worker@host/child-1``. Never a metric's attribute (there are many).
    :ivar kind: the class of the machine, for example ``Worker``.
    :ivar region: the parallel part it happened in; the empty string is the machine's own life (starting, started, stopping …),
        ``resources.db`` the life of its resource ``db``.
    :ivar source: the path of the state that was left; empty for the initial state.
    :ivar target: the path of the state that was entered; equal to ``source`` for an internal transition.
    :ivar trigger: the event; empty for an eventless transition.
    :ivar time: wall time in seconds at which the step ended.
    :ivar severity: ``warning`` for degraded, ``error`` for unhealthy and crashed, else ``info``.
    :ivar detail: one sentence for people, for example the reason of a failure.
    :ivar attributes: more facts. ``duration``: for how many seconds the machine was in ``source``, where that is known.
    """

    machine: str
    kind: str
    region: str
    source: str
    target: str
    trigger: str
    time: float
    severity: Severity = "info"
    detail: str = ""
    attributes: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)


Subscriber = Callable[[StateTransition], None]


@dataclass(slots=True, eq=False)
class _Subscription:
    call: Subscriber
    has_failed: bool = False


class Bus:
    """Hands each transition to every subscriber, in the emitting thread. Thread-safe and fork-safe.

    :ivar active: False while nobody listens. Callers ask before they build an event: ``if bus.active: bus.emit(...)``.
    """

    __slots__ = ("_lock", "_subscriptions", "active")

    def __init__(self) -> None:
        self.active = False
        self._subscriptions: tuple[_Subscription, ...] = ()
        self._lock = threading.Lock()

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call ``subscriber`` with every transition from now on, until the returned function is called (once or more often).

        A subscriber runs in the actor's own task: it must be quick and may not block. What it raises is logged once and never
        reaches the actor.
        """
        subscription = _Subscription(subscriber)
        with self._lock:
            self._set((*self._subscriptions, subscription))

        def unsubscribe() -> None:
            with self._lock:
                self._set(tuple(each for each in self._subscriptions if each is not subscription))

        return unsubscribe

    def emit(self, event: StateTransition) -> None:
        """Tell every subscriber."""
        for subscription in self._subscriptions:
            try:
                subscription.call(event)
            except Exception as error:
                if not subscription.has_failed:
                    subscription.has_failed = True
                    logger.warning("a subscriber of state transitions failed (said once): %r", subscription.call, exc_info=error)

    def _set(self, subscriptions: tuple[_Subscription, ...]) -> None:
        # A new tuple each time, so that emit() needs no lock: it goes through the one that it took.
        self._subscriptions = subscriptions
        self.active = bool(subscriptions)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()


#: The bus of this process.
bus = Bus()

if hasattr(os, "register_at_fork"):
    # Another thread may hold the lock at the moment of the fork; in the child nobody would ever release it.
    os.register_at_fork(after_in_child=bus._after_fork)

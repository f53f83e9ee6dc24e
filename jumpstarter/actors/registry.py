"""Which actors this process runs: those that are nobody's child, and who wants to know of spawned and stopped ones.

Told by: service, host. Asked by: inspection. Fork-safe in that a child process, which runs none of them, begins with nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from jumpstarter.actors.host import Host

Happening = Literal["spawned", "stopped"]
Subscriber = Callable[[Happening, "Host"], object]


class Registry:
    """Of one process. From any thread."""

    def __init__(self) -> None:
        self._roots: dict[Host, None] = {}
        self._subscribers: tuple[Subscriber, ...] = ()

    @property
    def roots(self) -> tuple[Host, ...]:
        """The hosts that are served and are nobody's child, the oldest first."""
        return tuple(self._roots)

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call it when an actor begins or ends to be run, in the loop that runs it, until the returned function is called."""
        self._subscribers = (*self._subscribers, subscriber)

        def unsubscribe() -> None:
            self._subscribers = tuple(each for each in self._subscribers if each is not subscriber)

        return unsubscribe

    def spawned(self, host: Host, *, is_root: bool) -> None:
        """It is served from now on."""
        if is_root:
            self._roots[host] = None
        for subscriber in self._subscribers:
            subscriber("spawned", host)

    def stopped(self, host: Host) -> None:
        """It is served no more."""
        self._roots.pop(host, None)
        for subscriber in self._subscribers:
            subscriber("stopped", host)

    def forget(self) -> None:
        """In a forked child."""
        self._roots = {}
        self._subscribers = ()


registry = Registry()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=registry.forget)

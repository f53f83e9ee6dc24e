"""A bell that any thread may ring and one task of the loop waits for."""

from __future__ import annotations

import anyio

from jumpstarter.actors.threads import Doorbell


class Bell:
    """Rings are not counted: however many come before the task looks, it wakes once. A ring costs 0.1 µs while one is pending."""

    def __init__(self) -> None:
        self._doorbell: Doorbell | None = None
        self._event: anyio.Event | None = None
        self._is_rung = False

    def open(self) -> None:
        """Belong to the loop that runs in this thread. Rings before that wake nobody."""
        self._event = anyio.Event()
        self._doorbell = Doorbell()

    def ring(self) -> None:
        """Wake the task that waits, or the next one that does. From any thread."""
        if self._is_rung or self._doorbell is None:
            return
        self._is_rung = True
        self._doorbell.ring(self._wake)

    async def wait(self) -> None:
        """Return at once when it was rung since the last time, else when it is."""
        assert self._event is not None, "open() comes first"
        await self._event.wait()
        self._event = anyio.Event()

    def _wake(self) -> None:
        # Cleared before the event is set: a ring from here on is a new one, and the task will look after it.
        self._is_rung = False
        if self._event is not None:
            self._event.set()

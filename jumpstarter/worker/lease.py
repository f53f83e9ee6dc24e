"""The lease keeper: renews the leases of a node's children, returns what dead nodes held, and promotes parked messages.

In a thread of the node's process, where no user code runs: a C call that holds a child's GIL for a minute must not cost it its
claims.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from typing import Final, Self

from jumpstarter.abc.broker import Broker
from jumpstarter.clock import SYSTEM_CLOCK, Clock
from jumpstarter.errors import BrokerUnavailable
from jumpstarter.worker.settle import OnTrouble

logger = logging.getLogger(__name__)

_LONGEST_PAUSE: Final = (
    1.0  # seconds between two looks at the parked messages: they are at most so late, and an idle node that quiet
)


class LeaseKeeper:
    """Use as a context manager. ``incarnations`` is asked anew each time, from the keeper's thread."""

    def __init__(
        self,
        broker: Broker,
        lease: float,
        incarnations: Callable[[], Iterable[str]],
        *,
        on_trouble: OnTrouble,
        every: float | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """:param lease: seconds.
        :param every: seconds between two renewals; a third of the lease if not given.
        """
        self._clock = clock
        self._renew_at = 0.0
        self._troubled = False
        self._broker = broker
        self._lease = lease
        self._every = every or lease / 3
        self._incarnations = incarnations
        self._on_trouble = on_trouble
        self._rung = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, name="lease keeper", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping = True
        self._rung.set()
        self._thread.join()

    def look(self) -> None:
        """Look at the parked messages now: one may be due sooner than all those known so far."""
        self._rung.set()

    def _serve(self) -> None:
        while not self._stopping:
            self._rung.wait(self.turn())
            self._rung.clear()

    def turn(self) -> float:
        """Renew the leases if it is time to, and give back what is over; answer after how many seconds to do so again."""
        pause = min(_LONGEST_PAUSE, self._every)
        try:
            if self._clock.monotonic() >= self._renew_at:
                self._broker.renew(list(self._incarnations()), self._lease)
                self._renew_at = self._clock.monotonic() + self._every
            reaped = self._broker.reap()
        except Exception as error:
            self._troubled = True
            self._on_trouble(error)
            if not isinstance(error, BrokerUnavailable):
                logger.exception("the lease keeper goes on after an error")
            return pause
        if self._troubled:
            self._troubled = False
            self._on_trouble(None)
        if reaped.returned:
            logger.warning("returned %d message(s) of workers that fell silent", reaped.returned)
        return pause if reaped.next_due is None else min(pause, max(reaped.next_due, 0.001))

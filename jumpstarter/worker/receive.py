"""Receive: claim messages as capacity allows, and wait for more without polling. Comes from: the broker. Goes to: admit."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence

from jumpstarter.abc.broker import Broker
from jumpstarter.errors import BrokerUnavailable
from jumpstarter.jobs import Delivery
from jumpstarter.telemetry import tracing
from jumpstarter.worker.capacity import Claim
from jumpstarter.worker.options import WorkerOptions


class Receiver:
    """Claims for one incarnation. :meth:`receive` blocks: it belongs on a thread of its own."""

    def __init__(self, broker: Broker, incarnation: str, options: WorkerOptions) -> None:
        self._broker = broker
        self._incarnation = incarnation
        self._options = options
        #: Messages may be on their way here: call :meth:`rest` when none will be claimed for a while.
        self.listens = False
        #: It waits for some of the queues: there is no room for what the others bring. :meth:`widen` when there is.
        self.waits_for_some = False
        #: The last claim brought all that there was.
        self.is_drained = False

    def receive(self, room: Callable[[], Sequence[Claim]], ended: threading.Event) -> list[Delivery]:
        """Claim as many messages as there is room for; when there are none, wait for some.

        :param room: what may be claimed now.
        :param ended: set by whoever lost interest (see :meth:`interrupt`).
        :returns: nothing when it was interrupted, or when the last room is gone.
        :raises BrokerUnavailable: the server does not answer.
        """
        while not ended.is_set() and (claims := room()):
            for claim in () if self.is_drained else claims:
                deliveries = self._claim(claim)
                if deliveries:
                    # Then there is nothing more, and the next thing to do is to wait, which ends at once should there be.
                    self.is_drained = len(deliveries) < claim.limit and len(claims) == 1
                    return deliveries
            self.is_drained = False
            queues = _widest(claims)
            # Told before the room is looked at again: a slot that turns idle in between either is seen there, or wakes us.
            self.waits_for_some = len(queues) < len(self._options.queues)
            if self.waits_for_some and len(_widest(room())) > len(queues):
                continue
            self.listens = True
            self._broker.wait(queues, self._options.idle, incarnation=self._incarnation)
            self.waits_for_some = False
        return []

    def _claim(self, claim: Claim) -> list[Delivery]:
        started = time.monotonic()
        deliveries = self._broker.claim(claim.queues, claim.limit, incarnation=self._incarnation, lease=self._options.lease)
        if deliveries and tracing.enabled:
            self._trace(deliveries, time.monotonic() - started)
        return deliveries

    def widen(self) -> None:
        """There is room for more: look which queues to wait for. From any thread."""
        if self.waits_for_some:
            self.waits_for_some = False
            self._broker.wake()

    def rest(self) -> None:
        """Let others have what arrives now. Blocks, as :meth:`receive`."""
        self.listens = False
        with contextlib.suppress(BrokerUnavailable):  # the next claim will say so, too
            self._broker.rest(incarnation=self._incarnation)

    def interrupt(self, ended: threading.Event) -> None:
        """End a :meth:`receive` that may be waiting in another thread. An event per call, so that a call which was given up cannot
        take the next one's permission to go on for its own."""
        ended.set()
        self._broker.wake()

    def _trace(self, deliveries: list[Delivery], seconds: float) -> None:
        headers = [delivery.envelope.headers for delivery in deliveries if delivery.envelope is not None]
        tracing.received(deliveries[0].queue, headers, url=self._broker.url, count=len(deliveries), seconds=seconds)


def _widest(claims: Sequence[Claim]) -> Sequence[str]:
    return max((claim.queues for claim in claims), key=len, default=())

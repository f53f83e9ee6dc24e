"""A connection for publishing: everything is confirmed by the server, and comes back when no queue takes it. No thread of its own.

Comes from: the broker. Goes to: a link.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from jumpstarter.brokers.kombu import wire
from jumpstarter.brokers.kombu.link import WORK, Address, Link
from jumpstarter.errors import BrokerError, BrokerUnavailable, PublishTimeout, QueueNotFound


@dataclass(frozen=True, slots=True)
class Parcel:
    """A message that is ready to be sent.

    :ivar queue: where it is meant to arrive.
    """

    queue: str
    exchange: str
    routing_key: str
    properties: bytes
    body: bytes


class Publisher:
    """One at a time uses it. Also for declarations and for looking at queues.

    :raises BrokerUnavailable: the server cannot be reached.
    """

    def __init__(self, address: Address, *, timeout: float) -> None:
        self._url = address.url
        self._numbers = 0
        self._unconfirmed: dict[int, str] = {}
        self._refused = ""
        self._returned: list[wire.Message] = []
        # No heartbeat: nobody would send it while the program does other things.
        self.link = Link(address, timeout=timeout, heartbeat=0, on_message=self._returned.append, on_method=self._on_method)
        self.link.call(WORK, [wire.method(WORK, wire.CONFIRM_SELECT, b"\0")], wire.CONFIRM_SELECT_OK)

    def _on_method(self, number: int, arguments: bytes) -> None:
        if number in {wire.BASIC_ACK, wire.BASIC_NACK}:
            last, multiple = wire.read_confirm(arguments)
            queue = self._unconfirmed.pop(last, "")
            if number == wire.BASIC_NACK and queue:
                self._refused = queue
            if multiple:
                self._confirm_until(last, refused=number == wire.BASIC_NACK)

    def _confirm_until(self, last: int, *, refused: bool) -> None:
        while self._unconfirmed and (first := next(iter(self._unconfirmed))) <= last:
            queue = self._unconfirmed.pop(first)
            if refused:
                self._refused = queue

    @property
    def is_usable(self) -> bool:
        """False when the connection is found to be gone."""
        self.link.look()
        return self.link.failure is None

    def publish(self, parcels: Sequence[Parcel], deadline: float) -> None:
        """Send them all and wait until the server has them.

        :param deadline: monotonic seconds.
        :raises PublishTimeout: it has not until then.
        :raises QueueNotFound: no queue took one of them; the others are sent.
        :raises BrokerError: a queue refused one of them (it is full); the others are sent.
        :raises BrokerUnavailable: the connection was lost; nobody knows what arrived.
        """
        link = self.link
        if link.blocked and not link.pump(lambda: not link.blocked, deadline):
            raise PublishTimeout(self._url, f"nothing was sent: the server blocks publishers ({link.blocked})")
        with link.cond:
            self._refused = ""
            self._returned.clear()
            frames = []
            for parcel in parcels:
                self._numbers += 1
                self._unconfirmed[self._numbers] = parcel.queue
                frames.append(wire.publish(WORK, parcel.exchange, parcel.routing_key))
                frames.append(wire.content(WORK, parcel.properties, parcel.body, link.frame_max))
            link.send(*frames)
        if not link.pump(lambda: not self._unconfirmed, deadline):
            raise self._late(deadline)
        self._check(parcels)

    def _late(self, deadline: float) -> BrokerError:
        if self.link.blocked:
            # The connection stays: the server does not look at it now, and would notice no end either.
            self._unconfirmed.clear()
            return PublishTimeout(self._url, f"the server blocks publishers ({self.link.blocked})")
        error = PublishTimeout(self._url, f"no confirmation until {max(0.0, time.monotonic() - deadline):.3g} s after the deadline")
        self.link.fail(BrokerUnavailable(self._url, "a confirmation is late"))
        return error

    def _check(self, parcels: Sequence[Parcel]) -> None:
        if self._returned:
            message = self._returned[0]
            queues = {(parcel.exchange, parcel.routing_key): parcel.queue for parcel in parcels}
            queue = queues.get((message.exchange, message.routing_key), message.routing_key)
            raise QueueNotFound(queue, f"no queue takes what exchange {message.exchange!r} gets for {message.routing_key!r}")
        if self._refused:
            raise BrokerError(f"queue {self._refused!r} refuses messages (it is full, or its server is not there)")

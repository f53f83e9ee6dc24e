"""A connection for publishing: everything is confirmed by the server, and comes back when no queue takes it. No thread of its own.

Comes from: the broker. Goes to: a link.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

from jumpstarter.brokers.kombu import wire
from jumpstarter.brokers.kombu.link import DECLARATIONS, WORK, Address, Link
from jumpstarter.errors import BrokerError, BrokerUnavailable, PublishTimeout, PublishUnconfirmed, QueueNotFound


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
    mandatory: bool = True


class Publisher:
    """One at a time uses it. Also for declarations and for looking at queues.

    :param timeout: seconds for an answer. :param within: seconds for the connection.
    :raises BrokerUnavailable: the server cannot be reached.
    """

    def __init__(self, address: Address, *, timeout: float, within: float) -> None:
        self._url = address.url
        self._numbers = 0
        self._unconfirmed: dict[int, str] = {}
        self._refused = ""
        self._is_welcome = False
        self._returned: list[wire.Message] = []
        # No heartbeat: nobody would send it while the program does other things.
        self.link = Link(
            address, timeout=timeout, heartbeat=0, on_message=self._returned.append, on_method=self._on_method, within=within
        )
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

    def is_usable(self, *, stale: float, within: float) -> bool:
        """False when the connection is found to be gone.

        :param stale: seconds of idleness after which the server has to prove that it is there, ``within`` so many seconds. An idle
            connection may be gone and nobody tells; a message that is sent on it would be in doubt.
        """
        link = self.link
        link.look()
        if link.failure is None and not link.blocked and time.monotonic() - link.heard > stale:
            self._is_welcome = False
            with link.until(time.monotonic() + within), contextlib.suppress(BrokerError):
                link.ask(wire.qos(DECLARATIONS, 0), wire.BASIC_QOS_OK)
        return link.failure is None

    def publish(self, parcels: Sequence[Parcel], deadline: float) -> None:
        """Send them all and wait until the server has them.

        :param deadline: monotonic seconds.
        :raises BrokerUnavailable: nothing was sent.
        :raises PublishTimeout: it has not until then.
        :raises PublishUnconfirmed: the connection was lost; nobody knows what arrived.
        :raises QueueNotFound: no queue took one of them; the others are sent.
        :raises BrokerError: a queue refused one of them (it is full); the others are sent.
        """
        link = self.link
        if link.blocked and not link.pump(lambda: not link.blocked, deadline):
            raise self._blocked()
        with link.cond:
            self._refused = ""
            self._returned.clear()
            frames = [part for parcel in parcels for part in self._frames(parcel)]
        if not self._is_welcome:
            self._knock(frames)
        self._send(frames)
        try:
            is_confirmed = link.pump(lambda: not self._unconfirmed, deadline)
        except BrokerUnavailable as error:
            if len(parcels) == 1 and link.refusal:
                raise  # its exchange is gone, or closed to us: the server says so instead of taking it
            raise PublishUnconfirmed(self._url, f"the connection was lost before a confirmation came: {error}") from error
        if not is_confirmed:
            raise self._late(deadline)
        self._check(parcels)

    def _frames(self, parcel: Parcel) -> tuple[bytes, bytes]:
        self._numbers += 1
        self._unconfirmed[self._numbers] = parcel.queue
        method = wire.publish(WORK, parcel.exchange, parcel.routing_key, mandatory=parcel.mandatory)
        return method, wire.content(WORK, parcel.properties, parcel.body, self.link.frame_max)

    def _send(self, frames: Sequence[bytes]) -> None:
        try:
            self.link.send(*frames)
        except BrokerUnavailable:
            self._unconfirmed.clear()
            raise

    def _knock(self, frames: list[bytes]) -> None:
        """Before the first message of a connection, and after a pause: send so much of it that the server says whether it blocks
        publishers, and cannot do anything with.

        A server that is short of memory says so only when the header of a message arrives, and reads no further: whatever was sent
        behind it would be published when the alarm is over, long after its sender was told that nobody knows.
        """
        method, content = frames[:2]
        header, body = wire.split_header(content)
        if not body:
            return  # that would be all of it
        self._send([method, header])
        try:
            self.link.call(DECLARATIONS, [wire.qos(DECLARATIONS, 0)], wire.BASIC_QOS_OK, or_blocked=True)
        except BrokerUnavailable as error:
            self._unconfirmed.clear()
            # Half a message was said, which only the end of the connection takes back.
            self.link.fail(error)
            raise
        if self.link.blocked:
            raise self.link.fail(self._blocked())
        frames[:2] = [body]
        self._is_welcome = True

    def _blocked(self) -> BrokerUnavailable:
        return BrokerUnavailable(self._url, f"nothing was sent: the server blocks publishers ({self.link.blocked})")

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

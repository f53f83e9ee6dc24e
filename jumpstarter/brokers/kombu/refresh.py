"""Claims that would become too old for the server are claimed anew. Comes from: sessions, once in a while. Goes to: transactions.

A server ends consumers that hold a message for longer than its ``consumer_timeout``. After a third of it, a copy is sent in the
place of the message to a queue of the session's own, and got from there at once. Should the connection end in the meantime or
later, the copy expires there, and dead-lettering takes it back to where it came from, with a grown count. That queue outlives the
session by no more than it takes.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Final

from jumpstarter.brokers.kombu import message as messages
from jumpstarter.brokers.kombu import wire
from jumpstarter.brokers.kombu.claim import Claim
from jumpstarter.brokers.kombu.link import Declarer
from jumpstarter.brokers.kombu.publisher import Parcel
from jumpstarter.brokers.kombu.transactions import Transactions

if TYPE_CHECKING:
    from jumpstarter.brokers.kombu.broker import AmqpBroker
    from jumpstarter.brokers.kombu.session import Session

log = logging.getLogger(__name__)

#: Seconds that a copy has to wait in a lease queue for its session, before it goes back to where it came from.
LEASE_TTL: Final = 10


class Refresh:
    """What one session holds, kept young.

    :ivar queue: the session's own.
    :ivar lock: held while claims are on their way.
    """

    def __init__(self, session: Session, tx: Transactions, broker: AmqpBroker) -> None:
        self._session = session
        self._link = session.link
        self._tx = tx
        self._broker = broker
        self.queue = f"jumpstarter.lease.{session.name}"
        self.lock = threading.Lock()
        self._moving: list[Claim] = []
        self._moved_by = 0

    def keep(self, deadline: float) -> None:
        """Once in a while: see whether anything has become old.

        :raises BrokerUnavailable: it did not come to its end by then (monotonic seconds).
        """
        with self.lock:
            if not self._moving:
                self._move_old(deadline)
            if self._moving:
                self._get_moved(deadline)

    def _move_old(self, deadline: float) -> None:
        every = self._broker.consumer_timeout / 3
        now = time.monotonic()
        with self._link.cond:
            first = next(iter(self._session.unacked.values()), None)
            # A server that blocks publishers would keep them on their way for as long as it likes.
            if not every or first is None or now - first.since < every or self._link.blocked:
                return
        self.declare()
        with self._tx.turn(deadline):
            old = [claim for claim in self._session.held.values() if claim.number and now - claim.since >= every]
            if not old:
                return
            acks = [self._session.forget(claim.number) for claim in old]
            self._moved_by = self._tx.commit([self._leased(claim) for claim in old], acks)
            self._moving = old
            for claim in old:
                claim.number = 0

    def _get_moved(self, deadline: float) -> None:
        """Where this does not come to its end in time, the next call goes on with it."""
        self._tx.wait(lambda: self._tx.committed >= self._moved_by, deadline)
        self._tx.see_to_returned(self._moved_by)
        missing = sum(not claim.number for claim in self._moving)
        self._session.ask([(self.queue, missing)], deadline)
        with self._link.cond:
            for claim in self._moving:
                if not claim.number:
                    log.warning("A claim in queue %r ended while it was refreshed: this process was stopped.", claim.queue)
                    self._session.held.pop(claim.tag, None)
            self._moving = []
            self._link.cond.notify_all()

    def declare(self) -> None:
        """The session's queue exists."""
        name = self.queue
        if name in self._link.declared:
            return
        declarer = Declarer(self._link)
        # Through an exchange, so that the routing key stays free to say where the copy has to go in the end.
        declarer.exchange_declare(name, type="fanout", auto_delete=True)
        arguments = {
            "x-message-ttl": LEASE_TTL * 1000,
            "x-dead-letter-exchange": "",
            # Longer than from one refresh to the next: a queue that expires takes along what is claimed from it.
            "x-expires": int(1000 * (6 * LEASE_TTL + 2 * self._broker.consumer_timeout)),
        }
        declarer.queue_declare(name, arguments=arguments)
        declarer.queue_bind(name, name)
        self._link.declared.add(name)

    def _leased(self, claim: Claim) -> Parcel:
        changes = {messages.DELIVERIES: claim.count + 1, messages.SUSPECT: True, messages.LEASED: claim.tag}
        properties = messages.copied(claim.message, changes)
        return Parcel(claim.queue, self.queue, claim.queue, properties, claim.message.body)

    def take(self, message: wire.Message) -> None:
        """A copy was got. Under the link's lock."""
        claim = self._session.held.get(messages.leased_as(message))
        if claim is None:
            self._session.unacked[message.tag] = Claim(message, self.queue, message.tag, time.monotonic())
            return
        claim.number, claim.since = message.tag, time.monotonic()
        self._session.unacked[message.tag] = claim

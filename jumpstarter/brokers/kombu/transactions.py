"""AMQP's transactions on a session's channel: publishes and acks that become effective together. Comes from: sessions. Goes to: a
link.

While the server carries out a commit that publishes (its queues have to store the messages), it takes whatever comes next on the
channel for an error and closes the connection: 504, "unexpected command while processing 'tx.commit'". So everything that is sent
waits for its *turn*: until the last commit that published is answered. Commits of nothing but acks are done at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from jumpstarter.brokers.kombu import wire
from jumpstarter.brokers.kombu.link import WORK, Link
from jumpstarter.brokers.kombu.publisher import Parcel
from jumpstarter.errors import BrokerUnavailable

if TYPE_CHECKING:
    from jumpstarter.brokers.kombu.broker import AmqpBroker


class Transactions:
    """Numbers commits, in the order of sending, which is that of their answers.

    :ivar commits: how many were sent. :ivar committed: how many are done.
    :ivar gate: the number of the last one that published.
    """

    def __init__(self, link: Link, broker: AmqpBroker) -> None:
        self._link = link
        self._broker = broker
        self.commits = self.committed = self.gate = 0
        self._sent: dict[int, Sequence[Parcel]] = {}
        self._returned: list[tuple[int, wire.Message]] = []

    def take_back(self, message: wire.Message) -> None:
        """No queue took this one. Under the link's lock."""
        self._returned.append((self.committed + 1, message))

    def fail(self) -> None:
        """The link is of no use any more."""
        if "partial tx completion" in str(self._link.failure):
            # A queue refused what it was sent (it is full), when the acks of the same transaction were done already.
            for one in self._sent.get(self.committed + 1, ()):
                self._broker.send_again(one.queue, one.properties, one.body)

    def commit(self, publishes: Sequence[Parcel], acks: Sequence[bytes]) -> int:
        """Send the publishes, the acks and a commit; its number. In one's turn, so that numbers are in the order of sending."""
        frame_max = self._link.frame_max
        frames = []
        for one in publishes:
            frames.append(wire.publish(WORK, one.exchange, one.routing_key, mandatory=one.mandatory))
            frames.append(wire.content(WORK, one.properties, one.body, frame_max))
        self._link.send(*frames, *acks, wire.commit(WORK))
        self.commits += 1
        if publishes:
            self._sent[self.commits] = publishes
            self.gate = self.commits
        return self.commits

    @contextlib.contextmanager
    def turn(self, deadline: float) -> Iterator[None]:
        """The link's lock, at a moment at which the server takes something on the channel."""
        while True:
            self.wait(lambda: self.committed >= self.gate, deadline)
            with self._link.cond:
                if self.committed >= self.gate:
                    yield
                    return

    def wait(self, done: Callable[[], bool], deadline: float) -> None:
        if not self._link.pump(done, deadline):
            raise BrokerUnavailable(self._broker.url, self._link.why_late())

    def see_to_returned(self, ticket: int) -> None:
        """See to messages that no queue took, though the transaction went through: their queue was deleted a moment ago."""
        sent = self._sent.pop(ticket, ())
        if not self._returned:
            return
        with self._link.cond:
            mine = [message for number, message in self._returned if number == ticket]
            self._returned = [(number, message) for number, message in self._returned if number != ticket]
        queues = {(one.exchange, one.routing_key): one.queue for one in sent}
        for message in mine:
            queue = queues.get((message.exchange, message.routing_key), message.routing_key)
            self._broker.send_again(queue, message.properties, message.body)

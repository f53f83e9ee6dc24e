"""Quarantine on an AMQP server: a queue that nobody consumes from. Looked at by getting its messages and hanging up without an ack:
the server puts them back where they were.

Who looks holds what is there, so nobody else may look meanwhile: an exclusive queue, which the server deletes with its connection,
is the lock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from jumpstarter.brokers.kombu import message as messages
from jumpstarter.brokers.kombu import wire
from jumpstarter.brokers.kombu.link import RESOURCE_LOCKED, WORK, Declarer, Link, Refused
from jumpstarter.brokers.kombu.topology import QUARANTINE
from jumpstarter.errors import BrokerUnavailable
from jumpstarter.jobs import Quarantined

if TYPE_CHECKING:
    from jumpstarter.brokers.kombu.broker import AmqpBroker

_AT_ONCE: Final = 100
_LOCK: Final = f"{QUARANTINE}.lock"
_PAUSE: Final = 0.02  # seconds between two looks at the lock


class _Visit:
    """A connection that holds what it has looked at until it is closed."""

    def __init__(self, broker: AmqpBroker) -> None:
        self._broker = broker
        self._got: list[wire.Message] = []
        self._empty = 0
        self._committed = 0
        self.link = Link(
            broker.address, timeout=broker.timeout, heartbeat=0, on_message=self._on_message, on_method=self._on_method
        )
        try:
            self.link.call(WORK, [wire.method(WORK, wire.TX_SELECT)], wire.TX_SELECT_OK)
            self._lock(time.monotonic() + broker.timeout)
            broker.topology.ensure_quarantine(self.link)
        except BaseException:
            self.link.close()
            raise

    def _lock(self, deadline: float) -> None:
        while True:
            try:
                Declarer(self.link).queue_declare(_LOCK, durable=False, exclusive=True)
            except Refused as error:
                if error.code != RESOURCE_LOCKED:
                    raise
                if time.monotonic() > deadline:
                    raise BrokerUnavailable(self._broker.url, "somebody else looks at the quarantine all the time") from error
                time.sleep(_PAUSE)
            else:
                return

    def _on_message(self, message: wire.Message) -> None:
        if message.kind == wire.BASIC_GET_OK:
            self._got.append(message)

    def _on_method(self, number: int, _arguments: bytes) -> None:
        self._empty += number == wire.BASIC_GET_EMPTY
        self._committed += number == wire.TX_COMMIT_OK

    def messages(self) -> Iterator[tuple[wire.Message, Quarantined]]:
        """What rests, the oldest first; what others put into the queue is passed over."""
        while not self._empty:
            got = self._got = []
            self.link.send(wire.get(WORK, QUARANTINE) * _AT_ONCE)
            self._await(lambda got=got: len(got) + self._empty >= _AT_ONCE)  # type: ignore[misc] # mypy knows no types of defaults
            for message in got:
                resting = messages.quarantined_of(message)
                if resting is not None:
                    yield message, resting

    def commit(self, *frames: bytes) -> None:
        """Have these carried out, all or none."""
        before = self._committed
        self.link.send(*frames, wire.commit(WORK))
        self._await(lambda: self._committed > before)

    def _await(self, done: Callable[[], bool]) -> None:
        if not self.link.pump(done, time.monotonic() + self._broker.timeout):
            raise BrokerUnavailable(self._broker.url, f"no answer within {self._broker.timeout:g} s")


@contextmanager
def _visit(broker: AmqpBroker) -> Iterator[_Visit]:
    visit = _Visit(broker)
    try:
        yield visit
    finally:
        visit.link.close()


def read(broker: AmqpBroker, limit: int, after: str) -> list[Quarantined]:
    """See :meth:`jumpstarter.abc.broker.Broker.quarantined`."""
    with _visit(broker) as visit:
        found = [resting for _, resting in visit.messages()]
    ids = [resting.id for resting in found]
    # Ids begin with the time, so that a page has an end also when the message that it ends with is gone.
    behind = ids.index(after) + 1 if after in ids else sum(each <= after for each in ids)
    return found[behind : behind + limit]


def requeue(broker: AmqpBroker, ids: Sequence[str]) -> int:
    """See :meth:`jumpstarter.abc.broker.Broker.requeue_quarantined`."""

    def send(visit: _Visit, message: wire.Message, resting: Quarantined) -> list[bytes] | None:
        if resting.envelope is None:
            return None
        broker.topology.ensure(visit.link, resting.queue)
        properties = messages.copied(message, {messages.RESTS: None}, keep_route=False)
        return [
            wire.publish(WORK, "", resting.queue),
            wire.content(WORK, properties, message.body, visit.link.frame_max),
            wire.ack(WORK, message.tag),
        ]

    return _carry_out(broker, ids, send)


def drop(broker: AmqpBroker, ids: Sequence[str]) -> int:
    """See :meth:`jumpstarter.abc.broker.Broker.drop_quarantined`."""
    return _carry_out(broker, ids, lambda _visit, message, _resting: [wire.ack(WORK, message.tag)])


def _carry_out(
    broker: AmqpBroker, ids: Collection[str], act: Callable[[_Visit, wire.Message, Quarantined], list[bytes] | None]
) -> int:
    wanted = set(ids)
    found = 0
    with _visit(broker) as visit:
        frames: list[bytes] = []
        for message, resting in visit.messages():
            if resting.id in wanted:
                wanted.discard(resting.id)
                found += 1
                frames += act(visit, message, resting) or []
            if not wanted:
                break
        if frames:
            visit.commit(*frames)
    return found

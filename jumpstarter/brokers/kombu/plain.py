"""The broker on whatever else Kombu can talk to: a folder, an SQL database, MongoDB, Amazon SQS, Google Pub/Sub …

Everything goes through Kombu's own channels, so the queues are shared with genuine Celery, and what a transport cannot do is not
done here either: there is no lease and no fence but its own, and a job's follow-up messages and its ack are two steps. See
``docs/reference/brokers.md`` for what that means on which of them.

Comes from: clients and workers. Goes to: :mod:`jumpstarter.brokers.kombu.hold`, which keeps what an incarnation holds.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import kombu
from kombu.transport import TRANSPORT_ALIASES
from kombu.utils.url import maybe_sanitize_url

from jumpstarter._redis import on_fork
from jumpstarter.abc.broker import Broker, Reaped
from jumpstarter.brokers.kombu import parcels
from jumpstarter.brokers.kombu.hold import QUARANTINE, Channel, Hold
from jumpstarter.clock import SYSTEM_CLOCK, Clock
from jumpstarter.errors import BrokerError, BrokerUnavailable, ConfigurationError, PublishUnconfirmed
from jumpstarter.jobs import Acked, Completed, Delivery, Envelope, Quarantined, Settlement

log = logging.getLogger(__name__)

#: Kombu's transports that are no queues for more than one reader at a time, or that have a broker of their own here.
_NOT_HERE: Final = frozenset({"amqp", "amqps", "pyamqp", "librabbitmq", "memory", "redis", "rediss", "kafka", "confluentkafka"})
#: Transports of Kombu's that we have mended, as Kombu finds them.
_OWN: Final = {"filesystem": "jumpstarter.brokers.kombu.folder:Transport"}
#: Transport options, unless the application says otherwise. Claims do not wait: a channel that does (10 s) would keep everybody
#: else from its connection.
_DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "sqs": {"wait_time_seconds": 0},
    "pgmq": {"wait_time_seconds": 0},
    "azureservicebus": {"use_lock_renewal": True},
}


def schemes() -> list[str]:
    """The schemes of URLs that this broker takes."""
    return sorted(TRANSPORT_ALIASES.keys() - _NOT_HERE)


@dataclass(slots=True)
class _Rest:
    """What rests, and what is sent when whoever looked at it is done; None for nothing."""

    resting: Quarantined
    instead: parcels.Parcel | None


class KombuBroker(Broker):
    """Queues on one of Kombu's other transports.

    :param url: as Kombu takes it: ``filesystem://``, ``sqs://``, ``sqla+postgresql://…``, ``mongodb://…``
    :param queues: what the application says about its queues (a mapping by name may grow); others are declared by their names.
    :param timeout: seconds after which a connection that is not made counts as unavailable. What a transport's own client waits
        for after that is its own affair.
    :param options: Kombu's ``transport_options``.
    :param ssl: Celery's ``broker_use_ssl``.
    :param clock: wall time for messages with a due time.
    :raises ConfigurationError: Kombu has no such transport, its client library is not installed, or one of these cannot be used.
    """

    # Nobody but the channel that has a message from the transport can ack it.
    acks_at_start = True

    def __init__(
        self,
        url: str,
        *,
        queues: Mapping[str, kombu.Queue] | None = None,
        timeout: float = 5.0,
        options: Mapping[str, Any] | None = None,
        ssl: Any = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if not timeout > 0:
            raise ConfigurationError(f"timeout is a number of seconds above 0, not {timeout!r}")
        self._options = {**_DEFAULTS.get(url.partition("://")[0].lower(), {}), **(options or {})}
        self._url = url
        self._ssl = ssl
        connection = self._connection(timeout)
        self.url = maybe_sanitize_url(url)
        self.server = f"kombu:{self.url}"
        self.timeout = timeout
        self.queues = queues if queues is not None else {}
        self.clock = clock
        self.interval = float(getattr(connection.transport, "polling_interval", None) or 1.0)
        self._epoch = 0
        self._holds: dict[str, Hold] = {}
        self._start_afresh()
        on_fork(self._after_fork)

    def _connection(self, timeout: float) -> Any:
        try:
            connection = kombu.Connection(
                self._url,
                connect_timeout=timeout,
                transport_options=dict(self._options),
                ssl=self._ssl or False,
                transport=_OWN.get(self._url.partition("://")[0].lower()),
            )
            connection.transport  # noqa: B018 - finds out whether there is one, and whether its library is installed
        except (ImportError, KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(f"Kombu cannot use this URL: {error}") from error
        return connection

    def _start_afresh(self) -> None:
        self._holds = {}
        self._opening = threading.Lock()
        self._channel = Channel(self)
        self._changed = threading.Condition()
        self._waiters = 0
        self._wakes = 0
        self._wake_next = False

    def _after_fork(self) -> None:
        for hold in self._holds.values():
            hold.channel.abandon()
        self._channel.abandon()
        self._start_afresh()

    def connect(self) -> Any:
        """A connection that is open."""
        connection = self._connection(self.timeout)
        connection.ensure_connection(max_retries=1, timeout=self.timeout)
        return connection

    def next_epoch(self) -> int:
        """Grows with every claim. Microseconds, so that it also grows from one process to the next."""
        self._epoch = max(self._epoch + 1, int(time.time() * 1e6))
        return self._epoch

    # Publishing

    def publish(self, envelopes: Sequence[Envelope], *, timeout: float | None = None) -> None:  # noqa: ARG002 - the client's own
        if not envelopes:
            return
        sent = 0
        prepared = [parcels.parcel_of(envelope) for envelope in envelopes]
        with self._channel.use() as channel:
            for envelope in envelopes:
                self._channel.declare(channel, envelope.queue)
            try:
                for sent, parcel in enumerate(prepared, 1):  # noqa: B007 - what the error says below
                    parcel.send(channel)
            except self._channel.errors as error:
                self._channel.fail()
                raise PublishUnconfirmed(self.url, f"{error!r} at message {sent} of {len(prepared)}") from error

    # Claiming

    def _hold(self, incarnation: str) -> Hold:
        with self._opening:
            hold = self._holds.get(incarnation)
            if hold is None:
                hold = self._holds[incarnation] = Hold(self, incarnation)
            return hold

    def claim(self, queues: Sequence[str], limit: int, *, incarnation: str, lease: float) -> list[Delivery]:  # noqa: ARG002 - none here
        if limit <= 0 or not queues:
            return []
        hold = self._hold(incarnation)
        hold.keep_visible()
        return hold.claim(list(dict.fromkeys(queues)), limit)

    def wait(self, queues: Sequence[str], timeout: float, *, incarnation: str) -> bool:
        """Looks every now and then: as often as the transport's ``polling_interval`` says."""
        hold = self._hold(incarnation)
        deadline = time.monotonic() + timeout
        with self._changed:
            wakes, self._wakes = self._wakes, self._wakes + self._wake_next
            self._wake_next = False
            self._waiters += 1
        try:
            while self._wakes == wakes:
                if hold.look(list(dict.fromkeys(queues))):
                    return True
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                with self._changed:
                    self._changed.wait_for(lambda: self._wakes != wakes, min(left, self.interval, hold.next_due() or left))
            return False
        finally:
            with self._changed:
                self._waiters -= 1

    def wake(self) -> None:
        with self._changed:
            if self._waiters:
                self._wakes += 1
            else:
                self._wake_next = True
            self._changed.notify_all()

    # Settling

    def settle(self, settlements: Sequence[Settlement], *, incarnation: str) -> list[bool | Completed]:
        late = [one for one in settlements if isinstance(one.action, Acked)]
        verdicts: Iterator[bool] = itertools.repeat(False)
        if late:
            # Acked before they began: nothing is claimed, so nothing but their messages is left to do.
            self.publish([envelope for one in late for envelope in one.publish])
        hold = self._holds.get(incarnation)
        if hold is not None:
            verdicts = iter(hold.settle([one for one in settlements if not isinstance(one.action, Acked)]))
        return [isinstance(one.action, Acked) or next(verdicts) for one in settlements]

    def hold(self, tags: Sequence[str], lease: float, *, incarnation: str) -> None:
        """Nothing to do: a transport has one visibility for all, or none."""

    def renew(self, incarnations: Iterable[str], lease: float) -> None:
        """Nothing to do for others: whoever claims renews what it holds itself, from a thread of its own."""

    def held(self, incarnation: str) -> list[Delivery]:
        hold = self._holds.get(incarnation)
        return hold.deliveries() if hold is not None else []

    def release(self, incarnation: str, *, keep: Iterable[str] = (), counted: bool = False) -> int:
        hold = self._holds.get(incarnation)
        if hold is None:
            return 0
        kept = set(keep)
        count = hold.release(kept, counted=counted)
        if not kept:
            self._holds.pop(incarnation, None)
            hold.close()
        return count

    def reap(self) -> Reaped:
        """What is parked waits in the process that holds it; what a dead one held comes back as the transport has it."""
        holds = list(self._holds.values())
        promoted = sum(hold.take_due() for hold in holds)
        return Reaped(
            promoted=promoted, next_due=min((due for hold in holds if (due := hold.next_due()) is not None), default=None)
        )

    # Queues

    def depth(self, queue: str) -> int:
        with self._channel.use() as channel:
            self._channel.declare(channel, queue)
            return int(channel.queue_declare(queue=queue, passive=True).message_count)

    def purge(self, queue: str) -> int:
        with self._channel.use() as channel:
            self._channel.declare(channel, queue)
            return int(channel.queue_purge(queue) or 0)

    def delete_queue(self, queue: str) -> None:
        with self._channel.use() as channel:
            self._channel.declare(channel, queue)
            channel.queue_purge(queue)  # some transports delete only what is bound
            channel.queue_delete(queue=queue)

    def bind_topic(self, topic: str, queue: str) -> None:  # noqa: ARG002 - the port's
        raise self._no_topics()

    def unbind_topic(self, topic: str, queue: str) -> None:  # noqa: ARG002 - the port's
        raise self._no_topics()

    def publish_topic(self, topic: str, envelope: Envelope, *, timeout: float | None = None) -> None:  # noqa: ARG002 - the port's
        raise self._no_topics()

    def _no_topics(self) -> BrokerError:
        """Few of the transports can do it, and each in a way of its own."""
        return BrokerError(f"{self.url} carries no topics: events between processes need Redis, RabbitMQ or SQLite as the broker")

    def ping(self) -> None:
        self.depth(QUARANTINE)

    # Quarantine

    def quarantined(self, *, limit: int = 100, after: str = "") -> list[Quarantined]:
        with self._visit() as (_, found):
            later = sorted((one.resting for one in found if one.resting.id > after), key=lambda resting: resting.id)
            return later[:limit]

    def requeue_quarantined(self, ids: Sequence[str]) -> int:
        with self._visit() as (channel, found):
            wanted = [one for one in found if one.resting.id in set(ids) and one.resting.envelope is not None]
            for one in wanted:
                assert one.resting.envelope is not None
                self._channel.declare(channel, one.resting.queue)
                one.instead = parcels.parcel_of(one.resting.envelope)
            return len(wanted)

    def drop_quarantined(self, ids: Sequence[str]) -> int:
        with self._visit() as (_, found):
            wanted = [one for one in found if one.resting.id in set(ids)]
            for one in wanted:
                one.instead = None
            return len(wanted)

    @contextlib.contextmanager
    def _visit(self) -> Iterator[tuple[Any, list[_Rest]]]:
        """The channel, and what rests: all of it is taken out, for there is no other way to look, and put back behind the block."""
        with self._channel.use() as channel:
            self._channel.declare(channel, QUARANTINE)
            taken: list[tuple[Any, _Rest | None]] = []
            try:
                while (message := channel.basic_get(QUARANTINE)) is not None:
                    resting = parcels.quarantined_of(message)
                    copy = parcels.copy_of(message, QUARANTINE, {})
                    taken.append((message, None if resting is None else _Rest(resting, copy)))
                yield channel, [one for _, one in taken if one is not None]
            finally:
                for message, one in taken:
                    instead = one.instead if one is not None else parcels.copy_of(message, QUARANTINE, {})
                    if instead is not None:
                        instead.send(channel)
                    channel.basic_ack(message.delivery_tag)

    # Life

    def close(self) -> None:
        """Close this process's connections. What it held goes back first: a transport that has handed a message out may know
        nothing of it any more."""
        holds, self._holds = self._holds, {}
        for hold in holds.values():
            with contextlib.suppress(BrokerUnavailable):
                hold.release(set(), counted=False)
            hold.close()
        self._channel.close()

"""The broker on AMQP servers, RabbitMQ first. Comes from: clients and workers. Goes to: sessions, publishers.

Clients publish through a few spare connections; each incarnation that claims has a connection of its own, see
:mod:`jumpstarter.brokers.kombu.session`. See ``docs/reference/brokers.md`` for every queue and header.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import kombu

from jumpstarter._redis import on_fork
from jumpstarter.abc.broker import Broker, Reaped
from jumpstarter.brokers.kombu import message as messages
from jumpstarter.brokers.kombu import quarantine, wire
from jumpstarter.brokers.kombu.link import DECLARATIONS, NOT_FOUND, Address, Declarer, Link, Refused
from jumpstarter.brokers.kombu.publisher import Parcel, Publisher
from jumpstarter.brokers.kombu.session import Session
from jumpstarter.brokers.kombu.topology import LONGEST_DELAY, TOPICS, Topology
from jumpstarter.errors import BrokerError, BrokerUnavailable, ConfigurationError, QueueNotFound
from jumpstarter.jobs import Acked, Completed, Delivery, Envelope, Quarantined, Settlement

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds between two looks while the server may push messages, and while it may not.
BUSY, QUIET = 0.1, 1.0
#: Connections to keep for the next publish.
SPARE = 4
#: Seconds after which a kept connection has to prove itself before it is used again, and that it is given for that.
STALE, PROOF = 1.0, 1.0


class AmqpBroker(Broker):
    """Queues on RabbitMQ 3.10 or later, shared with genuine Celery workers and clients.

    :param url: ``amqp://``, ``pyamqp://`` or ``amqps://``; several joined by ``;`` take each other's place.
    :param queues: what the application says about its queues (a mapping by name may grow). Others are declared as Celery does it:
        durable, with a direct exchange of their name.
    :param queue_type: of those others: ``classic`` or ``quorum``.
    :param delayed_queue_type: of the 28 queues of Celery's delayed delivery; a fleet has to agree on it.
    :param delayed_prefix: stands before their names.
    :param timeout: seconds after which a server that does not answer counts as unavailable.
    :param heartbeat: seconds between signs of life of a session: after two to three of them in silence the server gives its
        messages to others. None: the lease that is claimed with. 0: none at all.
    :param consumer_timeout: seconds after which the server takes it ill that a message is not acked, RabbitMQ's setting of that
        name; None or 0 where it has none. A claim is refreshed after a third of it.
    :param ssl: Celery's ``broker_use_ssl``: True, or a mapping of options of the ssl module.
    :param login_method: as Kombu takes it.
    :param options: Kombu's ``transport_options``: what py-amqp's connection takes.
    :param exclusive: see :attr:`jumpstarter.abc.broker.Broker.exclusive`.
    :raises ConfigurationError: one of these cannot be used.
    """

    acks_at_start = True
    ack_blocks = False
    routes = True

    tells_monitors = True

    def __init__(
        self,
        url: str,
        *,
        queues: Iterable[kombu.Queue] | Mapping[str, kombu.Queue] = (),
        queue_type: str = "classic",
        delayed_queue_type: str = "quorum",
        delayed_prefix: str = "",
        timeout: float = 5.0,
        heartbeat: float | None = None,
        consumer_timeout: float | None = 1800.0,
        ssl: bool | Mapping[str, Any] | None = None,
        login_method: str | None = None,
        options: Mapping[str, Any] | None = None,
        exclusive: bool = False,
    ) -> None:
        if not timeout > 0:
            raise ConfigurationError(f"timeout is a number of seconds above 0, not {timeout!r}")
        given = {"ssl": ssl, "login_method": login_method, "transport_options": dict(options) if options else None}
        self.address = Address.parse(url, **{name: value for name, value in given.items() if value})
        self.server = self.address.server
        self.url = self.address.url
        self.exclusive = exclusive
        self.timeout = timeout
        self.heartbeat = heartbeat
        self.consumer_timeout = consumer_timeout or 0.0
        self.topology = Topology(
            queues, queue_type=queue_type, delayed_queue_type=delayed_queue_type, delayed_prefix=delayed_prefix
        )
        self._sessions: dict[str, Session] = {}
        self._spare: list[Publisher] = []
        self._start_afresh()
        on_fork(self._after_fork)

    def _start_afresh(self) -> None:
        self._opening = threading.Lock()
        self._sparing = threading.Lock()
        # How often it was closed.
        self._life = 0
        self._epoch = 0
        self._sessions = {}
        self._spare = []
        self._astray: list[Parcel] = []
        self._waking = threading.Lock()
        self._waiting: dict[int, Session] = {}
        self._woken: set[int] = set()
        self._wake_next = False
        self._keeper: threading.Thread | None = None
        self._stirred = threading.Event()

    def _after_fork(self) -> None:
        for session in self._sessions.values():
            session.link.abandon()
        for publisher in self._spare:
            publisher.link.abandon()
        self.topology.restart()
        self._start_afresh()

    def next_epoch(self) -> int:
        """Grows with every claim. Microseconds, so that it also grows from one process to the next."""
        self._epoch = max(self._epoch + 1, int(time.time() * 1e6))
        return self._epoch

    # Connections for everything but claims

    @contextlib.contextmanager
    def _publisher(self, deadline: float | None = None) -> Iterator[Publisher]:
        """A connection that nobody else uses meanwhile.

        :param deadline: monotonic seconds; None: the broker's own time from now.
        """
        deadline = time.monotonic() + self.timeout if deadline is None else deadline
        life = self._life
        publisher = self._take_spare(deadline) or self._connect(deadline - time.monotonic())
        try:
            yield publisher
        finally:
            self._keep_spare(publisher, life)

    def _keep_spare(self, publisher: Publisher, life: int) -> None:
        """Keep a connection for the next publish, if that may still be closed: ``life`` is the broker's when it was taken."""
        with self._sparing:
            if publisher.link.failure is None and len(self._spare) < SPARE and life == self._life:
                self._spare.append(publisher)
                return
        publisher.link.close()

    def _connect(self, within: float) -> Publisher:
        if within <= 0:
            raise BrokerUnavailable(self.url, "no time was left to connect")
        return Publisher(self.address, timeout=self.timeout, within=min(within, self.timeout))

    def _take_spare(self, deadline: float) -> Publisher | None:
        while self._spare:
            try:
                publisher = self._spare.pop()
            except IndexError:  # another thread was faster
                return None
            if publisher.is_usable(stale=STALE, within=min(PROOF, (deadline - time.monotonic()) / 2)):
                return publisher
            publisher.link.hang_up()
            # The others that lay idle had no better fate; each would cost as much time to find out.
            for other in [other for other in self._spare if other.link.heard < time.monotonic() - STALE]:
                with contextlib.suppress(ValueError):  # another thread was faster
                    self._spare.remove(other)
                    other.link.hang_up()
        return None

    def answers(self, within: float) -> bool:
        """Whether the server greets somebody new, within so many seconds."""
        life = self._life
        try:
            publisher = self._connect(within)
        except BrokerError:
            return False
        self._keep_spare(publisher, life)
        return True

    # Publishing

    def publish(self, envelopes: Sequence[Envelope], *, timeout: float | None = None) -> None:
        if not envelopes:
            return
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        # Before anything is sent: what cannot be encoded fails here.
        encoded = [(envelope, self._properties(envelope)) for envelope in envelopes]
        with self._publisher(deadline) as publisher, publisher.link.until(deadline):
            parcels = [
                Parcel(envelope.queue, *self._route(publisher.link, envelope), properties, envelope.body, envelope.mandatory)
                for envelope, properties in encoded
            ]
            publisher.publish(parcels, deadline)

    def _properties(self, envelope: Envelope) -> bytes:
        headers: Mapping[str, Any] | None = None
        if envelope.due is not None and envelope.due > time.time():
            extra: dict[str, Any] = {}
            if envelope.exchange:
                extra[messages.ROUTE] = [envelope.exchange, envelope.routing_key or envelope.queue]
            if envelope.due - time.time() > LONGEST_DELAY:
                extra[messages.DUE] = float(envelope.due)
            headers = {**envelope.headers, **extra}
        return messages.properties_of(envelope, headers)

    def _route(self, link: Link, envelope: Envelope) -> tuple[str, str]:
        if envelope.due is not None and (seconds := envelope.due - time.time()) > 0:
            return self.topology.delay(link, envelope.queue, seconds)
        return self.topology.route(link, envelope)

    def prepare(self, link: Link, envelope: Envelope) -> tuple[bytes, tuple[str, str]]:
        """Properties of an envelope, and the exchange and routing key that lead to its queue.

        :raises MessageError: AMQP cannot carry it.
        """
        return self._properties(envelope), self._route(link, envelope)

    def send_again(self, queue: str, properties: bytes, body: bytes) -> None:
        """Send, as soon as that works, a message that its transaction left behind."""
        self._astray.append(Parcel(queue, "", queue, properties, body))
        self._stirred.set()

    def _send_astray(self) -> None:
        while self._astray:
            parcel = self._astray[0]
            with self._publisher() as publisher:
                publisher.link.declared.clear()  # the queue is gone, whatever was noted
                self.topology.ensure(publisher.link, parcel.queue)
                publisher.publish([parcel], time.monotonic() + self.timeout)
            self._astray.pop(0)
            log.warning("A message that queue %r had not taken was sent again.", parcel.queue)

    # Claiming

    def _session(self, incarnation: str) -> Session | None:
        """The session of an incarnation, if it lives."""
        session = self._sessions.get(incarnation)
        return session if session is not None and not session.is_broken else None

    def _open(self, incarnation: str, lease: float) -> Session:
        session = self._session(incarnation)
        if session is None:
            with self._opening:
                session = self._session(incarnation)
                if session is None:
                    session = self._sessions[incarnation] = Session(self, incarnation, lease)
                    self._start_keeper()
        return session

    def claim(self, queues: Sequence[str], limit: int, *, incarnation: str, lease: float) -> list[Delivery]:
        if limit <= 0 or not queues:
            return []
        return self._open(incarnation, lease).claim(list(dict.fromkeys(queues)), limit)

    def wait(self, queues: Sequence[str], timeout: float, *, incarnation: str) -> bool:
        queues = list(dict.fromkeys(queues))
        if timeout <= 0:
            session = self._session(incarnation)
            return (session is not None and session.has_arrived(queues)) or any(map(self.depth, queues))
        session = self._open(incarnation, lease=30.0)
        me = threading.get_ident()
        with self._waking:
            if self._wake_next:
                self._wake_next = False
                return False
            self._waiting[me] = session
        try:
            return session.wait(queues, timeout, lambda: me in self._woken)
        finally:
            with self._waking:
                del self._waiting[me]
                self._woken.discard(me)

    def rest(self, *, incarnation: str) -> None:
        session = self._session(incarnation)
        if session is not None:
            session.rest()

    def wake(self) -> None:
        with self._waking:
            self._wake_next = not self._waiting
            self._woken.update(self._waiting)
            sessions = list(self._waiting.values())
        for session in sessions:
            session.link.poke()

    # Settling

    def settle(self, settlements: Sequence[Settlement], *, incarnation: str) -> list[bool | Completed]:
        late = [one for one in settlements if isinstance(one.action, Acked)]
        verdicts: Iterator[bool] = itertools.repeat(False)
        if late:
            # Acked before they began: nothing is claimed, so nothing but their messages is left to do.
            self.publish([envelope for one in late for envelope in one.publish])
        session = self._session(incarnation)
        claimed = [one for one in settlements if not isinstance(one.action, Acked)]
        if session is not None and claimed:
            verdicts = iter(session.settle(claimed))
        return [isinstance(one.action, Acked) or next(verdicts) for one in settlements]

    def ack(self, delivery: Delivery, *, incarnation: str) -> bool:
        session = self._sessions.get(incarnation)
        return session is not None and session.ack(delivery)

    # Leases: the server watches the connection

    def hold(self, tags: Sequence[str], lease: float, *, incarnation: str) -> None:
        """Nothing to do: see :meth:`renew`."""

    def renew(self, incarnations: Iterable[str], lease: float) -> None:
        """Nothing to do: the session's own thread sends the server signs of life."""

    def held(self, incarnation: str) -> list[Delivery]:
        session = self._session(incarnation)
        return session.deliveries() if session is not None else []

    def release(self, incarnation: str, *, keep: Iterable[str] = (), counted: bool = False) -> int:
        session = self._session(incarnation)
        if session is None:
            self._sessions.pop(incarnation, None)
            return 0
        kept = set(keep)
        try:
            return session.release(kept, counted=counted)
        finally:
            if not kept:
                self._sessions.pop(incarnation, None)
                session.close()

    def reap(self) -> Reaped:
        return Reaped()

    # Queues and the server

    def depth(self, queue: str) -> int:
        with self._publisher() as publisher:
            return self._if_there(lambda: Declarer(publisher.link).counts([queue])[0])

    def purge(self, queue: str) -> int:
        frame = wire.method(DECLARATIONS, wire.QUEUE_PURGE, wire.arguments("Bsb", 0, queue, 0))
        with self._publisher() as publisher:
            return self._if_there(lambda: wire.read_count(publisher.link.ask(frame, wire.QUEUE_PURGE_OK)))

    # Topics: one exchange for all; its bindings say which queues want which.

    def bind_topic(self, topic: str, queue: str) -> None:
        with self._publisher() as publisher:
            self.topology.ensure_topics(publisher.link)
            self.topology.ensure(publisher.link, queue)
            Declarer(publisher.link).queue_bind(queue, TOPICS, topic)

    def unbind_topic(self, topic: str, queue: str) -> None:
        frame = wire.method(DECLARATIONS, wire.QUEUE_UNBIND, wire.arguments("BsssF", 0, queue, TOPICS, topic, {}))
        with self._publisher() as publisher:
            self.topology.ensure_topics(publisher.link)
            self._if_there(lambda: len(publisher.link.ask(frame, wire.QUEUE_UNBIND_OK)))

    def publish_topic(self, topic: str, envelope: Envelope, *, timeout: float | None = None) -> None:
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        properties = self._properties(envelope)
        with self._publisher(deadline) as publisher, publisher.link.until(deadline):
            self.topology.ensure_topics(publisher.link)
            with contextlib.suppress(QueueNotFound):  # nobody is interested
                publisher.publish([Parcel(topic, TOPICS, topic, properties, envelope.body)], deadline)

    def fan_out(self, envelope: Envelope, *, kind: str = "fanout", timeout: float | None = None) -> None:
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        properties = self._properties(envelope)
        with self._publisher(deadline) as publisher, publisher.link.until(deadline):
            self.topology.ensure_exchange(publisher.link, envelope.exchange, kind)
            parcel = Parcel(envelope.queue, envelope.exchange, envelope.routing_key, properties, envelope.body, mandatory=False)
            publisher.publish([parcel], deadline)

    def open_fanout(self, queue: str, exchange: str, routing_key: str, *, private: bool) -> Callable[[], None]:  # noqa: ARG002
        with self._publisher() as publisher:
            self.topology.ensure(publisher.link, queue)
        return partial(self.delete_queue, queue) if private else lambda: None

    def open_reply_queue(self, queue: str, *, expires: float | None) -> None:
        self.topology.expect_replies(queue, expires)
        with self._publisher() as publisher:
            self.topology.ensure(publisher.link, queue)

    def delete_queue(self, queue: str) -> None:
        frame = wire.method(DECLARATIONS, wire.QUEUE_DELETE, wire.arguments("Bsb", 0, queue, 0))
        with self._publisher() as publisher:
            self._if_there(lambda: wire.read_count(publisher.link.ask(frame, wire.QUEUE_DELETE_OK)))
            publisher.link.declared.discard(queue)

    def _if_there(self, count: Callable[[], int]) -> int:
        try:
            return count()
        except Refused as error:
            if error.code != NOT_FOUND:
                raise
            return 0

    def ping(self) -> None:
        with self._publisher() as publisher:
            publisher.link.ask(wire.qos(DECLARATIONS, 0), wire.BASIC_QOS_OK)

    # Quarantine

    def quarantined(self, *, limit: int = 100, after: str = "") -> list[Quarantined]:
        return quarantine.read(self, limit, after)

    def requeue_quarantined(self, ids: Sequence[str]) -> int:
        return quarantine.requeue(self, ids)

    def drop_quarantined(self, ids: Sequence[str]) -> int:
        return quarantine.drop(self, ids)

    # Life

    def _start_keeper(self) -> None:
        if self._keeper is None or not self._keeper.is_alive():
            self._keeper = threading.Thread(target=self._keep, args=(self._stirred,), name="amqp keeper", daemon=True)
            self._keeper.start()

    def stir(self) -> None:
        """Have the keeper look more often from now on."""
        self._stirred.set()

    def _keep(self, stirred: threading.Event) -> None:
        """Keep the connections of sessions alive while jobs run, as long as there are sessions."""
        while self._sessions or self._astray:
            sessions = list(self._sessions.values())
            for session in sessions:
                try:
                    session.keep()
                except BrokerError as error:
                    log.debug("%s: %s", session.incarnation, error)
            try:
                self._send_astray()
            except BrokerError as error:
                log.error("A message that no queue took is not sent again yet: %s", error)
            stirred.wait(self._pause(sessions))
            stirred.clear()

    def _pause(self, sessions: Sequence[Session]) -> float:
        if self._astray or any(session.is_watching for session in sessions):
            return BUSY
        return min([QUIET, *(session.patience for session in sessions)])

    def close(self) -> None:
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            session.close()
        with self._sparing:
            self._life += 1
            spare, self._spare = self._spare, []
        for publisher in spare:
            publisher.link.close()
        self._stirred.set()
        keeper, self._keeper = self._keeper, None
        if keeper is not None and keeper is not threading.current_thread():
            keeper.join(self.timeout)

"""Messages on their way out: the producer, batches, and capture inside a worker's job. Comes from: app.amqp. Goes to: brokers.

No thread and no loop is started here, and a fork is survived: brokers connect anew in each process. What is published goes to the
context's *sink* when there is one (:func:`capture`, :func:`bulk_publish`), else to the broker at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import cached_property
from itertools import count
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from compat_celery import exceptions, protocol
from compat_celery._later import kombu
from compat_celery.app.utils import sanitize_url
from compat_celery.exceptions import ImproperlyConfigured, QueueNotFound
from jumpstarter import errors
from jumpstarter.abc.broker import Broker
from jumpstarter.abc.results import Results
from jumpstarter.brokers import open_broker
from jumpstarter.embedded.home import file_in, home
from jumpstarter.errors import BrokerUnavailable, ConfigurationError
from jumpstarter.jobs import Document, Envelope
from jumpstarter.telemetry import tracing

if TYPE_CHECKING:
    from compat_celery.app.base import Celery
    from compat_celery.app.connection import Connection


def __getattr__(name: str) -> Any:
    if name != "Connection":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from compat_celery.app.connection import Connection  # noqa: PLC0415 - kombu's, which publishing does without

    return Connection


__all__ = (
    "Connection",
    "Producer",
    "ProducerPool",
    "broker_for",
    "broker_url",
    "broker_urls",
    "bulk_publish",
    "capture",
    "embedded_url",
    "store_first",
)

#: Schemes whose URLs name a Jumpstarter broker; kombu knows some of them too, but other things by it.
EMBEDDED_SCHEMES = frozenset({"memory", "sqlite"})
REDIS_SCHEMES = frozenset({"redis", "rediss", "redis+socket", "unix"})
AMQP_SCHEMES = frozenset({"amqp", "amqps", "pyamqp", "librabbitmq"})
OUR_SCHEMES = EMBEDDED_SCHEMES | REDIS_SCHEMES | AMQP_SCHEMES

#: ``broker_transport_options`` of Kombu, by what our brokers call them. Others are Kombu's own business.
REDIS_OPTIONS = {
    "visibility_timeout": "visibility_timeout",
    "global_keyprefix": "key_prefix",
    "priority_steps": "priority_steps",
    "sep": "sep",
    "exclusive": "exclusive",
    "fanout_prefix": "fanout_prefix",
}
SQLITE_OPTIONS = {"synchronous": "synchronous"}
AMQP_OPTIONS = {"consumer_timeout": "consumer_timeout", "exclusive": "exclusive"}
#: Of ``broker_transport_options``, what is for other transports, or decided here: every publish is confirmed.
NOT_FOR_AMQP = frozenset({*REDIS_OPTIONS, *AMQP_OPTIONS, "confirm_publish"})

#: At most so many messages and so many bytes of bodies are kept for one round trip of a bulk. Servers limit what one call may carry
#: (Redis by default to 1 GB), and are busy with nothing else meanwhile: 25 ms for 10,000 small ones.
BULK_LIMIT = 10_000
BULK_BYTES = 32 << 20

#: Celery's default of ``broker_heartbeat``. Told no other, our workers take the lease of their claims.
HEARTBEAT = 120

#: Seconds for a publish where no setting says another number: Celery's default for making a connection.
PUBLISH_TIMEOUT = 4.0


# Which broker.


def embedded_url(*, create: bool = True) -> str:
    """The URL of the file, in the folder ``$JUMPSTARTER_HOME``, or ``.jumpstarter`` in the working directory.

    :param create: make the folder if it is not there.
    :raises ImproperlyConfigured: it cannot be made.
    """
    folder = home()
    if create:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ImproperlyConfigured(
                f"no broker is configured, and the folder of the embedded one cannot be made ({folder}: {error.strerror}). "
                "Set broker_url, or the environment variable JUMPSTARTER_HOME to a folder that can be written."
            ) from error
    return f"sqlite:///{file_in(folder)}"


def broker_urls(app: Celery, *, write: bool = False) -> list[str]:
    """The URLs of the broker that the app writes to or reads from; the embedded one's when nothing is configured.

    Several (a list, or joined by ``;``) are alternates: when one cannot be reached, the next is tried.
    """
    conf = app.conf
    urls = conf.broker_write_url if write else conf.broker_read_url
    if not urls and not conf.broker_transport:
        return [embedded_url()]
    several = urls if isinstance(urls, list | tuple) else str(urls or "").split(";")
    return [url.strip() if "://" in url else _url_from_parts(conf, url.strip()) for url in several if url.strip() or not urls]


def broker_url(app: Celery, *, write: bool = False) -> str:
    """The first of :func:`broker_urls`."""
    return broker_urls(app, write=write)[0]


def _url_from_parts(conf: Any, host: str) -> str:
    """Celery 3's way: broker_transport, broker_host, broker_port, broker_user, broker_password, broker_vhost."""
    transport = conf.broker_transport or (host if host in OUR_SCHEMES else "amqp")
    user = f"{conf.broker_user}:{conf.broker_password or ''}@" if conf.broker_user else ""
    port = f":{conf.broker_port}" if conf.broker_port else ""
    path = str(conf.broker_vhost or "").removeprefix("/")
    return f"{transport}://{user}{'' if host == transport else host}{port}/{path}".removesuffix(
        "/" if transport == "memory" else ""
    )


def broker_for(app: Celery, url: str | None = None, *, write: bool = False) -> Broker:
    """The app's broker object for a URL, made once. Not connected before its first use.

    :raises ImproperlyConfigured: there is no broker for such a URL, or its options cannot be used.
    """
    url = url or broker_url(app, write=write)
    key = (url, repr(sorted(app.conf.broker_transport_options.items())))
    broker: Broker | None = app._brokers.get(key)
    if broker is not None:
        return broker
    try:
        opened = open_broker(url, **_options_for(app, url))
    except ConfigurationError as error:
        raise ImproperlyConfigured(f"the setting broker_url ({sanitize_url(url)}): {error}") from error
    # No lock, which a fork could leave locked: of two threads that come here together, both get the broker of the first.
    return app._brokers.setdefault(key, opened)


def _options_for(app: Celery, url: str) -> dict[str, Any]:
    conf = app.conf
    scheme = url.partition("://")[0]
    if scheme in AMQP_SCHEMES:
        return _amqp_options(app)
    if scheme not in OUR_SCHEMES:
        return _kombu_options(app)
    names = REDIS_OPTIONS if scheme in REDIS_SCHEMES else SQLITE_OPTIONS if scheme == "sqlite" else {}
    given = conf.broker_transport_options
    options = {ours: given[kombus] for kombus, ours in names.items() if given.get(kombus) is not None}
    if scheme in REDIS_SCHEMES:
        options["timeout"] = float(given.get("socket_timeout") or conf.broker_connection_timeout or 4)
        if conf.broker_use_ssl:
            options["ssl"] = conf.broker_use_ssl
    return options


def _kombu_options(app: Celery) -> dict[str, Any]:
    """For what Kombu connects to itself."""
    conf = app.conf
    timeout = float(conf.broker_connection_timeout or 4)
    return {"queues": app.amqp.queues, "timeout": timeout, "options": conf.broker_transport_options, "ssl": conf.broker_use_ssl}


def _amqp_options(app: Celery) -> dict[str, Any]:
    conf = app.conf
    given = conf.broker_transport_options
    options = {ours: given[kombus] for kombus, ours in AMQP_OPTIONS.items() if given.get(kombus) is not None}
    options["queues"] = app.amqp.queues
    options["queue_type"] = conf.task_create_missing_queue_type or "classic"
    options["delayed_queue_type"] = conf.broker_native_delayed_delivery_queue_type or "quorum"
    options["timeout"] = float(conf.broker_connection_timeout or 4)
    if conf.broker_heartbeat != HEARTBEAT:
        options["heartbeat"] = float(conf.broker_heartbeat or 0)
    if conf.broker_use_ssl:
        options["ssl"] = conf.broker_use_ssl
    if conf.broker_login_method:
        options["login_method"] = conf.broker_login_method
    options["options"] = {name: value for name, value in given.items() if name not in NOT_FOR_AMQP}
    return options


# Sinks.


class _Sink:
    """Collects what is published in a context, and what shall be done once it is sent."""

    __slots__ = ("after", "app", "bytes", "documents", "envelopes", "send", "sent", "traced")

    def __init__(self, app: Celery | None = None, send: Callable[[Sequence[Envelope]], None] | None = None) -> None:
        self.app = app
        self.envelopes: list[Envelope] = []
        self.after: list[Callable[[], None]] = []
        #: What has to be stored before they are sent, and where.
        self.documents: list[tuple[Results, Document]] = []
        self.send = send
        self.bytes = 0
        self.sent: list[str] = []
        self.traced = tracing.enabled  # asked once for all that is collected

    def add(self, envelope: Envelope) -> None:
        if self.send is not None:
            # Before it is added: what must not be split (a chord's header) is at most as much as fits.
            if len(self.envelopes) >= BULK_LIMIT or self.bytes + len(envelope.body) > BULK_BYTES:
                self.flush()
            self.bytes += len(envelope.body)
        self.envelopes.append(envelope)

    def flush(self) -> None:
        envelopes, self.envelopes, self.bytes = self.envelopes, [], 0
        documents, self.documents = self.documents, []
        if (envelopes or documents) and self.send is not None:
            try:
                _store(documents)
                self.send(envelopes)
            except exceptions.PublishError as error:
                error.sent = tuple(self.sent)
                raise
            self.sent += [str(envelope.headers.get("id")) for envelope in envelopes]
        self.announce()

    def announce(self) -> None:
        after, self.after = self.after, []
        for announce in after:
            announce()


_sink: ContextVar[_Sink | None] = ContextVar("sink", default=None)


@contextmanager
def capture() -> Iterator[list[Envelope]]:
    """What the apps' own producers publish in the block goes to the list that is given, instead of to the broker."""
    sink = _Sink()
    token = _sink.set(sink)
    try:
        yield sink.envelopes
    finally:
        _sink.reset(token)
    sink.announce()


@contextmanager
def bulk_publish(
    app: Celery, *, retry: bool | None = None, retry_policy: Mapping[str, Any] | None = None, timeout: float | None = None
) -> Iterator[None]:
    """What the app's own producer publishes in the block is sent in one round trip at its end; nothing of it when the block raises.

    Within another such block, or one of :func:`capture`, the outer one decides. More than 10,000 messages, or more than 32 MiB of
    bodies, are sent in several parts, the first ones early.

    :param retry: as of :meth:`Producer.publish`; None: as the settings say.
    :param retry_policy: what differs from the policy in the settings.
    :param timeout: seconds for each part.
    :raises PublishError: the last part was not sent, or nobody knows; ``sent`` names what was sent before.
    """
    if _sink.get() is not None:
        yield
        return
    conf = app.conf
    policy = {**conf.task_publish_retry_policy, **(retry_policy or {})}
    once = not (conf.task_publish_retry if retry is None else retry)
    producer = app.producer_pool.acquire()

    def send(envelopes: Sequence[Envelope]) -> None:
        producer.send(envelopes, None if once else policy, timeout)

    sink = _Sink(app, send)
    token = _sink.set(sink)
    try:
        yield
    finally:
        _sink.reset(token)
    sink.flush()


def is_collecting() -> bool:
    """Whether a block around us collects what is published."""
    return _sink.get() is not None


def flush() -> None:
    """Send now what the block of :func:`bulk_publish` around us has collected. There must be one."""
    sink = _sink.get()
    assert sink is not None
    sink.flush()


def newest() -> Envelope | None:
    """The message that the block around us collected last; None without a block, or when it has sent everything."""
    sink = _sink.get()
    return sink.envelopes[-1] if sink is not None and sink.envelopes else None


def add(envelope: Envelope) -> None:
    """Add a message to what the block around us collects. There must be one."""
    sink = _sink.get()
    assert sink is not None
    sink.add(envelope)


def store_first(app: Celery, store: Results, documents: Sequence[Document]) -> None:
    """Store what the next message refers to: at once, or just before it is sent where a block around us sends in bulk.

    :raises NotPublished: the store does not answer; nothing was sent.
    """
    sink = _sink.get()
    if sink is not None and sink.send is not None and sink.app is app:
        sink.documents += [(store, document) for document in documents]
    else:
        _store([(store, document) for document in documents])


def _store(documents: Sequence[tuple[Results, Document]]) -> None:
    by_store: dict[Results, list[Document]] = {}
    for store, document in documents:
        by_store.setdefault(store, []).append(document)
    for store, some in by_store.items():
        try:
            store.put(some)
        except errors.ResultsUnavailable as error:
            raise exceptions.NotPublished(f"a canvas could not be stored, and so nothing was sent: {error}") from error


def on_sent(announce: Callable[[], None]) -> None:
    """Call ``announce`` once what was published last is on its way: at once, or at the end of the block that collects it."""
    sink = _sink.get()
    if sink is None:
        announce()
    else:
        sink.after.append(announce)


# The producer.

NOTHING_SENT = (
    "Nothing was sent ({attempts} attempts in {seconds:.1f} s). Start the broker or correct broker_url; task_publish_retry_policy "
    "and task_publish_timeout say how long it is tried."
)
IN_DOUBT = "It was sent, and whether it arrived is unknown: if it is published again, it may run twice."


class Producer:
    """Publishes by Kombu's signature to a Jumpstarter broker. One may serve many threads.

    :param url: the broker; the app's own, and its alternates, if not given.
    """

    serializer: str | None = None
    auto_declare = False

    def __init__(self, app: Celery, url: str | None = None) -> None:
        self.app = app
        self.url = url
        self._broker: Broker | None = None

    def publish(
        self,
        body: Any,
        routing_key: str | None = None,
        delivery_mode: Any = None,
        mandatory: bool = False,  # noqa: ARG002 - every message of ours reaches its queue or raises
        immediate: bool = False,  # noqa: ARG002 - as above; AMQP itself dropped it
        priority: int | None = 0,
        content_type: str | None = None,
        content_encoding: str | None = None,
        serializer: str | None = None,
        headers: Mapping[str, Any] | None = None,
        compression: str | None = None,
        exchange: Any = None,
        retry: bool = False,
        retry_policy: Mapping[str, Any] | None = None,
        declare: Sequence[Any] | None = (),
        expiration: float | None = None,
        timeout: float | None = None,
        confirm_timeout: float | None = None,  # noqa: ARG002 - a publish of ours returns when the message is safe
        **properties: Any,
    ) -> None:
        """Serialise the body and send it, or collect it for the context's sink.

        :param retry: try again while the broker cannot be reached, as ``retry_policy`` says.
        :param expiration: seconds.
        :param timeout: seconds for all attempts together (default: the setting ``task_publish_timeout``).
        :raises EncodeError: the body cannot be serialised.
        :raises NotPublished: the broker cannot be reached; nothing was sent.
        :raises PublishUnconfirmed: the broker does not answer; whether it has the message is unknown.
        """
        if content_type is None:
            payload = protocol.encode(body, serializer or self.serializer or "json", compression)
        else:
            raw = body.encode(content_encoding or "utf-8") if isinstance(body, str) else bytes(body)
            payload = protocol.Payload(raw, content_type, content_encoding or "utf-8", None)
        wire_headers = dict(headers or {})
        if payload.compression:
            wire_headers["compression"] = payload.compression
        properties["delivery_mode"] = _delivery_mode(delivery_mode)
        properties["priority"] = priority or 0
        broker = self.broker
        # A server that drops what has expired tells nobody: whoever waits for the task would wait for ever. Workers see the header.
        if expiration is not None and not (broker.routes and wire_headers.get("expires")):
            properties["expiration"] = str(int(expiration * 1000))
        due = _due(wire_headers) if broker.exclusive else None
        name = exchange if isinstance(exchange, str) else getattr(exchange, "name", exchange) or ""

        def envelope(queue: str, key: str, due: float | None) -> Envelope:
            return Envelope(
                queue=queue,
                body=payload.body,
                headers=wire_headers,
                properties=properties,
                content_type=payload.content_type,
                content_encoding=payload.content_encoding,
                exchange=name,
                routing_key=key,
                priority=properties["priority"],
                due=due,
            )

        if name and self._is_fanout(exchange, name, declare or ()):
            self._fan_out(envelope(name, routing_key or "", None), timeout)
            return
        envelopes = [
            envelope(queue, routing_key or queue, due)
            for queue in self._queues(name, routing_key, declare or ())[: 1 if broker.routes else None]
        ]
        self._hand_over(envelopes, retry_policy if retry else None, timeout)

    def _queues(self, exchange: str, routing_key: str | None, declare: Sequence[Any]) -> list[str]:
        if not exchange:
            if not routing_key:
                raise QueueNotFound("a message without an exchange needs its queue's name as the routing key")
            return [routing_key]
        return queues_bound_to(exchange, routing_key or "", [*declare, *self.app.amqp.queues.values()])

    def _is_fanout(self, exchange: Any, name: str, declare: Sequence[Any]) -> bool:
        """Whether everybody who is bound to the exchange gets what is said there."""
        queues = (queue for queue in [*declare, *self.app.amqp.queues.values()] if isinstance(queue, kombu.Queue))
        known = [exchange, *(queue.exchange for queue in queues)]
        return any(getattr(each, "name", None) == name and each.type == "fanout" for each in known)

    def _fan_out(self, envelope: Envelope, timeout: float | None) -> None:
        """Said at once, also from within a job: who does not listen now will never hear it, so there is nothing to make safe."""
        try:
            self.broker.fan_out(envelope, timeout=self._seconds(timeout))
        except errors.PublishUnconfirmed as error:
            raise exceptions.PublishUnconfirmed(f"{error}. {IN_DOUBT}") from error
        except BrokerUnavailable as error:
            self._leave(self.broker)
            raise exceptions.NotPublished(f"{error}. {NOTHING_SENT.format(attempts=1, seconds=0.0)}") from error

    def _hand_over(self, envelopes: list[Envelope], retry_policy: Mapping[str, Any] | None, timeout: float | None) -> None:
        sink = _sink.get()
        if sink is not None and (self.url is not None or (sink.app is not None and sink.app is not self.app)):
            sink = None
        if not (tracing.enabled if sink is None else sink.traced):
            if sink is None:
                self.send(envelopes, retry_policy, timeout)
                return
            for envelope in envelopes:
                sink.add(envelope)
            return
        url = self.broker.url
        for envelope in envelopes:
            span = tracing.publish if sink is None else tracing.create
            task_id = envelope.headers.get("id")
            root = envelope.headers.get("root_id")
            with span(envelope.queue, url=url, message_id=task_id, conversation_id=root) as operation:
                assert isinstance(envelope.headers, dict)
                operation.inject(envelope.headers)
                if sink is None:
                    self.send([envelope], retry_policy, timeout)
                else:
                    sink.add(envelope)

    @property
    def broker(self) -> Broker:
        """The broker that it publishes to, found at its first use."""
        if self._broker is None:
            self._broker = broker_for(self.app, self.url, write=True)
        return self._broker

    @cached_property
    def _alternates(self) -> list[Broker]:
        """The brokers that it may publish to."""
        urls = broker_urls(self.app, write=True) if self.url is None else [self.url]
        return [broker_for(self.app, url) for url in urls]

    def _leave(self, broker: Broker) -> None:
        """Publish to the next of the alternates from now on, unless another thread has left this one already."""
        if self._broker is broker and broker in self._alternates:
            self._broker = self._alternates[(self._alternates.index(broker) + 1) % len(self._alternates)]

    @property
    def connection(self) -> Any:
        """A connection to that broker."""
        return self.app.connection_for_write(self.url)

    def send(
        self, envelopes: Sequence[Envelope], retry_policy: Mapping[str, Any] | None = None, timeout: float | None = None
    ) -> None:
        """Send the messages in one round trip.

        :param retry_policy: ``max_retries``, ``interval_start``, ``interval_step`` and ``interval_max`` (seconds); None: try once.
        :param timeout: seconds for all attempts together; None: the setting ``task_publish_timeout``.
        :raises NotPublished: nothing was sent.
        :raises PublishUnconfirmed: whether they arrived is unknown. This is not tried again: they might arrive twice.
        """
        within = self._seconds(timeout)
        began = time.monotonic()
        waits: Iterator[float] | None = None
        for attempt in count(1):
            broker = self.broker
            left = began + within - time.monotonic()
            try:
                # A share for each alternate that was not tried yet: one that is silent must not take the others' time.
                broker.publish(envelopes, timeout=left / max(1, len(self._alternates) - attempt + 1))
            except errors.PublishUnconfirmed as error:
                self._leave(broker)
                raise exceptions.PublishUnconfirmed(f"{error}. {IN_DOUBT}") from error
            except BrokerUnavailable as error:
                self._leave(broker)
                waits = waits or (iter(()) if retry_policy is None else _waits(retry_policy))
                wait = next(waits, None)
                passed = time.monotonic() - began
                if wait is None or passed + wait >= within:
                    raise exceptions.NotPublished(f"{error}. {NOTHING_SENT.format(attempts=attempt, seconds=passed)}") from error
                time.sleep(wait)
            else:
                return

    def _seconds(self, timeout: float | None) -> float:
        seconds = self._default_timeout if timeout is None else timeout
        if not 0 < seconds < float("inf"):
            raise ValueError(f"a publish takes a number of seconds above 0 as its timeout, not {seconds!r}")
        return seconds

    @cached_property
    def _default_timeout(self) -> float:
        """Seconds; read at the first publish, as Celery reads what a publish needs."""
        conf = self.app.conf
        return float(conf.get("task_publish_timeout") or conf.broker_connection_timeout or PUBLISH_TIMEOUT)

    # What programs do with producers that they get from a pool.

    @property
    def channel(self) -> Any:
        """AMQP channels do not exist here."""
        raise NotImplementedError("there are no AMQP channels here: publish through the producer, or use kombu.Connection yourself")

    def revive(self, channel: Any) -> None:
        """Nothing to revive: brokers connect again by themselves."""

    def declare(self) -> None:
        """Queues come into being with their first message."""

    maybe_declare = declare

    def release(self) -> None:
        """Nothing to give back."""

    close = release

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        pass


def _delivery_mode(mode: Any) -> int:
    return 1 if mode in {1, "transient"} else 2


def _due(headers: Mapping[str, Any]) -> float | None:
    eta = headers.get("eta")
    if not eta:
        return None
    moment = datetime.fromisoformat(eta)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _waits(policy: Mapping[str, Any]) -> Iterator[float]:
    """Seconds before each further attempt; endless when ``max_retries`` is None."""
    left = policy.get("max_retries", 3)
    wait = float(policy.get("interval_start", 0))
    step, longest = float(policy.get("interval_step", 0.2)), float(policy.get("interval_max", 1))
    while left is None or left > 0:
        yield min(wait, longest)
        wait += step
        left = None if left is None else left - 1


def queues_bound_to(exchange: str, routing_key: str, candidates: Sequence[Any]) -> list[str]:
    """The names of the queues that a message to an exchange reaches, as an AMQP broker would find them.

    :raises QueueNotFound: none does; an AMQP broker would drop the message.
    """
    found: dict[str, None] = {}
    for queue in candidates:
        if not isinstance(queue, kombu.Queue) or queue.exchange is None or queue.exchange.name != exchange:
            continue
        if _matches(queue.exchange.type, queue.routing_key or "", routing_key):
            found[queue.name] = None
    if not found:
        raise QueueNotFound(
            f"no queue in task_queues is bound to the exchange {exchange!r} with a routing key that matches {routing_key!r}; "
            "the message would be lost"
        )
    return list(found)


def _matches(kind: str, pattern: str, routing_key: str) -> bool:
    return _topic_matches(pattern.split("."), routing_key.split(".")) if kind == "topic" else pattern == routing_key


def _topic_matches(pattern: list[str], words: list[str]) -> bool:
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(_topic_matches(pattern[1:], words[skip:]) for skip in range(len(words) + 1))
    return bool(words) and pattern[0] in {"*", words[0]} and _topic_matches(pattern[1:], words[1:])


class ProducerPool:
    """Gives the app's producer. There is nothing to run out of."""

    def __init__(self, app: Celery) -> None:
        self._producer = Producer(app)
        self.limit = app.conf.broker_pool_limit

    def acquire(self, block: bool = False, timeout: float | None = None) -> Producer:  # noqa: ARG002 - kombu's signature
        """A producer; usable in a ``with`` statement."""
        return self._producer

    def force_close_all(self) -> None:
        """Nothing is kept open here."""

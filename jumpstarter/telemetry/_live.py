"""Spans and metrics when there is somebody to record them. Comes from: tracing. Goes to: the process's OpenTelemetry providers.

========================  ========  ==========================================  =================================
span                      kind      parent and links                            metrics
========================  ========  ==========================================  =================================
``send {queue}``          PRODUCER  the current span                            client.sent.messages,
                                                                                client.operation.duration
``create {queue}``        PRODUCER  the current span
``send {queue}`` (batch)  CLIENT    the current span; links its messages        as above, counting each message
``receive {queue}``       CLIENT    none; links its messages                    client.consumed.messages,
                                                                                client.operation.duration
``process {queue}``       CONSUMER  the context in the message's headers        process.duration
``settle {queue}``        CLIENT    none; links its messages                    client.operation.duration
a stage's name            INTERNAL  none; links its messages
========================  ========  ==========================================  =================================

Metrics are named ``messaging.…`` and carry no ids. Only processes that record import this module.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, MutableMapping
from contextvars import Token
from functools import lru_cache
from itertools import islice
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from opentelemetry import metrics, propagate, trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.metrics import Counter, Histogram, Meter
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.util.types import AttributeValue

from jumpstarter.telemetry.tracing import LINK_LIMIT, Headers, is_disabled, is_real

logger = logging.getLogger(__name__)

SCOPE = "jumpstarter"

SYSTEM = "messaging.system"
OPERATION_NAME = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
DESTINATION = "messaging.destination.name"
MESSAGE_ID = "messaging.message.id"
CONVERSATION_ID = "messaging.message.conversation_id"
MESSAGE_COUNT = "messaging.batch.message_count"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
ERROR_TYPE = "error.type"
JOB_NAME = "jumpstarter.job.name"
JOB_ATTEMPT = "jumpstarter.job.attempt"
JOB_STATUS = "jumpstarter.job.status"

# Attributes that are few in number, and so may go on metrics.
_METRIC_ATTRIBUTES = (SYSTEM, OPERATION_NAME, OPERATION_TYPE, DESTINATION, SERVER_ADDRESS, SERVER_PORT, JOB_NAME)

_SYSTEMS = {"rediss": "redis", "unix": "redis", "amqps": "rabbitmq", "amqp": "rabbitmq", "pyamqp": "rabbitmq", "sqs": "aws_sqs"}

# These have no server; their URLs name a file or an instance.
_EMBEDDED = ("memory", "sqlite")

# The conventions' advice for durations in seconds.
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)

Attributes = dict[str, AttributeValue]


@lru_cache(maxsize=64)
def server_attributes(url: str) -> Mapping[str, AttributeValue]:
    """What a broker's URL says about the system and its server; never its user or password."""
    scheme, _, _ = url.partition(":")
    found: Attributes = {SYSTEM: _SYSTEMS.get(scheme, scheme.partition("+")[0] or "unknown")}
    try:
        parts = urlsplit(url)
        if parts.hostname and found[SYSTEM] not in _EMBEDDED:
            found[SERVER_ADDRESS] = parts.hostname
            if parts.port:
                found[SERVER_PORT] = parts.port
    except ValueError:  # a port that is no number, brackets that are no address: the span does without
        pass
    return found


def type_name(error: BaseException) -> str:
    """The class of an error as ``error.type`` wants it."""
    cls = type(error)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


class _Lists(Getter[dict[str, list[str]]]):
    """Reads what :meth:`Live.extract` has prepared. Propagators ask for several fields of each message: that costs no call here."""

    get: Any = staticmethod(dict.get)
    keys: Any = staticmethod(list)


_LISTS = _Lists()
_MOST_KEPT = 4096  # contexts: more than a child may hold messages
_NO_CONTEXT = Context()


class _Instruments:
    """The conventions' metrics of a messaging client."""

    __slots__ = ("consumed", "duration", "process", "sent")

    def __init__(self, meter: Meter) -> None:
        self.sent: Counter = meter.create_counter(
            "messaging.client.sent.messages", "{message}", "Messages that were handed to the broker."
        )
        self.consumed: Counter = meter.create_counter(
            "messaging.client.consumed.messages", "{message}", "Messages that were claimed from the broker."
        )
        self.duration: Histogram = meter.create_histogram(
            "messaging.client.operation.duration",
            "s",
            "Duration of calls to the broker: send, receive, settle.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self.process: Histogram = meter.create_histogram(
            "messaging.process.duration", "s", "Duration of jobs.", explicit_bucket_boundaries_advisory=_SECONDS
        )


class _Recording:
    """An operation that is recorded; see :class:`jumpstarter.telemetry.tracing.Operation`."""

    __slots__ = (
        "_attributes",
        "_began",
        "_context",
        "_error",
        "_histogram",
        "_kind",
        "_links",
        "_live",
        "_name",
        "_sent",
        "_span",
        "_token",
    )

    def __init__(
        self,
        live: Live,
        name: str,
        kind: SpanKind,
        attributes: Attributes,
        *,
        context: Context | None = None,
        links: list[Link] | None = None,
        histogram: Histogram | None = None,
        sent: int = 0,
    ) -> None:
        self._live = live
        self._name = name
        self._kind = kind
        self._attributes = attributes
        self._context = context
        self._links = links
        self._histogram = histogram
        self._sent = sent
        self._error: BaseException | None = None
        self._span: Span = trace.INVALID_SPAN
        self._token: Token[Context] | None = None
        self._began = 0.0

    def begin(self) -> Self:
        self._began = time.perf_counter()
        try:
            self._span = self._live.tracer.start_span(self._name, self._context, self._kind, self._attributes, self._links)
            self._token = attach(set_span_in_context(self._span, self._context))
        except Exception as error:  # noqa: BLE001 - a user's span processor may raise anything; the job goes on
            self._live.complain(error)
        return self

    def end(self, error: BaseException | None = None) -> None:
        self.__exit__(None, error, None)

    def set(self, key: str, value: Any) -> None:
        self._span.set_attribute(key, value)

    def outcome(self, status: str, error: BaseException | None = None) -> None:
        self._error = error
        self._span.set_attribute(JOB_STATUS, status)

    def inject(self, headers: MutableMapping[str, Any]) -> None:
        self._live.inject(headers, set_span_in_context(self._span))

    __enter__ = begin

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        error = error or self._error
        seconds = time.perf_counter() - self._began
        try:
            if self._token is not None:
                detach(self._token)
                self._token = None
            if error is not None:
                mark_failed(self._span, error)
            self._span.end()
            if self._histogram is not None or self._sent:
                self._live.measure(self._attributes, self._histogram, seconds, error, sent=self._sent)
        except Exception as failure:  # noqa: BLE001 - as in begin
            self._live.complain(failure)


def mark_failed(span: Span, error: BaseException) -> None:
    """Say on the span what went wrong."""
    span.set_attribute(ERROR_TYPE, type_name(error))
    span.set_status(Status(StatusCode.ERROR, str(error) or None))
    # A span event, which the SDK is about to replace by a log record (OTEP 4430): until then it is what every viewer shows.
    span.record_exception(error)


class Live:
    """The process's tracer and meter."""

    def __init__(self, tracer: Tracer, meter: Meter | None) -> None:
        self.tracer = tracer
        self.instruments = _Instruments(meter) if meter is not None else None
        self._has_complained = False
        #: Contexts of messages that were received, by the identity of their headers (which are kept beside, so that it stays
        #: theirs): each is needed when its message is received, processed and settled, and to find it takes longer than all else.
        self._contexts: dict[int, tuple[Headers, Context]] = {}

    @classmethod
    def from_providers(cls) -> Live | None:
        """Made from the providers that were set in this process; None when there are none that record."""
        tracers, meters = trace.get_tracer_provider(), metrics.get_meter_provider()
        if is_disabled() or not (is_real(tracers) or is_real(meters)):
            return None
        return cls(
            tracers.get_tracer(SCOPE) if is_real(tracers) else trace.NoOpTracer(),
            meters.get_meter(SCOPE) if is_real(meters) else None,
        )

    def inject(self, headers: MutableMapping[str, Any], context: Context | None = None) -> None:
        try:
            propagate.inject(headers, context)
        except Exception as error:  # noqa: BLE001 - a user's propagator may raise anything; the message is sent without its context
            self.complain(error)

    def extract(self, headers: Headers) -> Context:
        """The context in message headers; empty when there is none or it cannot be read."""
        fields: dict[str, list[str]] = {}
        try:
            for name, value in headers.items():  # headers may hold anything: only text can be a context
                if isinstance(value, str):
                    fields[name] = [value]
            return propagate.extract(fields, _NO_CONTEXT, _LISTS)
        except Exception as error:  # noqa: BLE001 - as in inject; headers come from strangers
            self.complain(error)
            return _NO_CONTEXT

    def links(self, all_headers: Iterable[Headers], *, keep: bool = False) -> list[Link]:
        """A link to each of the first 128 messages that has a context. ``keep`` the contexts until the messages are settled."""
        links = []
        for headers in islice(all_headers, LINK_LIMIT):
            known = self._contexts.get(id(headers))
            context = self.extract(headers) if known is None else known[1]
            if keep and known is None:
                self._contexts[id(headers)] = headers, context
            linked = trace.get_current_span(context).get_span_context()
            if linked.is_valid:
                links.append(Link(linked))
        return links

    def publish(
        self, queue: str, url: str, message_id: str | None, conversation_id: str | None, extra: Mapping[str, Any] | None
    ) -> _Recording:
        attributes = self._message(queue, url, "send", "send", message_id, conversation_id, extra)
        return _Recording(self, f"send {queue}", SpanKind.PRODUCER, attributes, histogram=self._duration, sent=1)

    def create(
        self, queue: str, url: str, message_id: str | None, conversation_id: str | None, extra: Mapping[str, Any] | None
    ) -> _Recording:
        attributes = self._message(queue, url, "create", "create", message_id, conversation_id, extra)
        return _Recording(self, f"create {queue}", SpanKind.PRODUCER, attributes)

    def send(self, queue: str, headers: Iterable[Headers], url: str, count: int) -> _Recording:
        attributes = self._batch(queue, url, "send", count)
        return _Recording(
            self, f"send {queue}", SpanKind.CLIENT, attributes, links=self.links(headers), histogram=self._duration, sent=count
        )

    def process(
        self,
        queue: str,
        headers: Headers,
        url: str,
        message_id: str,
        conversation_id: str | None,
        job: str,
        attempt: int,
        extra: Mapping[str, Any] | None,
    ) -> _Recording:
        # As _message does it, but once for every job, and so without a call.
        attributes: Attributes = {
            **server_attributes(url),
            OPERATION_NAME: "process",
            OPERATION_TYPE: "process",
            DESTINATION: queue,
            MESSAGE_ID: message_id,
        }
        if conversation_id:
            attributes[CONVERSATION_ID] = str(conversation_id)
        if extra:
            attributes.update(extra)
        if job:
            attributes[JOB_NAME] = job
        if attempt > 1:
            attributes[JOB_ATTEMPT] = attempt
        histogram = self.instruments.process if self.instruments is not None else None
        known = self._contexts.get(id(headers))
        context = self.extract(headers) if known is None else known[1]
        return _Recording(self, f"process {queue}", SpanKind.CONSUMER, attributes, context=context, histogram=histogram)

    def received(
        self, queue: str, headers: Iterable[Headers], url: str, count: int, seconds: float, error: BaseException | None
    ) -> None:
        attributes = self._batch(queue, url, "receive", count)
        if len(self._contexts) > _MOST_KEPT:  # of messages that were never settled here
            self._contexts.clear()
        self._record(f"receive {queue}", attributes, self.links(headers, keep=True), seconds, error)
        if self.instruments is not None:
            self.measure(attributes, self.instruments.duration, seconds, error)
            self.instruments.consumed.add(count, _few(attributes))

    def settled(
        self, queue: str, headers: Iterable[Headers], url: str, count: int, seconds: float, error: BaseException | None
    ) -> None:
        attributes = self._batch(queue, url, "settle", count)
        all_headers = list(headers)
        self._record(f"settle {queue}", attributes, self.links(all_headers), seconds, error)
        for one in all_headers:
            self._contexts.pop(id(one), None)
        self.measure(attributes, self._duration, seconds, error)

    def stage(self, name: str, headers: Iterable[Headers], extra: Mapping[str, Any] | None) -> _Recording:
        return _Recording(self, name, SpanKind.INTERNAL, dict(extra or {}), context=_NO_CONTEXT, links=self.links(headers))

    def span(self, name: str, extra: Mapping[str, Any] | None) -> _Recording:
        return _Recording(self, name, SpanKind.INTERNAL, dict(extra or {}))

    def measure(
        self, attributes: Attributes, histogram: Histogram | None, seconds: float, error: BaseException | None, *, sent: int = 0
    ) -> None:
        """Record a duration and what was sent, under the attributes that may go on metrics."""
        if self.instruments is None:
            return
        few = _few(attributes)
        if error is not None:
            few[ERROR_TYPE] = type_name(error)
        if histogram is not None:
            histogram.record(seconds, few)
        if sent:
            self.instruments.sent.add(sent, few)

    def complain(self, error: Exception) -> None:
        """Say once in this process that telemetry does not work."""
        if not self._has_complained:
            self._has_complained = True
            logger.warning("telemetry failed and was skipped (said once): %s", error, exc_info=error)

    @property
    def _duration(self) -> Histogram | None:
        return self.instruments.duration if self.instruments is not None else None

    def _record(self, name: str, attributes: Attributes, links: list[Link], seconds: float, error: BaseException | None) -> None:
        """A CLIENT span of a call that has ended just now."""
        try:
            now = time.time_ns()
            span = self.tracer.start_span(
                name, _NO_CONTEXT, SpanKind.CLIENT, attributes, links, start_time=now - int(seconds * 1e9)
            )
            if error is not None:
                mark_failed(span, error)
            span.end(now)
        except Exception as failure:  # noqa: BLE001 - as in _Recording.begin
            self.complain(failure)

    @staticmethod
    def _message(
        queue: str,
        url: str,
        name: str,
        kind: str,
        message_id: str | None,
        conversation_id: str | None,
        extra: Mapping[str, Any] | None,
    ) -> Attributes:
        attributes: Attributes = {**server_attributes(url), OPERATION_NAME: name, OPERATION_TYPE: kind, DESTINATION: queue}
        if message_id:
            attributes[MESSAGE_ID] = str(message_id)
        if conversation_id:
            attributes[CONVERSATION_ID] = str(conversation_id)
        if extra:
            attributes.update(extra)
        return attributes

    @staticmethod
    def _batch(queue: str, url: str, name: str, count: int) -> Attributes:
        return {**server_attributes(url), OPERATION_NAME: name, OPERATION_TYPE: name, DESTINATION: queue, MESSAGE_COUNT: count}


def _few(attributes: Attributes) -> Attributes:
    return {key: attributes[key] for key in _METRIC_ATTRIBUTES if key in attributes}

"""The spans of messages, and the W3C context that ties them together. Comes from: publishers, worker. Goes to: OpenTelemetry.

Every function here may be called at any time. While OpenTelemetry is off they do nothing and load nothing; callers on a hot path
ask first and then make not one call::

    if tracing.enabled:
        with tracing.process(queue, headers, url=url, message_id=job.id) as span:
            ...

``enabled`` is True once a tracer provider or a meter provider is there, whoever set it up: :func:`jumpstarter.telemetry.configure`,
the user's code or ``opentelemetry-instrument``. True is for good. False is for good only after ``configure`` was called, which a
worker does once; a client never calls it, and may well set its provider after its first publish, so there False is looked up again
(0.6 µs). Always read it as ``tracing.enabled``: ``from … import enabled`` would keep what was true at the import.

Names and attributes are those of the messaging conventions 1.44 (status: Development); :mod:`jumpstarter.telemetry._live` has the
table.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, MutableMapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    from jumpstarter.telemetry._live import Live

#: A batch links at most this many of its messages.
LINK_LIMIT = 128

Headers = Mapping[str, Any]

#: True while spans or metrics are recorded. Resolved by the module's ``__getattr__`` until it is known for good.
enabled: bool


class Operation(Protocol):
    """A span that is the current one between ``begin`` and ``end``, or between the ends of a ``with`` block.

    Both ends belong into the same task or thread. What a block raises goes on and marks the span as failed. Nothing here raises.
    """

    def begin(self) -> Self:
        """Start it and make it the current span."""
        ...

    def end(self, error: BaseException | None = None) -> None:
        """Finish it, as failed when there is an ``error``."""
        ...

    def set(self, key: str, value: Any) -> None:
        """Add an attribute."""
        ...

    def outcome(self, status: str, error: BaseException | None = None) -> None:
        """Say what came of the job (Celery's state names) and, if it failed, by what."""
        ...

    def inject(self, headers: MutableMapping[str, Any]) -> None:
        """Put this span's context into message headers."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None: ...


class _Off:
    """What every function returns while nothing is recorded."""

    __slots__ = ()

    def begin(self) -> Self:
        return self

    def end(self, error: BaseException | None = None) -> None:
        pass

    def set(self, key: str, value: Any) -> None:
        pass

    def outcome(self, status: str, error: BaseException | None = None) -> None:
        pass

    def inject(self, headers: MutableMapping[str, Any]) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        pass


OFF = _Off()


class _Process:
    """What this process knows about its providers."""

    __slots__ = ("has_looked", "is_final", "live")

    def __init__(self) -> None:
        self.live: Live | None = None
        self.has_looked = False
        self.is_final = False

    def resolve(self) -> Live | None:
        if self.live is not None or self.is_final or (self.has_looked and is_untouched()):
            return self.live
        if is_configured():
            self.has_looked = True
            from jumpstarter.telemetry._live import Live  # noqa: PLC0415 - only a process that records loads OpenTelemetry

            self.live = Live.from_providers()
            if self.live is not None:
                self.settle()
        return self.live

    def settle(self) -> None:
        """What is known now is for good."""
        self.is_final = True
        globals()["enabled"] = self.live is not None

    def switch_off(self) -> None:
        self.live = None
        self.settle()


_process = _Process()


def is_untouched() -> bool:
    """Whether nobody has set a provider in this process, as far as can be told at a glance.

    Others than users load the API and the SDK (redis-py 8 does with its first connection), and asking the API reads the environment
    twice, 4 µs for each publish. These names of the API are private: where one is missing, the answer is that somebody may have.
    """
    trace, metrics = sys.modules.get("opentelemetry.trace"), sys.modules.get("opentelemetry.metrics._internal")
    return getattr(trace, "_TRACER_PROVIDER", trace) is None and getattr(metrics, "_METER_PROVIDER", metrics) is None


def is_configured() -> bool:
    """Whether somebody may have set an OpenTelemetry provider in this process. Cheap: who has set one has imported the API."""
    return "opentelemetry.sdk" in sys.modules or (
        "opentelemetry.trace" in sys.modules and is_real(sys.modules["opentelemetry.trace"].get_tracer_provider())
    )


def is_real(provider: object) -> bool:
    """Whether it records. The API's own providers (proxies and no-ops) do not; every other one belongs to an SDK."""
    return not type(provider).__module__.startswith(("opentelemetry.trace", "opentelemetry.metrics", "opentelemetry._logs"))


def is_disabled() -> bool:
    """Whether ``OTEL_SDK_DISABLED`` switches everything off."""
    return os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def settle_providers() -> bool:
    """Look for providers once more, and then no more in this process; answer ``enabled``. For ``configure``."""
    _process.resolve()
    _process.settle()
    return _process.live is not None


def switch_off() -> None:
    """Record nothing any more in this process. For the end of a process whose providers are shut down."""
    _process.switch_off()


def inject(headers: MutableMapping[str, Any]) -> None:
    """Put the current span's context into headers: ``traceparent``, ``tracestate``, ``baggage``, or what OTEL_PROPAGATORS says."""
    if (live := _process.resolve()) is not None:
        live.inject(headers)


def publish(
    queue: str,
    *,
    url: str,
    message_id: str | None = None,
    conversation_id: str | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> Operation:
    """``send {queue}``: one message is published. Inject its context into the message's headers inside the block."""
    live = _process.resolve()
    return OFF if live is None else live.publish(queue, url, message_id, conversation_id, attributes)


def create(
    queue: str,
    *,
    url: str,
    message_id: str | None = None,
    conversation_id: str | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> Operation:
    """``create {queue}``: one message of a batch is made; its context goes into its headers. The batch itself is :func:`send`."""
    live = _process.resolve()
    return OFF if live is None else live.create(queue, url, message_id, conversation_id, attributes)


def send(queue: str, headers: Iterable[Headers], *, url: str, count: int) -> Operation:
    """``send {queue}``: a batch of ``count`` messages is published in one call. Links the contexts in their headers."""
    live = _process.resolve()
    return OFF if live is None else live.send(queue, headers, url, count)


def process(
    queue: str,
    headers: Headers,
    *,
    url: str,
    message_id: str,
    conversation_id: str | None = None,
    job: str = "",
    attempt: int = 1,
    attributes: Mapping[str, Any] | None = None,
) -> Operation:
    """``process {queue}``: a job runs. Its parent is the context in the message's headers.

    :param job: the name of what runs (a Celery task's name).
    :param attempt: the number of the delivery; recorded when it is not the first.
    """
    live = _process.live or _process.resolve()
    return OFF if live is None else live.process(queue, headers, url, message_id, conversation_id, job, attempt, attributes)


def received(
    queue: str, headers: Iterable[Headers], *, url: str, count: int, seconds: float, error: BaseException | None = None
) -> None:
    """``receive {queue}``: a claim that took ``seconds`` and ended just now brought ``count`` messages, whose contexts are linked.

    Say nothing about claims that brought none: an idle worker makes no traces.
    """
    if (live := _process.live or _process.resolve()) is not None:
        live.received(queue, headers, url, count, seconds, error)


def settled(
    queue: str, headers: Iterable[Headers], *, url: str, count: int, seconds: float, error: BaseException | None = None
) -> None:
    """``settle {queue}``: ``count`` messages were settled in one call that took ``seconds`` and ended just now."""
    if (live := _process.live or _process.resolve()) is not None:
        live.settled(queue, headers, url, count, seconds, error)


def stage(name: str, *, headers: Iterable[Headers] = (), attributes: Mapping[str, Any] | None = None) -> Operation:
    """``name``: one run of a stage of an actor's loop, for example ``poll orders``. A trace of its own, linked to the messages."""
    live = _process.resolve()
    return OFF if live is None else live.stage(name, headers, attributes)


def span(name: str, *, attributes: Mapping[str, Any] | None = None) -> Operation:
    """``name``: something inside what happens now, for example ``acquire db``; a child of the current span."""
    live = _process.resolve()
    return OFF if live is None else live.span(name, attributes)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> bool:
        if name == "enabled":
            return _process.resolve() is not None
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

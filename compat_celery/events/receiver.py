"""Receives events, and hands them to functions. Comes from: the exchange ``celeryev``. Used by: monitors."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from kombu import Queue
from kombu.mixins import ConsumerMixin
from kombu.utils.uuid import uuid

from compat_celery._names import celery_named
from compat_celery.events.event import get_exchange

__all__ = ("EventReceiver",)


@celery_named
class EventReceiver(ConsumerMixin):  # type: ignore[misc] # kombu has no annotations
    """Gets all events from now on.

    :param channel: Kombu's connection, or a channel of one.
    :param handlers: functions by the type of the events that they take; ``*`` takes those that nobody else does.
    :param routing_key: which events: ``task.#``, ``worker.#``, or ``#`` for all.
    """

    app: Any = None

    def __init__(
        self,
        channel: Any,
        handlers: Mapping[str, Callable[[Any], Any]] | None = None,
        routing_key: str = "#",
        node_id: str | None = None,
        app: Any = None,
        queue_prefix: str | None = None,
        accept: Any = None,
        queue_ttl: float | None = None,
        queue_expires: float | None = None,
    ) -> None:
        self.app = app or self.app
        conf = self.app.conf
        self.channel = channel
        self.connection = getattr(channel, "client", None) or getattr(channel, "connection", channel)
        if hasattr(channel, "default_channel"):
            self.connection = channel
        self.handlers = dict(handlers or {})
        self.routing_key = routing_key
        self.node_id = node_id or uuid()
        self.queue_prefix = queue_prefix or conf.event_queue_prefix
        self.exchange = get_exchange(self.connection, conf.event_exchange)
        self.queue = Queue(
            f"{self.queue_prefix}.{self.node_id}",
            exchange=self.exchange,
            routing_key=routing_key,
            auto_delete=True,
            durable=False,
            message_ttl=conf.event_queue_ttl if queue_ttl is None else queue_ttl,
            expires=conf.event_queue_expires if queue_expires is None else queue_expires,
        )
        self.accept = {conf.event_serializer, "json"} if accept is None else accept

    def get_consumers(self, Consumer: Any, channel: Any) -> list[Any]:  # noqa: ARG002, N803 - kombu's signature
        """Kombu's hook: what to listen to."""
        return [Consumer(queues=[self.queue], callbacks=[self._receive], no_ack=True, accept=self.accept)]

    def itercapture(self, limit: int | None = None, timeout: float | None = None, wakeup: bool = True) -> Iterator[Any]:
        """Receive, one step at a time; the first step says that it listens."""
        if wakeup:
            self.wakeup_workers()
        return self.consume(limit=limit, timeout=timeout)  # type: ignore[no-any-return] # kombu's

    def capture(self, limit: int | None = None, timeout: float | None = None, wakeup: bool = True) -> None:
        """Receive until there were ``limit`` events (None: for ever).

        :raises socket.timeout: none came for ``timeout`` seconds.
        """
        for _ in self.itercapture(limit=limit, timeout=timeout, wakeup=wakeup):
            pass

    def wakeup_workers(self, channel: Any = None) -> None:
        """Ask all workers for a heartbeat."""
        self.app.control.broadcast("heartbeat", connection=self.connection, channel=channel)

    def process(self, type: str, event: Any) -> None:  # noqa: A002 - Celery's name
        """Hand an event to who takes it."""
        handler = self.handlers.get(type) or self.handlers.get("*")
        if handler is not None:
            handler(event)

    def event_from_message(self, body: dict[str, Any], localize: bool = True) -> tuple[str, dict[str, Any]]:  # noqa: ARG002 - Celery's
        """The type of an event that arrived, and the event with when that was. Adjusts the logical clock."""
        clock = body.get("clock")
        if clock is None:
            body["clock"] = self.app.clock.forward()
        else:
            self.app.clock.adjust(clock)
        body["local_received"] = time.time()
        return body["type"], body

    def _receive(self, body: Any, message: Any) -> None:  # noqa: ARG002 - kombu's signature
        for event in body if isinstance(body, list) else [body]:
            self.process(*self.event_from_message(event))

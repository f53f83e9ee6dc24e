"""Sends events. Comes from: the app's task-sent events, programs. Goes to: the exchange ``celeryev``, by Kombu."""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import kombu

from compat_celery._names import celery_named
from compat_celery.app.publisher import Producer
from compat_celery.events.event import Event, get_exchange, group_from
from compat_celery.utils.nodenames import anon_nodename
from compat_celery.utils.time import utcoffset

__all__ = ("EventDispatcher",)


@celery_named
class EventDispatcher:
    """Sends events, and keeps those that cannot be sent now.

    :param connection: Kombu's; or a ``channel`` of one. Without both, only :meth:`publish` with a producer works.
    :param enabled: whether :meth:`send` sends anything.
    :param groups: send events of these groups (``task``, ``worker``) alone.
    :param buffer_group: groups whose events are sent together, at most ``buffer_limit`` at a time.
    :param buffer_while_offline: keep what cannot be sent for :meth:`flush`, instead of raising.
    """

    app: Any = None

    def __init__(
        self,
        connection: Any = None,
        hostname: str | None = None,
        enabled: bool = True,
        channel: Any = None,
        buffer_while_offline: bool = True,
        app: Any = None,
        serializer: str | None = None,
        groups: Iterable[str] | None = None,
        delivery_mode: int = 1,
        buffer_group: Iterable[str] | None = None,
        buffer_limit: int = 24,
        on_send_buffered: Callable[[], Any] | None = None,
    ) -> None:
        self.app = app or self.app

        self.connection = connection
        self.channel = channel
        self.hostname = hostname or anon_nodename()
        self.enabled = enabled
        self.buffer_while_offline = buffer_while_offline
        self.serializer = serializer or self.app.conf.event_serializer
        self.groups = set(groups or ())
        self.delivery_mode = delivery_mode
        self.buffer_group = frozenset(buffer_group or ())
        self.buffer_limit = buffer_limit
        self.on_send_buffered = on_send_buffered
        self.pid = os.getpid()
        self.mutex = threading.Lock()
        self._outbound_buffer: deque[tuple[Any, str]] = deque()
        self._group_buffer: defaultdict[str, list[Any]] = defaultdict(list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def enable(self) -> None:
        """Send from now on."""
        self.enabled = True

    def disable(self) -> None:
        """Send nothing from now on."""
        self.enabled = False

    def send(self, type: str, blind: bool = False, **fields: Any) -> None:  # noqa: A002 - Celery's name
        """Send an event of this type, or put it to those that are sent together.

        :param blind: without advancing the logical clock.
        """
        group = group_from(type)
        if not self.enabled or (self.groups and group not in self.groups):
            return
        if group not in self.buffer_group:
            with self._producer() as producer:
                self.publish(type, fields, producer, blind=blind)
            return
        waiting = self._group_buffer[group]
        waiting.append(self._event(type, fields, blind))
        if len(waiting) >= self.buffer_limit:
            self.flush(errors=False)
        elif self.on_send_buffered:
            self.on_send_buffered()

    def publish(
        self,
        type: str,  # noqa: A002 - Celery's name
        fields: Mapping[str, Any],
        producer: Any,
        blind: bool = False,
        retry: bool = False,
        retry_policy: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> None:
        """Send an event by this producer."""
        event = self._event(type, {**fields, **more}, blind)
        if not isinstance(producer, Producer):
            self._publish(event, producer, type.replace("-", "."), retry=retry, retry_policy=retry_policy)
            return
        # Tasks go by a producer of ours, which knows no exchanges but those of tasks.
        with self.app.connection_or_acquire() as connection:
            self._publish(event, kombu.Producer(connection), type.replace("-", "."), retry=retry, retry_policy=retry_policy)

    def _event(self, kind: str, fields: Mapping[str, Any], blind: bool) -> dict[str, Any]:
        common = {"hostname": self.hostname, "utcoffset": utcoffset(), "pid": self.pid, "clock": None}
        if not blind:
            common["clock"] = self.app.clock.forward()
        return Event(kind, {**common, "timestamp": time.time(), **fields})

    def _publish(self, event: Any, producer: Any, routing_key: str, **options: Any) -> None:
        exchange = get_exchange(producer.connection, self.app.conf.event_exchange)
        try:
            producer.publish(
                event,
                routing_key=routing_key,
                exchange=exchange.name,
                declare=[exchange],
                serializer=self.serializer,
                headers={"hostname": self.hostname},
                delivery_mode=self.delivery_mode,
                **options,
            )
        except Exception:
            if not self.buffer_while_offline:
                raise
            self._outbound_buffer.append((event, routing_key))

    @contextmanager
    def _producer(self) -> Iterator[Any]:
        with self.mutex:
            yield kombu.Producer(self.channel or self.connection, serializer=self.serializer)

    def flush(self, errors: bool = True, groups: bool = True) -> None:
        """Send what could not be sent before (``errors``), and what waits to be sent together (``groups``)."""
        with self._producer() as producer:
            for _ in range(len(self._outbound_buffer) if errors else 0):
                event, routing_key = self._outbound_buffer.popleft()
                self._publish(event, producer, routing_key)
            for group, events in self._group_buffer.items() if groups else ():
                if events:
                    self._publish(list(events), producer, f"{group}.multi")
                    events.clear()

    def extend_buffer(self, other: EventDispatcher) -> None:
        """Take over what another one could not send."""
        self._outbound_buffer.extend(other._outbound_buffer)

    def close(self) -> None:
        """Send no more. The connection stays open: it is somebody else's."""
        self.enabled = False

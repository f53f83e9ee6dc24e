"""One event, and the exchange that events go through. Pure."""

from __future__ import annotations

import time
from typing import Any

from kombu import Exchange

__all__ = ("Event", "event_exchange", "get_exchange", "group_from")

EVENT_EXCHANGE_NAME = "celeryev"

#: As it is on AMQP; :func:`get_exchange` knows the broker.
event_exchange = Exchange(EVENT_EXCHANGE_NAME, type="topic")

#: Transports where everybody gets every event: they have no topics, or none that scale.
_FANOUT_ONLY = frozenset({"redis", "gcpubsub"})


def Event(type: str, _fields: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:  # noqa: A002, N802 - Celery's
    """An event is a mapping with a ``type`` (``task-sent``) and a ``timestamp`` (now, unless given; seconds)."""
    event = {**(_fields or {}), **fields}
    event.setdefault("timestamp", time.time())
    event["type"] = type
    return event


def group_from(type: str) -> str:  # noqa: A002 - Celery's name
    """What an event is about: ``task-sent`` → ``task``."""
    return type.partition("-")[0]


def get_exchange(conn: Any, name: str = EVENT_EXCHANGE_NAME) -> Exchange:
    """The exchange on this connection's broker."""
    kind = "fanout" if conn.transport.driver_type in _FANOUT_ONLY else event_exchange.type
    return Exchange(name, type=kind)

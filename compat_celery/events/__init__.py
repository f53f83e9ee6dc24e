"""Monitoring events: :mod:`.event` makes them, :mod:`.state` keeps what they say about a cluster.

Sending and receiving them on the wire is still to come (``app.events`` says so)."""

from __future__ import annotations

from compat_celery.events.event import Event, event_exchange, get_exchange, group_from

__all__ = ("Event", "event_exchange", "get_exchange", "group_from")

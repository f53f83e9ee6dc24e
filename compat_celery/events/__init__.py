"""Monitoring events: :mod:`.event` makes them, :mod:`.dispatcher` sends them, :mod:`.receiver` hears them, :mod:`.state` keeps what
they say about a cluster.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from compat_celery.events.event import Event, event_exchange, get_exchange, group_from

if TYPE_CHECKING:
    from compat_celery.events.dispatcher import EventDispatcher
    from compat_celery.events.receiver import EventReceiver

__all__ = ("Event", "EventDispatcher", "EventReceiver", "event_exchange", "get_exchange", "group_from")

#: What most programs never use is imported when somebody asks for it.
_LATER = {"EventDispatcher": "dispatcher", "EventReceiver": "receiver"}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

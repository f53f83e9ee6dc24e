"""``app.events``: classes for monitoring events, for this app. Goes to: compat_celery.events."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from compat_celery._names import celery_named

if TYPE_CHECKING:
    from compat_celery.app.base import Celery

__all__ = ("Events",)


@celery_named
class Events:
    """``app.events``. What workers send is in :mod:`compat_celery.worker.reports`; clients send ``task-sent``."""

    receiver_cls = "celery.events.receiver:EventReceiver"
    dispatcher_cls = "celery.events.dispatcher:EventDispatcher"
    state_cls = "celery.events.state:State"

    def __init__(self, app: Celery | None = None) -> None:
        self.app: Any = app

    @cached_property
    def Receiver(self) -> Any:  # noqa: N802 - Celery's public name
        """Receives events."""
        return self.app.subclass_with_self(self.receiver_cls, reverse="events.Receiver")

    @cached_property
    def Dispatcher(self) -> Any:  # noqa: N802 - Celery's public name
        """Sends events."""
        return self.app.subclass_with_self(self.dispatcher_cls, reverse="events.Dispatcher")

    @cached_property
    def State(self) -> Any:  # noqa: N802 - Celery's public name
        """Keeps what events say about the cluster."""
        return self.app.subclass_with_self(self.state_cls, reverse="events.State")

    @contextmanager
    def default_dispatcher(
        self, hostname: str | None = None, enabled: bool = True, buffer_while_offline: bool = False
    ) -> Iterator[Any]:
        """A dispatcher on a connection of the app's pool, for as long as the block lasts."""
        with self.app.connection_or_acquire() as connection:
            yield self.Dispatcher(connection, hostname, enabled, buffer_while_offline=buffer_while_offline)

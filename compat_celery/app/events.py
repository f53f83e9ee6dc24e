"""Monitoring events. Not there yet: receivers and dispatchers say so. Comes from: ``app.events``, ``Task.send_event``."""

from __future__ import annotations

import logging
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from compat_celery._names import celery_named

if TYPE_CHECKING:
    from compat_celery.app.base import Celery

__all__ = ("Events",)

logger = logging.getLogger("celery.app.events")


def _not_yet(name: str) -> NoReturn:
    raise NotImplementedError(
        f"{name}: monitoring events are still to come. What happens to tasks is in the workers' logs and OpenTelemetry spans."
    )


@celery_named
class Events:
    """``app.events``."""

    def __init__(self, app: Celery | None = None) -> None:
        self.app = app

    def Dispatcher(self, *_: Any, **__: Any) -> _Silent:  # noqa: N802 - Celery's public name
        """Sends events: none yet, and says so once where one is sent."""
        return _Silent()

    def Receiver(self, *_: Any, **__: Any) -> NoReturn:  # noqa: N802 - Celery's public name
        """Receives events."""
        _not_yet("app.events.Receiver")

    @cached_property
    def State(self) -> Any:  # noqa: N802 - Celery's public name
        """The class that keeps what events say about the cluster."""
        assert self.app is not None
        return self.app.subclass_with_self("celery.events.state:State", reverse="events.State")

    def default_dispatcher(self, *_: Any, **__: Any) -> NoReturn:
        """Sends events of a task (``Task.send_event``)."""
        _not_yet("app.events.default_dispatcher")


class _Silent:
    """A dispatcher that sends nothing. Programs that only switch events on keep running."""

    enabled = False
    warned = False

    def publish(self, kind: str, *_: Any, **__: Any) -> None:
        """Say, once per process, that no event is sent."""
        if not _Silent.warned:
            _Silent.warned = True
            logger.warning("no %s event is sent: monitoring events are still to come (setting task_send_sent_event)", kind)

    send = publish

"""Remote control of workers. Not there yet: calling a command says so. Comes from: ``app.control``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from compat_celery._names import celery_named

if TYPE_CHECKING:
    from compat_celery.app.base import Celery

__all__ = ("Control", "Inspect")


def _not_yet(name: str) -> NoReturn:
    raise NotImplementedError(
        f"{name}: remote control of workers is still to come. What a worker does is in its log and its OpenTelemetry spans; "
        "to stop one, send SIGTERM to its process."
    )


@celery_named
class Inspect:
    """Questions to workers."""

    def __init__(
        self,
        destination: Any = None,
        timeout: float = 1.0,
        callback: Any = None,
        connection: Any = None,
        app: Celery | None = None,
        limit: int | None = None,
        pattern: str | None = None,
        matcher: str | None = None,
    ) -> None:
        self.app = app
        self.destination = destination
        self.timeout = timeout
        self.callback = callback
        self.connection = connection
        self.limit = limit
        self.pattern = pattern
        self.matcher = matcher

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        _not_yet(f"control.inspect().{name}")


@celery_named
class Control:
    """Commands to workers."""

    def __init__(self, app: Celery | None = None) -> None:
        self.app = app

    def inspect(self, *args: Any, **kwargs: Any) -> Inspect:
        """Questions to these workers."""
        return Inspect(*args, **{"app": self.app, **kwargs})

    def purge(self, connection: Any = None) -> int:  # noqa: ARG002 - Celery's signature
        """Drop all messages that wait in the app's queues; answers how many."""
        from compat_celery.app.publisher import broker_for  # noqa: PLC0415 - it imports the brokers

        assert self.app is not None
        broker = broker_for(self.app)
        return sum(broker.purge(name) for name in self.app.amqp.queues.consume_from)

    discard_all = purge

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        _not_yet(f"control.{name}")

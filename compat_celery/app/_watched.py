"""A Kombu producer that hands on to ours: what agents put in the place of ``kombu.Producer.publish`` runs around it. Made by:
agents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kombu

__all__ = ("publish_watched",)


class _Watched(kombu.Producer):  # type: ignore[misc] # kombu has no annotations
    """Goes in at ``publish``, which agents replaced, and comes out where Kombu would have spoken with a broker."""

    def __init__(self, producer: Any, options: dict[str, Any]) -> None:
        # Not Kombu's own: there is no channel.
        self.real = producer
        self.options = options
        self.exchange = kombu.Exchange("")

    @property
    def connection(self) -> Any:
        """A connection that can be looked at."""
        return self.real.connection

    def _prepare(self, body: Any, *_: Any, **__: Any) -> tuple[Any, None, None]:
        return body, None, None  # our producer serialises

    def _delivery_details(self, exchange: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
        return exchange, None

    def _publish(self, body: Any, _priority: Any, _type: Any, _encoding: Any, headers: Any, *_: Any, **__: Any) -> Any:
        # Agents add to the headers, in place or by handing on others; the rest is as it was.
        return self.real.publish(body, headers=headers, **self.options)


def publish_watched(producer: Any) -> Callable[..., Any]:
    """``producer.publish``, by way of Kombu's."""

    def publish(body: Any, *, headers: Any = None, **options: Any) -> Any:
        # Without retry: our producer does that itself, and Kombu would ask a connection for it.
        return _Watched(producer, options).publish(body, headers=headers, **{**options, "retry": False})

    return publish

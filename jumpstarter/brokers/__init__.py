"""Brokers: where messages wait, and who holds which. Implementations of :class:`jumpstarter.abc.broker.Broker`.

- ``memory``: one process; for tests and embedded workers.
- ``sqlite``: one file for the processes of one machine; durable, nothing to install; the default.
- ``redis``: many machines; Kombu's layout, so genuine Celery workers and clients share the queues.
- ``kombu``: RabbitMQ (AMQP), and whatever else Kombu can talk to, sharing the queues with genuine Celery.

They do not know each other nor the results stores. Every one of them has to pass :mod:`jumpstarter.testing.broker_kit`.
"""

from __future__ import annotations

from typing import Any

from jumpstarter.abc.broker import Broker
from jumpstarter.errors import ConfigurationError

__all__ = ["open_broker"]


def open_broker(url: str, **options: Any) -> Broker:
    """The broker at the URL. Connects at first use.

    :param url: ``memory://name``, ``sqlite:///file.db``, ``redis://host:port/db``, ``rediss://…``, ``redis+socket:///path``,
        ``amqp://user:password@host:port/vhost``, ``amqps://…``, or any other that Kombu knows (``sqs://``, ``filesystem://`` …).
    :param options: keyword options of the broker's class.
    :raises ConfigurationError: no broker has that scheme, or the URL cannot be used.
    """
    match url.partition("://")[0]:
        case "memory":
            from jumpstarter.brokers.memory import MemoryBroker  # noqa: PLC0415  only what is used is imported

            return MemoryBroker(url, **options)
        case "sqlite":
            from jumpstarter.brokers.sqlite import SqliteBroker  # noqa: PLC0415

            return SqliteBroker(url, **options)
        case "redis" | "rediss" | "redis+socket" | "unix":
            from jumpstarter.brokers.redis import RedisBroker  # noqa: PLC0415

            return RedisBroker(url, **options)
        case "amqp" | "amqps" | "pyamqp" | "librabbitmq":
            from jumpstarter.brokers.kombu import AmqpBroker  # noqa: PLC0415

            return AmqpBroker(url, **options)
        case scheme:
            from jumpstarter.brokers.kombu import KombuBroker, schemes  # noqa: PLC0415

            if scheme.partition("+")[0] in (others := schemes()):
                return KombuBroker(url, **options)
            raise ConfigurationError(
                f"no broker has the scheme {scheme!r}. There are: memory://name, sqlite:///file.db, redis://host:port/db, "
                "rediss://host:port/db, redis+socket:///path, amqp://host:port/vhost, amqps://host:port/vhost, and Kombu's others: "
                f"{', '.join(others)}."
            )

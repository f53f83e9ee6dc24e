"""Results: documents by key, waiting for them, and joins. Implementations of :class:`jumpstarter.abc.results.Results`.

- ``memory``: one process; shares ``memory://name`` with the broker of that name.
- ``sqlite``: one file for the processes of one machine; usually the broker's own: then an ack and its result are one transaction.
- ``redis``: many machines; Celery's keys and layout.

They do not know each other nor the brokers. Every one of them has to pass :mod:`jumpstarter.testing.results_kit`.
"""

from __future__ import annotations

from typing import Any

from jumpstarter.abc.results import Results
from jumpstarter.errors import ConfigurationError

__all__ = ["open_results"]


def open_results(url: str, **options: Any) -> Results:
    """The results store at the URL. Connects at first use.

    :param url: ``memory://name``, ``sqlite:///file.db``, ``redis://host:port/db``, ``rediss://…`` or ``redis+socket:///path``.
    :param options: keyword options of the store's class.
    :raises ConfigurationError: no store has that scheme, or the URL cannot be used.
    """
    match url.partition("://")[0]:
        case "memory":
            from jumpstarter.results.memory import MemoryResults  # noqa: PLC0415  only what is used is imported

            return MemoryResults(url, **options)
        case "sqlite":
            from jumpstarter.results.sqlite import SqliteResults  # noqa: PLC0415

            return SqliteResults(url, **options)
        case "redis" | "rediss" | "redis+socket" | "unix":
            from jumpstarter.results.redis import RedisResults  # noqa: PLC0415

            return RedisResults(url, **options)
        case scheme:
            raise ConfigurationError(
                f"no results store has the scheme {scheme!r}. There are: memory://name, sqlite:///file.db, redis://host:port/db, "
                "rediss://host:port/db, redis+socket:///path."
            )

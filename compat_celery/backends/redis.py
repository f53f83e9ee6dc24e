"""Results on Redis, in Celery's layout: genuine Celery clients and workers read and write the same. Over:
jumpstarter.results.redis."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from compat_celery._names import celery_named
from compat_celery.backends.native import NativeBackend

__all__ = ("RedisBackend",)


@celery_named
class RedisBackend(NativeBackend):
    """``redis://``, ``rediss://`` and ``redis+socket://``."""

    def __init__(self, app: Any, url: str | None = None, **kwargs: Any) -> None:
        super().__init__(app, url=url or "redis://localhost:6379/0", **kwargs)

    @cached_property
    def client(self) -> Any:
        """A client of redis-py's, for users who want to do other things on the same server (locks, counters)."""
        import redis  # noqa: PLC0415 - only for those who ask

        return redis.Redis.from_url((self.url or "").replace("redis+socket://", "unix://").replace("virtual_host=", "db="))

"""Celery's cache backend: in memory, or memcached. Over: memory, memcached."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from compat_celery._names import celery_named
from compat_celery.backends.memcached import NAMES, MemcachedBackend
from compat_celery.backends.memory import MemoryBackend
from compat_celery.exceptions import ImproperlyConfigured
from jumpstarter.embedded.space import Space

__all__ = ("CacheBackend", "DummyClient")


class DummyClient:
    """The cache behind ``cache+memory://``, for tests that look into it: ``cache`` maps keys to what is stored."""

    def __init__(self, url: str) -> None:
        self.cache = Space.of(url).documents


@celery_named
class CacheBackend(MemoryBackend):
    """``cache+memory://``: results in the memory of this process. ``cache+memcached://…``: a :class:`MemcachedBackend`.

    :raises ImproperlyConfigured: another cache is asked for.
    """

    persistent = True

    def __new__(cls, app: Any, url: str | None = None, **kwargs: Any) -> Any:
        """Another class for another cache, made here."""
        url = url or kwargs.get("backend") or app.conf.get("cache_backend")
        scheme = (url or "memory").partition("://")[0]
        if scheme in NAMES:
            return MemcachedBackend(app, url=url or "", **kwargs)
        if scheme != "memory":
            known = ", ".join(sorted({"memory", *NAMES}))
            raise ImproperlyConfigured(f"The cache backend {scheme!r} is unknown. There are {known}.")
        return super().__new__(cls)

    def __init__(self, app: Any, url: str | None = None, **kwargs: Any) -> None:
        kwargs.pop("backend", None)
        super().__init__(app, url=url if url and "://" in url else "memory://", **kwargs)

    @cached_property
    def client(self) -> DummyClient:
        """The cache itself."""
        return DummyClient(self.url or "memory://")

    def as_uri(self, include_password: bool = False) -> str:  # noqa: ARG002 - as Backend
        """As it was configured."""
        return f"cache+{self.url}"

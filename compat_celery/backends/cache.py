"""Celery's cache backend, of which there is the one in memory. Over: memory."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from compat_celery._names import celery_named
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
    """``cache+memory://``: results in the memory of this process.

    :raises ImproperlyConfigured: another cache is asked for.
    """

    persistent = True

    def __init__(self, app: Any, url: str | None = None, **kwargs: Any) -> None:
        if url and not url.startswith("memory://"):
            raise ImproperlyConfigured(
                f"Of Celery's cache backends Jumpstarter has cache+memory:// only, not {url.partition('://')[0]!r}. "
                "Use redis://… or sqlite:///… as result_backend."
            )
        super().__init__(app, url=url or "memory://", **kwargs)

    @cached_property
    def client(self) -> DummyClient:
        """The cache itself."""
        return DummyClient(self.url or "memory://")

    def as_uri(self, include_password: bool = False) -> str:  # noqa: ARG002 - as Backend
        """As it was configured."""
        return f"cache+{self.url}"

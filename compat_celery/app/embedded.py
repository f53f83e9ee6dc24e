"""The results that serve when nothing is configured: in the file of the embedded broker. Comes from: app.base."""

from __future__ import annotations

from typing import Any

from compat_celery.app.publisher import embedded_url
from compat_celery.backends.sqlite import SQLiteBackend

__all__ = ("EmbeddedBackend",)


class EmbeddedBackend(SQLiteBackend):
    """Results in the embedded file. The folder comes into being with the first result, not with the first look at the app."""

    def __init__(self, app: Any, url: str | None = None, **kwargs: Any) -> None:
        super().__init__(app, url=url or embedded_url(create=False), **kwargs)

    def _store_url(self) -> str:
        return embedded_url()

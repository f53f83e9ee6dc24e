"""The loader of apps that somebody made: they configure themselves."""

from __future__ import annotations

from compat_celery._names import celery_named
from compat_celery.loaders.base import BaseLoader

__all__ = ("AppLoader",)


@celery_named
class AppLoader(BaseLoader):
    """Reads no configuration of its own, but what the app was given."""

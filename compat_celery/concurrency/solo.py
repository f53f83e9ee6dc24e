"""The worker's own thread."""

from __future__ import annotations

from compat_celery.concurrency.base import BasePool

__all__ = ("TaskPool",)


class TaskPool(BasePool):
    """The worker's own thread."""

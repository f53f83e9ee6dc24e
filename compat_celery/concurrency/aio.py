"""The worker's event loop, for coroutine tasks."""

from __future__ import annotations

from compat_celery.concurrency.base import BasePool

__all__ = ("TaskPool",)


class TaskPool(BasePool):
    """The worker's event loop, for coroutine tasks."""

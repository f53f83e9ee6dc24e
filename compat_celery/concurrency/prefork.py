"""Child processes with one task at a time each."""

from __future__ import annotations

from compat_celery.concurrency.base import BasePool

__all__ = ("TaskPool",)


class TaskPool(BasePool):
    """Child processes with one task at a time each."""

    is_in_process = False

"""Django's task class: calls that wait for the transaction. Needs Django."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

from compat_celery._names import celery_named
from compat_celery.app.task import Task

__all__ = ("DjangoTask",)


@celery_named
class DjangoTask(Task):
    """A task with calls that are made when the database transaction has been committed, and not at all when it is rolled back."""

    def delay_on_commit(self, *args: Any, **kwargs: Any) -> None:
        """As ``delay``, after the commit. There is no result yet, so none is given."""
        import_module("django.db").transaction.on_commit(partial(self.delay, *args, **kwargs))

    def apply_async_on_commit(self, *args: Any, **kwargs: Any) -> None:
        """As ``apply_async``, after the commit."""
        import_module("django.db").transaction.on_commit(partial(self.apply_async, *args, **kwargs))

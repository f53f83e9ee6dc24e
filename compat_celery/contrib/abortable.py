"""Tasks that look now and then whether somebody wants them to end.

::

    from celery.contrib.abortable import AbortableTask

    @app.task(bind=True, base=AbortableTask)
    def export(self, rows):
        for row in rows:
            if self.is_aborted():
                return "aborted"
            ...

    result = export.delay(rows)
    result.abort()

Nothing is interrupted: the wish is written into the result backend, where the task finds it, so both sides need a backend that
keeps states (not ``rpc://``, not none). What the task returns then replaces the state ``ABORTED``.
"""

from __future__ import annotations

from typing import Any

from compat_celery.app.task import Task
from compat_celery.result import AsyncResult

__all__ = ("ABORTED", "AbortableAsyncResult", "AbortableTask")

#: The state of a task that is meant to end.
ABORTED = "ABORTED"


class AbortableAsyncResult(AsyncResult):
    """The result of an :class:`AbortableTask`."""

    def is_aborted(self) -> bool:
        """Whether the task was asked to end, and has not ended."""
        return bool(self.state == ABORTED)

    def abort(self) -> Any:
        """Ask the task to end when it looks next."""
        return self.backend.store_result(self.id, None, ABORTED)


class AbortableTask(Task):
    """Base of tasks that can be asked to end."""

    abstract = True

    def AsyncResult(self, task_id: str, **kwargs: Any) -> AbortableAsyncResult:  # noqa: N802 - Celery's public name
        """The result that can be aborted."""
        return AbortableAsyncResult(task_id, backend=self.backend, task_name=self.name, app=self.app, **kwargs)

    def is_aborted(self, **kwargs: Any) -> bool:
        """Whether somebody has asked this task to end. To be called now and then while it runs; it asks the result backend.

        :param kwargs: ``task_id``: of another task than the one that runs.
        """
        return self.AsyncResult(kwargs.get("task_id", self.request.id)).is_aborted()

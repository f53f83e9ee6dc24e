"""What is current: the app of this thread, the task that runs. Knows the proxies only; every other room reads it."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from compat_celery.local import Proxy
from compat_celery.utils.threads import LocalStack

if TYPE_CHECKING:
    from compat_celery.app.base import Celery
    from compat_celery.app.task import Task

__all__ = (
    "connect_on_app_finalize",
    "current_app",
    "current_task",
    "get_current_app",
    "get_current_task",
    "get_current_worker_task",
    "set_default_app",
)

#: The app of threads that have none of their own.
default_app: Celery | None = None

_apps: weakref.WeakSet[Celery] = weakref.WeakSet()


class _Finalizers(dict[Callable[[Any], Any], None]):
    """A set that keeps its order, which counts when two of its members make a task of one name."""

    def add(self, callback: Callable[[Any], Any]) -> None:
        self[callback] = None


#: Called with every app that is finalized; shared and built-in tasks come into an app this way.
_on_app_finalizers = _Finalizers()

_task_join_will_block = False


def connect_on_app_finalize(callback: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Call ``callback(app)`` for every app that is finalized from now on."""
    _on_app_finalizers.add(callback)
    return callback


def _announce_app_finalized(app: Celery) -> None:
    for callback in tuple(_on_app_finalizers):
        callback(app)


def _set_task_join_will_block(blocks: bool) -> None:
    global _task_join_will_block  # noqa: PLW0603 - a property of the process: it is a worker
    _task_join_will_block = blocks


def task_join_will_block() -> bool:
    """Whether waiting for a result would hold up a worker."""
    return _task_join_will_block


class _TLS(threading.local):
    """What belongs to a thread."""

    current_app: Celery | None = None


_tls = _TLS()

#: Tasks that run now in this thread or coroutine, the innermost on top.
_task_stack: LocalStack[Task] = LocalStack()

push_current_task = _task_stack.push
pop_current_task = _task_stack.pop


def set_default_app(app: Celery) -> None:
    """The app of all threads that have none of their own."""
    global default_app  # noqa: PLW0603 - the process's one default app is Celery's API
    default_app = app


def _get_current_app() -> Celery:
    found = _tls.current_app or default_app
    if found is None:
        from compat_celery.app.base import Celery  # noqa: PLC0415 - it imports this module

        loader = os.environ.get("CELERY_LOADER") or "default"
        found = Celery("default", fixups=[], set_as_current=False, loader=loader)
        set_default_app(found)
    return found


def _set_current_app(app: Celery | None) -> None:
    _tls.current_app = app


def get_current_app() -> Celery:
    """The app of this thread, else the default app (made at the first use)."""
    return _get_current_app()


def get_current_task() -> Task | None:
    """The task that runs now, or None."""
    return _task_stack.top


def get_current_worker_task() -> Task | None:
    """The task that the worker runs now, or None: tasks that it calls directly do not count."""
    for task in reversed(_task_stack.stack):
        if not task.request.called_directly:
            return task
    return None


#: Stands for the current app.
current_app: Any = Proxy(get_current_app)
#: Stands for the task that runs now.
current_task: Any = Proxy(get_current_task)


def _register_app(app: Celery) -> None:
    _apps.add(app)


def _deregister_app(app: Celery) -> None:
    _apps.discard(app)


def _get_active_apps() -> weakref.WeakSet[Celery]:
    return _apps


def _app_or_default(app: Celery | None = None) -> Celery:
    return get_current_app() if app is None else app


def _app_or_default_trace(app: Celery | None = None) -> Celery:
    if app is None:
        raise RuntimeError("the current app was used where an app should have been passed on (CELERY_TRACE_APP is set)")
    return app


#: The app that is given, or the current one.
app_or_default: Callable[..., Celery] = _app_or_default


def enable_trace() -> None:
    """Raise an error wherever the current app is used for want of another. For finding such places."""
    global app_or_default  # noqa: PLW0603 - a switch of the process
    app_or_default = _app_or_default_trace


def disable_trace() -> None:
    """The opposite of :func:`enable_trace`."""
    global app_or_default  # noqa: PLW0603 - as above
    app_or_default = _app_or_default


if os.environ.get("CELERY_TRACE_APP"):
    enable_trace()

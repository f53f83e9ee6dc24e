"""Applications: :mod:`.base` is the app itself, :mod:`.task` its tasks, :mod:`.amqp` and :mod:`.publisher` send their messages.

Nothing below is imported before it is used: a package that imports its own modules can end in an import deadlock when two threads
import it at once (Python 3.11), and programs do import Celery in threads.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from compat_celery import _state
from compat_celery._state import app_or_default, disable_trace, enable_trace, pop_current_task, push_current_task
from compat_celery.local import Proxy

if TYPE_CHECKING:
    from compat_celery.app.base import Celery
    from compat_celery.app.utils import AppPickler

__all__ = (
    "AppPickler",
    "Celery",
    "app_or_default",
    "bugreport",
    "default_app",
    "disable_trace",
    "enable_trace",
    "pop_current_task",
    "push_current_task",
    "shared_task",
)

_ORIGINS = {"Celery": "base", "AppPickler": "utils"}


def __getattr__(name: str) -> Any:
    if name not in _ORIGINS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"compat_celery.app.{_ORIGINS[name]}"), name)
    globals()[name] = value
    return value


#: Stands for the app of threads that have none of their own.
default_app: Any = Proxy(lambda: _state.default_app)


def bugreport(app: Celery | None = None) -> str:
    """What belongs into the report of a bug."""
    return (app or _state.get_current_app()).bugreport()


def shared_task(*args: Any, **kwargs: Any) -> Any:
    """Decorator: a task of every app, those to come included. What it gives stands for the task of the *current* app.

    Takes the options of ``app.task``.

    :raises TypeError: it is applied twice.
    """

    def decorate(fun: Callable[..., Any]) -> Any:
        if type(fun) is Proxy:
            raise TypeError(
                "@shared_task was applied more than once to the same function. Remove the extra @shared_task decorator."
            )

        def task_in(app: Any) -> Any:
            return app._task_from_fun(fun, **kwargs)

        _state.connect_on_app_finalize(task_in)
        for app in tuple(_state._get_active_apps()):
            if app.finalized:
                with app._finalize_mutex:
                    task_in(app)

        def current() -> Any:
            app = _state.get_current_app()
            return app.tasks[kwargs.get("name") or app.gen_task_name(fun.__name__, fun.__module__)]

        return Proxy(current)

    return decorate(args[0]) if len(args) == 1 and callable(args[0]) else decorate

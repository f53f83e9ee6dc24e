"""An app's tasks by their names. Knows the current app only to unpickle tasks."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any, NoReturn

from compat_celery._names import celery_named
from compat_celery._state import get_current_app
from compat_celery.app.autoretry import add_autoretry_behaviour
from compat_celery.exceptions import InvalidTaskError, NotRegistered

__all__ = ("TaskRegistry",)


@celery_named
class TaskRegistry(dict[str, Any]):
    """Task by name. A missing one raises NotRegistered."""

    NotRegistered = NotRegistered

    def __missing__(self, key: str) -> NoReturn:
        raise self.NotRegistered(key)

    def register(self, task: Any) -> None:
        """Add a task, or an instance of the class that is given.

        :raises InvalidTaskError: it has no name.
        """
        if task.name is None:
            raise InvalidTaskError(f"Task class {type(task).__name__!r} must specify .name attribute")
        task = task() if inspect.isclass(task) else task
        add_autoretry_behaviour(task)
        self[task.name] = task

    def unregister(self, name: Any) -> None:
        """Remove a task, by its name or itself.

        :raises NotRegistered: it is not there.
        """
        try:
            self.pop(getattr(name, "name", name))
        except KeyError:
            raise self.NotRegistered(name) from None

    def regular(self) -> dict[str, Any]:
        """The tasks that are not periodic."""
        return self.filter_types("regular")

    def periodic(self) -> dict[str, Any]:
        """The periodic ones."""
        return self.filter_types("periodic")

    def filter_types(self, type: str) -> dict[str, Any]:  # noqa: A002 - Celery's signature
        """The tasks with this ``type``."""
        return {name: task for name, task in self.items() if getattr(task, "type", "regular") == type}


def _unpickle_task(name: str) -> Any:
    return get_current_app().tasks[name]


def _unpickle_task_v2(name: str, module: str | None = None) -> Any:
    if module:
        import_module(module)
    return get_current_app().tasks[name]


for _function in (_unpickle_task, _unpickle_task_v2):
    _function.__module__ = "celery.app.registry"  # tasks are pickled as calls of these

"""The current app's tasks, under the name that old programs import."""

from __future__ import annotations

from typing import Any

from compat_celery._state import get_current_app
from compat_celery.local import Proxy

__all__ = ("tasks",)

#: Stands for ``current_app.tasks``.
tasks: Any = Proxy(lambda: get_current_app().tasks)

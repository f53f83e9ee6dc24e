"""The worker, by Celery's module name."""

from __future__ import annotations

from typing import Any

__all__ = ("WorkController",)


def __getattr__(name: str) -> Any:
    if name == "WorkController":
        from compat_celery.apps.worker import Worker  # noqa: PLC0415 - modules beside this one are imported by clients as well

        return Worker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

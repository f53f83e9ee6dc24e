"""The task by which :func:`celery.contrib.testing.worker.start_worker` finds out that its worker works."""

from __future__ import annotations

from compat_celery import shared_task

__all__ = ("ping",)


@shared_task(name="celery.ping")  # type: ignore[untyped-decorator] # what it makes is a proxy
def ping() -> str:
    """``pong``."""
    return "pong"

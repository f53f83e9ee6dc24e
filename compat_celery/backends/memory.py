"""Results in the memory of one process, for tests and embedded workers. Over: jumpstarter.results.memory."""

from __future__ import annotations

from compat_celery._names import celery_named
from compat_celery.backends.native import NativeBackend

__all__ = ("MemoryBackend",)


@celery_named
class MemoryBackend(NativeBackend):
    """``memory://`` or ``memory://name``: shared by all apps of the process that use the name."""

    persistent = False

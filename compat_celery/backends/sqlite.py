"""Results in an SQLite file, for the processes of one machine. Over: jumpstarter.results.sqlite."""

from __future__ import annotations

from compat_celery._names import celery_named
from compat_celery.backends.native import NativeBackend

__all__ = ("SQLiteBackend",)


@celery_named
class SQLiteBackend(NativeBackend):
    """``sqlite:///relative/path`` or ``sqlite:////absolute/path``."""

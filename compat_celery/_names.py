"""Celery's names for our classes and loggers, whatever name this package was imported under. Used everywhere; knows nobody."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T", bound=type)

OURS = "compat_celery"
CELERYS = "celery"


def celery_name(module: str) -> str:
    """The module's name as a genuine Celery knows it: ``compat_celery.app.task`` → ``celery.app.task``."""
    if module == OURS or module.startswith(OURS + "."):
        return CELERYS + module[len(OURS) :]
    return module


def celery_named(cls: T) -> T:
    """Class decorator: pickles, tracebacks and logs name the class as they would with a genuine Celery.

    Peers that run one unpickle ``celery.exceptions.Retry``, not our name for it.
    """
    cls.__module__ = celery_name(cls.__module__)
    return cls

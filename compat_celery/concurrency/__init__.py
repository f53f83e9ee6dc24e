"""Pools, by Celery's names. What they are here is decided in :mod:`jumpstarter.executors`; these classes say which one runs."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from compat_celery.concurrency.base import BasePool
from compat_celery.exceptions import ImproperlyConfigured

__all__ = ("BasePool", "get_available_pool_names", "get_implementation")

#: Names of pools and the modules of their classes.
ALIASES = {
    "prefork": "prefork",
    "processes": "prefork",
    "threads": "thread",
    "thread": "thread",
    "eventlet": "thread",
    "gevent": "thread",
    "solo": "solo",
    "async": "aio",
    "asyncio": "aio",
}


def get_implementation(cls: Any) -> type[BasePool]:
    """The class of a pool by its name; a class is given back.

    :raises ImproperlyConfigured: there is no such pool.
    """
    if not isinstance(cls, str):
        return cls  # type: ignore[no-any-return] # whatever the user passes as a class
    module = ALIASES.get(cls)
    if module is None:
        raise ImproperlyConfigured(f"unknown pool {cls!r}: there are {', '.join(ALIASES)}")
    pool: type[BasePool] = import_module(f"compat_celery.concurrency.{module}").TaskPool
    return pool


def get_available_pool_names() -> tuple[str, ...]:
    """The names that ``-P`` takes."""
    return tuple(ALIASES)

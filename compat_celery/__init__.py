"""Celery's public API on Jumpstarter's workers. ``import celery`` finds this package when the alias is installed.

Modules mirror Celery's public ones: what genuine Celery has in ``celery.app.task`` is in ``compat_celery.app.task``. The alias
(:func:`install_as_celery`) puts the same module objects under both names. Ways in: ``jumpstarter celery -A proj worker``,
``python -m compat_celery prog.py``, ``COMPAT_CELERY=1`` in the environment, or calling the function.

``app`` is what applications touch (Celery, Task, settings, publishing); ``canvas`` and ``result`` are what they compose and
wait for; ``backends`` store results; ``worker`` fits all that to Jumpstarter's worker. ``protocol`` turns calls into bytes and
back, and does no I/O.

Names of this module are looked up at their first use: a program that only declares tasks does not load the worker.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from compat_celery._alias import install_as_celery

if TYPE_CHECKING:
    from compat_celery._state import current_app, current_task
    from compat_celery.app import bugreport, shared_task
    from compat_celery.app.base import Celery
    from compat_celery.app.task import Task
    from compat_celery.canvas import Signature, chain, chord, chunks, group, maybe_signature, signature, subtask, xmap, xstarmap
    from compat_celery.utils import uuid

__all__ = (
    "Celery",
    "Signature",
    "Task",
    "bugreport",
    "chain",
    "chord",
    "chunks",
    "current_app",
    "current_task",
    "group",
    "install_as_celery",
    "maybe_patch_concurrency",
    "maybe_signature",
    "shared_task",
    "signature",
    "subtask",
    "uuid",
    "xmap",
    "xstarmap",
)

SERIES = "collider"

#: The version of Celery whose behaviour this is.
__version__ = "5.7.0"
__author__ = "The Jumpstarter authors"
__contact__ = ""
__homepage__ = ""
__docformat__ = "restructuredtext"


class version_info_t(NamedTuple):  # noqa: N801 - Celery's public name
    """The version in parts."""

    major: int
    minor: int
    micro: int
    releaselevel: str
    serial: str


VERSION = version_info = version_info_t(5, 7, 0, "", "")
VERSION_BANNER = f"{__version__} ({SERIES})"

#: The system's own, before gevent or eventlet replace it: signal handlers may run in their hub, which must not block.
_original_os_write = os.write

_ORIGINS = {
    "Celery": "app.base",
    "bugreport": "app",
    "shared_task": "app",
    "Task": "app.task",
    "current_app": "_state",
    "current_task": "_state",
    "Signature": "canvas",
    "chain": "canvas",
    "chord": "canvas",
    "chunks": "canvas",
    "group": "canvas",
    "maybe_signature": "canvas",
    "signature": "canvas",
    "subtask": "canvas",
    "xmap": "canvas",
    "xstarmap": "canvas",
    "uuid": "utils",
}


def __getattr__(name: str) -> Any:
    origin = _ORIGINS.get(name)
    if origin is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"compat_celery.{origin}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_ORIGINS})


def _find_option_with_arg(argv: list[str], short_opts: list[str] | None = None, long_opts: list[str] | None = None) -> str:
    for position, argument in enumerate(argv):
        name, found, value = argument.partition("=")
        if argument.startswith("--") and name in (long_opts or []):
            return value if found else argv[position + 1]
        if argument in (short_opts or []):
            return argv[position + 1]
    raise KeyError("|".join([*(short_opts or []), *(long_opts or [])]))


def _patch_eventlet() -> None:
    import_module("eventlet").monkey_patch()


def _patch_gevent() -> None:
    import_module("gevent.monkey").patch_all()


def maybe_patch_concurrency(
    argv: list[str] | None = None,
    short_opts: list[str] | None = None,
    long_opts: list[str] | None = None,
    patches: dict[str, Any] | None = None,
) -> None:
    """Patch the standard library for gevent or eventlet when the command line asks for such a pool (``-P gevent``)."""
    import sys  # noqa: PLC0415 - this module stays light

    patches = patches or {"eventlet": _patch_eventlet, "gevent": _patch_gevent}
    try:
        pool = _find_option_with_arg(argv or sys.argv, short_opts or ["-P"], long_opts or ["--pool"])
    except (KeyError, IndexError):
        return
    if pool in patches:
        patches[pool]()

"""Small helpers, each in the module that its name says. Import from there; the names here are for old programs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kombu.utils.objects import cached_property
    from kombu.utils.uuid import uuid

    from compat_celery.utils.functional import chunks, memoize, noop
    from compat_celery.utils.imports import gen_task_name, import_from_cwd, instantiate
    from compat_celery.utils.imports import qualname as get_full_cls_name
    from compat_celery.utils.imports import symbol_by_name as get_cls_by_name
    from compat_celery.utils.log import LOG_LEVELS
    from compat_celery.utils.nodenames import nodename, nodesplit, worker_direct

    gen_unique_id = uuid

__all__ = (
    "LOG_LEVELS",
    "cached_property",
    "chunks",
    "gen_task_name",
    "gen_unique_id",
    "get_cls_by_name",
    "get_full_cls_name",
    "import_from_cwd",
    "instantiate",
    "memoize",
    "nodename",
    "nodesplit",
    "noop",
    "uuid",
    "worker_direct",
)

_OURS = "compat_celery.utils."

_ORIGINS = {
    "LOG_LEVELS": (_OURS + "log", "LOG_LEVELS"),
    "cached_property": ("kombu.utils.objects", "cached_property"),
    "chunks": (_OURS + "functional", "chunks"),
    "gen_task_name": (_OURS + "imports", "gen_task_name"),
    "gen_unique_id": ("kombu.utils.uuid", "uuid"),
    "get_cls_by_name": (_OURS + "imports", "symbol_by_name"),
    "get_full_cls_name": (_OURS + "imports", "qualname"),
    "import_from_cwd": (_OURS + "imports", "import_from_cwd"),
    "instantiate": (_OURS + "imports", "instantiate"),
    "memoize": (_OURS + "functional", "memoize"),
    "nodename": (_OURS + "nodenames", "nodename"),
    "nodesplit": (_OURS + "nodenames", "nodesplit"),
    "noop": (_OURS + "functional", "noop"),
    "uuid": ("kombu.utils.uuid", "uuid"),
    "worker_direct": (_OURS + "nodenames", "worker_direct"),
}


def __getattr__(name: str) -> Any:
    if name not in _ORIGINS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _ORIGINS[name]
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_ORIGINS})

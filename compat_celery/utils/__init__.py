"""Small helpers, each in the module that its name says. Import from there; the names here are for old programs."""

from __future__ import annotations

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

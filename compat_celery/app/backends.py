"""Which result backend belongs to a name or URL. Used by: Celery.backend."""

from __future__ import annotations

import types
from typing import Any

from compat_celery._state import current_app
from compat_celery.exceptions import ImproperlyConfigured
from compat_celery.utils.imports import load_extension_class_names, symbol_by_name

__all__ = ("by_name", "by_url")

BACKEND_ALIASES = {
    "cache": "compat_celery.backends.cache:CacheBackend",
    "database": "compat_celery.backends.database:DatabaseBackend",
    "db": "compat_celery.backends.database:DatabaseBackend",
    "disabled": "compat_celery.backends.base:DisabledBackend",
    "file": "compat_celery.backends.filesystem:FilesystemBackend",
    "memory": "compat_celery.backends.memory:MemoryBackend",
    "redis": "compat_celery.backends.redis:RedisBackend",
    "rpc": "compat_celery.backends.rpc:RPCBackend",
    "rediss": "compat_celery.backends.redis:RedisBackend",
    "socket": "compat_celery.backends.redis:RedisBackend",
    "sqlite": "compat_celery.backends.sqlite:SQLiteBackend",
}

#: Of these, :meth:`on_task_call` does nothing.
SILENT = frozenset(BACKEND_ALIASES[name] for name in ("memory", "redis", "sqlite"))

#: Names of backends that Celery has and Jumpstarter has not, unless another package brings them.
_CELERYS_OWN = frozenset(
    {
        "arangodb",
        "azureblockblob",
        "cassandra",
        "consul",
        "cosmosdbsql",
        "couchbase",
        "couchdb",
        "dynamodb",
        "elasticsearch",
        "gs",
        "mongodb",
        "riak",
        "s3",
        "sentinel",
    }
)

_SUPPORTED = (
    "redis://…, rediss://…, redis+socket://…, sqlite:///…, memory://, cache+memory://, "
    "cache+memcached://…, db+postgresql://…, file:///folder, rpc:// and disabled"
)


def by_name(backend: Any = None, loader: Any = None, extension_namespace: str = "celery.result_backends") -> Any:
    """The class of a backend.

    :param backend: an alias (``redis``), the name of a class (``package.module:Class``), or the class itself; None means no
        results. Packages add aliases by entry points of the group ``celery.result_backends``.
    :raises ImproperlyConfigured: there is none of that name.
    """
    backend = backend or "disabled"
    loader = loader or current_app.loader
    # Ours come first, so that the metadata of all installed packages is read only for names that we do not know.
    aliases = {**BACKEND_ALIASES, **loader.override_backends}
    if backend not in aliases:
        aliases.update(load_extension_class_names(extension_namespace))
    if backend in _CELERYS_OWN and backend not in aliases:
        raise ImproperlyConfigured(f"Celery's result backend {backend!r} does not exist in Jumpstarter. There are {_SUPPORTED}.")
    try:
        cls = symbol_by_name(backend, aliases)
    except (ValueError, ImportError) as exc:
        if isinstance(exc, ImportError) and not {".", ":"}.isdisjoint(str(backend)):
            raise  # a class was named, and why it cannot be imported matters
        raise ImproperlyConfigured(
            f"Unknown result backend: {backend!r}. Did you spell that correctly? There are {_SUPPORTED}."
        ) from exc
    if isinstance(cls, types.ModuleType):
        raise ImproperlyConfigured(f"Unknown result backend: {backend!r} is a Python module, not a backend class.")
    return cls


def by_url(backend: Any = None, loader: Any = None) -> tuple[Any, str | None]:
    """The class of a backend and the address that it is made with (None when only a name was given)."""
    if not isinstance(backend, str) or "://" not in backend:
        return by_name(backend, loader), None
    scheme = backend.partition("://")[0]
    if scheme in {"redis+socket", "unix"}:
        return by_name("redis", loader), backend
    if "+" in scheme:
        name, url = backend.split("+", 1)
        return by_name(name, loader), url
    return by_name(scheme, loader), backend

"""Where budgets, rows, joins and counts are kept: ``memory://``, ``sqlite:///file.db``, ``redis://host``. See ``port``."""

from __future__ import annotations

import atexit
import os
import threading

from jumpstarter.embedded.home import home
from jumpstarter.errors import ConfigurationError
from jumpstarter.pipelines.stores.memory import MemoryStore
from jumpstarter.pipelines.stores.port import Store

#: What a source without an address uses.
REDIS_URL = "JUMPSTARTER_REDIS_URL"

_stores: dict[str, Store] = {}
_lock = threading.Lock()


def open_store(where: str | Store) -> Store:
    """The store at that address: the same object for the same address, in one process.

    :raises ConfigurationError: it is no address of a store.
    """
    if not isinstance(where, str):
        return where
    with _lock:
        found = _stores.get(where)
        if found is None:
            found = _stores[where] = _make(where)
    return found


def default_redis() -> str:
    """``$JUMPSTARTER_REDIS_URL``, or the server on this machine."""
    return os.environ.get(REDIS_URL) or "redis://127.0.0.1:6379/0"


def default_sqlite() -> str:
    """The file ``pipelines.db`` in ``$JUMPSTARTER_HOME``."""
    folder = home()
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder / 'pipelines.db'}"


@atexit.register
def close_stores() -> None:
    """Close all connections of this process; they are opened again when they are needed."""
    for store in _stores.values():
        store.close()


def _make(url: str) -> Store:
    scheme = url.partition(":")[0]
    match scheme:
        case "memory":
            return MemoryStore(url.partition("://")[2])
        case "sqlite":
            from jumpstarter.pipelines.stores.sqlite import SqliteStore  # noqa: PLC0415 - only what is used is loaded

            return SqliteStore(url)
        case "redis" | "rediss" | "unix" | "redis+socket":
            from jumpstarter.pipelines.stores.redis import RedisStore  # noqa: PLC0415 - as above

            return RedisStore(url)
    raise ConfigurationError(f"{url!r} is no store: write memory://name, sqlite:////absolute/path.db or redis://host:port/0")


__all__ = ["Store", "close_stores", "default_redis", "default_sqlite", "open_store"]

"""Names of nodes: ``celery@host``. Knows the host's name only."""

from __future__ import annotations

import os
import socket
from functools import cache, partial
from typing import Any

from compat_celery._later import kombu
from compat_celery.utils.text import simple_format

__all__ = (
    "anon_nodename",
    "default_nodename",
    "gethostname",
    "host_format",
    "node_format",
    "nodename",
    "nodesplit",
    "worker_direct",
)

WORKER_DIRECT_EXCHANGE_NAME = "C.dq2"
WORKER_DIRECT_QUEUE_FORMAT = "{hostname}.dq2"
NODENAME_SEP = "@"
NODENAME_DEFAULT = "celery"


def __getattr__(name: str) -> Any:
    if name != "WORKER_DIRECT_EXCHANGE":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return kombu.Exchange(WORKER_DIRECT_EXCHANGE_NAME)


@cache
def gethostname() -> str:
    """The name of this host, asked once."""
    return socket.gethostname()


def worker_direct(hostname: Any) -> Any:
    """The queue that only the node of that name reads."""
    if isinstance(hostname, kombu.Queue):
        return hostname
    return kombu.Queue(WORKER_DIRECT_QUEUE_FORMAT.format(hostname=hostname), kombu.Exchange(WORKER_DIRECT_EXCHANGE_NAME), hostname)


def nodename(name: str, hostname: str) -> str:
    """``name@hostname``."""
    return NODENAME_SEP.join((name, hostname))


def anon_nodename(hostname: str | None = None, prefix: str = "gen") -> str:
    """A name for this process when it is no worker: ``gen<pid>@<host>``, the ``origin`` of its messages."""
    return nodename(f"{prefix}{os.getpid()}", hostname or gethostname())


def nodesplit(name: str) -> tuple[str | None, str]:
    """The name and the host of a node; the name is None when there is only a host."""
    before, found, after = name.partition(NODENAME_SEP)
    return (before, after) if found else (None, before)


def default_nodename(hostname: str | None, default_name: str = NODENAME_DEFAULT) -> str:
    """The full name of a node from what was given of it."""
    name, host = nodesplit(hostname or "")
    return nodename(name or default_name, host or gethostname())


def node_format(s: str, name: str, **extra: Any) -> str:
    """Fill in ``%n`` and its like from a node's name."""
    short, host = nodesplit(name)
    return host_format(s, host, short or NODENAME_DEFAULT, p=name, **extra)


def _process_index(prefix: str = "", default: str = "0") -> str:
    from compat_celery.utils.log import current_process_index  # noqa: PLC0415 - billiard is needed for this key alone

    index = current_process_index()
    return f"{prefix}{index}" if index else default


def host_format(s: str, host: str | None = None, name: str | None = None, **extra: Any) -> str:
    """Fill in ``%h`` (host), ``%n`` (name), ``%d`` (domain), ``%i`` (process number), ``%I`` (the same with a dash)."""
    host = host or gethostname()
    short, _, domain = host.partition(".")
    keys: dict[str, Any] = {
        "h": host,
        "n": name or short,
        "d": domain,
        "i": _process_index,
        "I": partial(_process_index, "-", ""),
    }
    return simple_format(s, keys | extra)

"""Celery's names for how a message becomes a request. Jumpstarter's worker decodes by :mod:`compat_celery.protocol`, and asks no
task for a ``Strategy``; programs and their tests use the two converters."""

from __future__ import annotations

from typing import Any, NoReturn

from compat_celery.exceptions import InvalidTaskError
from compat_celery.protocol import HEADERS_IN_BODY
from compat_celery.utils.saferepr import saferepr

__all__ = ("default", "hybrid_to_proto2", "proto1_to_proto2")

#: ``(args, kwargs, embed)``, the headers, whether the body is decoded, whether its times are in UTC.
Converted = tuple[tuple[Any, Any, dict[str, Any]], dict[str, Any], bool, bool]


def _arguments(body: Any) -> tuple[Any, Any]:
    if not hasattr(body, "get"):
        raise InvalidTaskError("Message does not have args/kwargs")
    args, kwargs = body.get("args", ()), body.get("kwargs", {})
    if not hasattr(kwargs, "items"):
        raise InvalidTaskError("Task keyword arguments must be a mapping")
    return args, kwargs


def _embed(body: Any) -> dict[str, Any]:
    return {"callbacks": body.get("callbacks"), "errbacks": body.get("errbacks"), "chord": body.get("chord"), "chain": None}


def hybrid_to_proto2(message: Any, body: Any) -> Converted:
    """A body of protocol 1 under headers of protocol 2, which win over what the body says.

    :raises InvalidTaskError: the body holds no arguments.
    """
    args, kwargs = _arguments(body)
    names = {*HEADERS_IN_BODY, "group", "meth", "argsrepr", "kwargsrepr"} - {"utc", "group_index"}
    headers = {name: body.get(name) for name in sorted(names)}
    headers["retries"] = body.get("retries", 0)
    headers["timelimit"] = body.get("timelimit", (None, None))
    headers.update(message.headers or {})
    return (args, kwargs, _embed(body)), headers, True, body.get("utc", True)


def proto1_to_proto2(message: Any, body: Any) -> Converted:
    """A body of protocol 1, which also becomes the headers: it is changed.

    :raises InvalidTaskError: the body holds no arguments.
    """
    args, kwargs = _arguments(body)
    body.update(argsrepr=saferepr(args), kwargsrepr=saferepr(kwargs), headers=message.headers)
    if "taskset" in body:
        body["group"] = body["taskset"]
    return (args, kwargs, _embed(body)), body, True, body.get("utc", True)


def default(*_: Any, **__: Any) -> NoReturn:
    """What handles a task's messages in Celery's consumer.

    :raises NotImplementedError: always; Jumpstarter's worker has no consumer of that kind.
    """
    raise NotImplementedError("Jumpstarter's worker does not run Task.Strategy; see the page Differences from Celery")

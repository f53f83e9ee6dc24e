"""Many calls of one task: the first is made as every call is, the others after its model.

Most of what a call costs is spent on what is the same for all calls of a bulk: options, route, headers. So where nobody can tell
the difference (nothing of ours is overridden or patched, nobody listens, no option makes calls differ), only what differs is made
for each: its id, its arguments and their text. Comes from: Task.apply_async_many. Goes to: publisher.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from compat_celery import protocol, signals
from compat_celery.app import amqp as amqp_module
from compat_celery.app import base, publisher, routes
from compat_celery.app import task as task_module
from compat_celery.backends import base as backends
from compat_celery.utils.ids import uuid
from jumpstarter.jobs import Envelope
from jumpstarter.telemetry import tracing

if TYPE_CHECKING:
    from compat_celery.app.task import Task

__all__ = ("apply_async_many",)

#: Options that say the same to every message.
_SAME_FOR_ALL = frozenset(
    {"ignore_result", "priority", "queue", "retry", "retry_policy", "soft_time_limit", "time_limit", "timeout"}
)
#: What follows the arguments in the body of a call without links.
_NO_LINKS: dict[str, Any] = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def apply_async_many(task: Task, calls: Iterable[Mapping[str, Any]], options: dict[str, Any]) -> list[Any]:
    """The results of the calls, made within a block of :func:`publisher.bulk_publish`.

    :param calls: arguments of ``apply_async`` for each: ``args``, ``kwargs``, ``task_id``, or some of them.
    :param options: the other arguments, for all of them.
    """
    rest = iter(calls)
    results: list[Any] = []
    for call in rest:
        before = publisher.newest()
        results.append(task.apply_async(**call, **options))
        model = publisher.newest()
        if model is not None and model is not before and _is_uniform(task, options, model):
            results += _after_model(task, model, rest)
    return results


def _is_uniform(task: Task, options: Mapping[str, Any], model: Envelope) -> bool:
    app = task.app
    return (
        options.keys() <= _SAME_FOR_ALL
        and not (task.expires or task.__v2_compat__ or tracing.enabled or app.conf.task_send_sent_event)
        and model.content_type == protocol.JSON
        and "task" in model.headers
        and "compression" not in model.headers
        and protocol.decode(model.body, model.content_type, model.content_encoding)[2:] == [_NO_LINKS]
        and all(type(route) is routes.MapRoute for route in app.amqp.routes)
        and not any(signal.receivers for signal in (signals.before_task_publish, signals.after_task_publish, signals.task_sent))
        and _is_ours(task_module, task.apply_async, task.shadow_name)
        and _is_ours(base, app.send_task)
        and _is_ours(amqp_module, app.amqp.create_task_message, app.amqp.send_task_message, app.amqp._send_task_message)
        and _is_ours(publisher, app.producer_pool.acquire().publish)
        and _is_ours(backends, app.backend.on_task_call)
    )


def _is_ours(module: ModuleType, *methods: Any) -> bool:
    """Whether the methods are as this module defines them. Monitoring agents put theirs in their place, with copied names."""
    codes = [getattr(getattr(method, "__func__", None), "__code__", None) for method in methods]
    return all(code is not None and code.co_filename == module.__file__ for code in codes)


def _after_model(task: Task, model: Envelope, calls: Iterator[Mapping[str, Any]]) -> Iterator[Any]:
    app = task.app
    text_of = app.amqp.texts_of
    check = getattr(task, "__header__", None) if task.typing else None
    dump = task._dump_pydantic_arguments
    is_root = model.headers["root_id"] == model.headers["id"]
    parent = app.current_worker_task
    ignored = model.headers["ignore_result"]
    for call in calls:
        args, kwargs = call.get("args"), call.get("kwargs")
        if check is not None:
            check(*(args or ()), **(kwargs or {}))
        if dump is not None:
            args, kwargs = dump(args, kwargs)
        args, kwargs = amqp_module.checked_arguments(args, kwargs)
        task_id = call.get("task_id") or uuid()
        argsrepr, kwargsrepr = text_of(args, kwargs)
        headers = {**model.headers, "id": task_id, "argsrepr": argsrepr, "kwargsrepr": kwargsrepr}
        if is_root:
            headers["root_id"] = task_id
        publisher.add(
            Envelope(
                queue=model.queue,
                body=protocol.encode((args, kwargs, _NO_LINKS)).body,
                headers=headers,
                properties={**model.properties, "correlation_id": task_id},
                exchange=model.exchange,
                routing_key=model.routing_key,
                priority=model.priority,
                due=model.due,
            )
        )
        result = task.AsyncResult(task_id)
        result.ignored = ignored
        if parent is not None:
            parent.add_trail(result)
        yield result

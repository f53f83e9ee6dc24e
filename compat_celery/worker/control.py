"""The commands of remote control, by Celery's names: :class:`Panel` keeps them. Called by: worker.pidbox.

A command gets ``state`` first: ``state.app``, ``state.hostname`` and ``state.consumer``, the
:class:`~compat_celery.worker.consumer.Consumer` of its worker. What it returns is the worker's reply; programs add commands of
their own with :func:`control_command` and :func:`inspect_command`.
"""

from __future__ import annotations

import logging
from collections import UserDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from kombu.utils.encoding import safe_repr
from kombu.utils.functional import maybe_list

from compat_celery import states
from compat_celery.utils.serialization import jsonify, strtobool
from compat_celery.utils.time import rate
from compat_celery.worker import revocations
from compat_celery.worker import state as worker_state

F = TypeVar("F", bound=Callable[..., Any])

__all__ = ("Panel", "add_consumer", "cancel_consumer", "control_command", "inspect_command")

logger = logging.getLogger("celery.worker.control")

#: Attributes of tasks that ``registered`` shows unless it is asked for others.
TASK_INFO = ("exchange", "routing_key", "rate_limit")


class ControllerInfo(NamedTuple):
    """What a command says of itself: how it is called, and what its arguments are."""

    alias: str | None
    type: str
    visible: bool
    default_timeout: float
    help: str | None
    signature: str | None
    args: Sequence[tuple[str, Any]] | None
    variadic: str | None


class Panel(UserDict[str, Callable[..., Any]]):
    """The commands by name, and beside them what they say of themselves."""

    data: dict[str, Callable[..., Any]] = {}  # noqa: RUF012 - one registry for the process, as in Celery
    meta: dict[str, ControllerInfo] = {}  # noqa: RUF012 - as above

    @classmethod
    def register(cls, *args: Any, **kwargs: Any) -> Any:
        """Use as a decorator, bare or with options."""
        if args and callable(args[0]) and not kwargs:
            return cls._register()(args[0])
        return cls._register(**kwargs)

    @classmethod
    def _register(
        cls,
        name: str | None = None,
        alias: str | None = None,
        type: str = "control",  # noqa: A002 - Celery's keyword
        visible: bool = True,
        default_timeout: float = 1.0,
        help: str | None = None,  # noqa: A002 - Celery's keyword
        signature: str | None = None,
        args: Sequence[tuple[str, Any]] | None = None,
        variadic: str | None = None,
    ) -> Callable[[F], F]:
        def register(function: F) -> F:
            command = name or function.__name__
            text = help or (function.__doc__ or "").strip().split("\n")[0]
            cls.data[command] = function
            cls.meta[command] = ControllerInfo(alias, type, visible, default_timeout, text, signature, args, variadic)
            if alias:
                cls.data[alias] = function
            return function

        return register


def control_command(**kwargs: Any) -> Callable[[F], F]:
    """Register a command that changes the worker."""
    register: Callable[[F], F] = Panel.register(type="control", **kwargs)
    return register


def inspect_command(**kwargs: Any) -> Callable[[F], F]:
    """Register a command that only tells something."""
    register: Callable[[F], F] = Panel.register(type="inspect", **kwargs)
    return register


def ok(value: Any) -> dict[str, Any]:
    """The reply of a command that did what it should."""
    return {"ok": value}


def nok(value: Any) -> dict[str, Any]:
    """The reply of a command that could not."""
    return {"error": value}


# What a worker tells.


@inspect_command(default_timeout=0.2)
def ping(state: Any, **_: Any) -> Any:  # noqa: ARG001 - every command gets it
    """Ping worker(s)."""
    return ok("pong")


@inspect_command()
def report(state: Any, **_: Any) -> Any:
    """Information about the installation, for bug reports."""
    return ok(state.app.bugreport())


@inspect_command(alias="dump_conf", signature="[include_defaults=False]", args=[("with_defaults", strtobool)])
def conf(state: Any, with_defaults: bool = False, **_: Any) -> Any:
    """List the settings."""
    table = state.app.conf.table(with_defaults=with_defaults)
    return jsonify(table, keyfilter=_is_shown, unknown_type_filter=safe_repr)


def _is_shown(key: Any) -> bool:
    return isinstance(key, str) and not key.startswith("__")


@inspect_command()
def clock(state: Any, **_: Any) -> Any:
    """The logical clock's value."""
    return {"clock": state.app.clock.value}


@inspect_command()
def stats(state: Any, **_: Any) -> Any:
    """Numbers about the worker."""
    return state.consumer.stats()


@inspect_command(alias="dump_active")
def active(state: Any, safe: bool = False, **_: Any) -> Any:
    """List the tasks that run."""
    return state.consumer.active(safe=bool(safe))


@inspect_command(alias="dump_reserved")
def reserved(state: Any, **_: Any) -> Any:
    """List the tasks that were claimed and wait for a slot."""
    return state.consumer.reserved()


@inspect_command(alias="dump_schedule")
def scheduled(state: Any, **_: Any) -> Any:  # noqa: ARG001 - as above
    """List the tasks that wait in the worker for their time: none, they wait in the broker."""
    return []


@inspect_command(alias="dump_revoked")
def revoked(state: Any, **_: Any) -> Any:  # noqa: ARG001 - as above
    """List the ids of revoked tasks."""
    return list(worker_state.revoked)


@inspect_command(alias="dump_tasks", variadic="taskinfoitems", signature="[attr1 [attr2 [... [attrN]]]]")
def registered(state: Any, taskinfoitems: Iterable[str] | None = None, builtins: bool = False, **_: Any) -> Any:
    """List the worker's tasks."""
    wanted = [item for item in taskinfoitems or TASK_INFO if isinstance(item, str) and not item.startswith("_")]
    tasks = state.app.tasks
    return [_shown_task(tasks[name], wanted) for name in sorted(tasks) if builtins or not name.startswith("celery.")]


def _shown_task(task: Any, wanted: Sequence[str]) -> str:
    facts = [f"{name}={value}" for name in wanted if (value := getattr(task, name, None)) is not None]
    return f"{task.name} [{' '.join(facts)}]" if facts else str(task.name)


@inspect_command()
def active_queues(state: Any, **_: Any) -> Any:
    """List the queues that the worker consumes from."""
    return state.consumer.active_queues()


@inspect_command(variadic="ids", signature="[id1 [id2 [... [idN]]]]")
def query_task(state: Any, ids: Any, **_: Any) -> Any:
    """Look for tasks by their ids."""
    wanted = set(maybe_list(ids) or ())
    found = {info["id"]: ("reserved", info) for info in state.consumer.reserved() if info["id"] in wanted}
    found.update({info["id"]: ("active", info) for info in state.consumer.active() if info["id"] in wanted})
    return found


@inspect_command(visible=False)
def hello(state: Any, from_node: str, revoked: Any = None, **_: Any) -> Any:
    """Exchange what is revoked with a worker that starts."""
    if from_node == state.hostname:
        return None
    if revoked:
        state.consumer.tell({"revoke": list(revoked)})
    worker_state.revoked.purge()
    return {"revoked": list(worker_state.revoked), "clock": state.app.clock.forward()}


@inspect_command()
def memsample(state: Any, **_: Any) -> Any:  # noqa: ARG001 - as above
    """Memory in use."""
    from compat_celery.utils.debug import sample_mem  # noqa: PLC0415 - it imports psutil

    return sample_mem()


# Tasks.


@control_command(variadic="task_id", signature="[id1 [id2 [... [idN]]]]")
def revoke(state: Any, task_id: Any, terminate: bool = False, signal: Any = None, said: bool = False, **_: Any) -> Any:
    """Revoke tasks by their ids; ``terminate`` also ends those that run."""
    ids = {str(each) for each in maybe_list(task_id) or ()}
    state.consumer.tell({"revoke": sorted(ids)}, said=said)
    running = {info["id"] for info in state.consumer.active()} & ids
    _store_revoked(state.app, ids - running)
    if not terminate:
        logger.info("Tasks flagged as revoked: %s", ", ".join(ids))
        return ok(f"tasks {ids} flagged as revoked")
    for each in running:
        logger.info("Terminating %s (%s)", each, signal)
        state.consumer.cancel(each)
    return ok(f"terminate: {', '.join(running)}" if running else "terminate: tasks unknown")


def _store_revoked(app: Any, ids: Iterable[str]) -> None:
    """Whoever waits for a task that has not begun should know at once; results and what other workers do stay as they are."""
    for each in ids:
        try:
            if app.backend.get_state(each) in _NOT_BEGUN:
                app.backend.mark_as_revoked(each, reason="revoked", store_result=True)
        except Exception as error:  # noqa: BLE001 - a store that is away must not keep the task from being revoked
            logger.warning("that task %s is revoked could not be stored: %s", each, error)


_NOT_BEGUN = frozenset({states.PENDING, states.RECEIVED, states.RETRY, states.REJECTED})


@control_command(variadic="headers", signature="[key1=value1 [key2=value2 [... [keyN=valueN]]]]")
def revoke_by_stamped_headers(
    state: Any, headers: Any, terminate: bool = False, signal: Any = None, said: bool = False, **_: Any
) -> Any:
    """Revoke tasks by their stamps; ``terminate`` also ends those that run."""
    if not isinstance(headers, Mapping):
        headers = dict(str(header).split("=", 1) for header in headers)
    state.consumer.tell({"revoke_stamps": headers}, said=said)
    if not terminate:
        return ok(f"headers {headers} flagged as revoked, but not terminated")
    running = [info["id"] for info in state.consumer.active() if revocations.has_stamp(info.get("stamps") or {}, headers)]
    for each in running:
        logger.info("Terminating %s (%s)", each, signal)
        state.consumer.cancel(each)
    return ok(f"headers {headers} revoked" if running else f"headers {headers} were not terminated")


@control_command(variadic="task_id", args=[("signal", str)], signature="<signal> [id1 [id2 [... [idN]]]]")
def terminate(state: Any, signal: Any, task_id: Any, **_: Any) -> Any:
    """Revoke tasks and end those that run."""
    return revoke(state, task_id, terminate=True, signal=signal)


@control_command(
    args=[("task_name", str), ("soft", float), ("hard", float)],
    signature="<task_name> <soft_secs> [hard_secs]",
)
def time_limit(state: Any, task_name: str, hard: float | None = None, soft: float | None = None, **_: Any) -> Any:
    """Change a task's time limits."""
    if task_name not in state.app.tasks:
        logger.error("Change time limit attempt for unknown task %s", task_name)
        return nok("unknown task")
    state.consumer.tell({"time_limit": [task_name, soft, hard]})
    logger.info("New time limits for tasks of type %s: soft=%s hard=%s", task_name, soft, hard)
    return ok("time limits set successfully")


@control_command(
    args=[("task_name", str), ("rate_limit", str)],
    signature="<task_name> <rate_limit (e.g., 5/s | 5/m | 5/h)>",
)
def rate_limit(state: Any, task_name: str, rate_limit: Any, **_: Any) -> Any:
    """Change a task's rate limit."""
    try:
        rate(rate_limit)
    except (ValueError, KeyError) as error:
        return nok(f"Invalid rate limit string: {error!r}")
    if task_name not in state.app.tasks:
        logger.error("Rate limit attempt for unknown task %s", task_name)
        return nok("unknown task")
    state.consumer.tell({"rate_limit": [task_name, rate_limit]})
    if not rate_limit:
        logger.info("Tasks of type %s may start as often as they like", task_name)
        return ok("rate limit disabled successfully")
    logger.info("New rate limit for tasks of type %s: %s.", task_name, rate_limit)
    return ok("new rate limit set successfully")


# The worker.


@control_command()
def shutdown(state: Any, msg: str = "Got shutdown from remote", **_: Any) -> None:
    """Shutdown worker(s)."""
    logger.warning(msg)
    state.consumer.stop()


@control_command()
def heartbeat(state: Any, **_: Any) -> None:
    """Send a heartbeat now."""
    state.consumer.beat()


@control_command()
def enable_events(state: Any, **_: Any) -> Any:
    """Send events about tasks."""
    if state.consumer.reports_tasks:
        return ok("task events already enabled")
    state.consumer.tell({"events": True})
    logger.info("Events about tasks are sent from now on, as was asked from outside.")
    return ok("task events enabled")


@control_command()
def disable_events(state: Any, **_: Any) -> Any:
    """Send no events about tasks."""
    if not state.consumer.reports_tasks:
        return ok("task events already disabled")
    state.consumer.tell({"events": False})
    logger.info("Events about tasks are sent no more, as was asked from outside.")
    return ok("task events disabled")


@control_command(
    args=[("queue", str), ("exchange", str), ("exchange_type", str), ("routing_key", str)],
    signature="<queue> [exchange [type [routing_key]]]",
)
def add_consumer(state: Any, queue: str, *_args: Any, **_options: Any) -> Any:  # noqa: ARG001 - as above
    """Consume from another queue from now on."""
    return nok(f"cannot consume from {queue!r}: a running worker's queues cannot be changed yet; start it with -Q")


@control_command(args=[("queue", str)], signature="<queue>")
def cancel_consumer(state: Any, queue: str, **_options: Any) -> Any:  # noqa: ARG001 - as above
    """Consume from a queue no more."""
    return nok(f"cannot stop consuming from {queue!r}: a running worker's queues cannot be changed yet; start it with -Q")


def _not_yet(name: str) -> None:
    def refuse(state: Any, **_: Any) -> Any:  # noqa: ARG001 - as above
        return nok(f"{name} is still to come: start the worker with another -c")

    refuse.__doc__ = "Still to come."
    Panel.register(name=name)(refuse)


for _name in ("pool_grow", "pool_shrink", "pool_restart", "autoscale"):
    _not_yet(_name)

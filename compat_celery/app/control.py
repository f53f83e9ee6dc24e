"""Remote control of workers: commands and questions, by kombu's mailbox. Comes from: ``app.control``. Goes to: the broker, and from
there to every worker's :mod:`compat_celery.worker.pidbox`, ours or genuine Celery's.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from kombu.matcher import match
from kombu.pidbox import Mailbox
from kombu.utils.functional import maybe_list

from compat_celery._names import celery_named
from compat_celery.exceptions import DuplicateNodenameWarning, ImproperlyConfigured
from jumpstarter.errors import BrokerUnavailable

if TYPE_CHECKING:
    from compat_celery.app.base import Celery

__all__ = ("Control", "Inspect", "flatten_reply")

#: What ends a task that runs, unless the caller names another signal.
TERM_SIGNAL = "SIGTERM"


def flatten_reply(reply: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """One mapping of all workers' replies, each of which is a mapping from the worker's name. Warns when two have one name."""
    by_node: dict[str, Any] = {}
    twice: set[str] = set()
    for each in reply:
        twice.update(name for name in each if name in by_node)
        by_node.update(each)
    if twice:
        warnings.warn(
            DuplicateNodenameWarning(
                f"more than one worker is called {', '.join(sorted(twice))}: only one reply of each is shown. Give every worker a "
                "name of its own (-n)."
            ),
            stacklevel=2,
        )
    return by_node


@celery_named
class Inspect:
    """Questions to workers. Each answers a mapping from workers' names to their answers, or None when nobody answered in time.

    :param destination: the workers to ask; all if None. For one name (a string) the answers come without the mapping.
    :param timeout: seconds to wait for answers.
    :param limit: answers to wait for; None: until the time is over.
    :param pattern: instead of ``destination``: workers whose names match it.
    :param matcher: how it is matched: ``glob`` or ``pcre``.
    """

    app: Any = None

    def __init__(
        self,
        destination: Any = None,
        timeout: float = 1.0,
        callback: Callable[[Any], Any] | None = None,
        connection: Any = None,
        app: Celery | None = None,
        limit: int | None = None,
        pattern: str | None = None,
        matcher: str | None = None,
    ) -> None:
        self.app = app or self.app
        self.destination = destination
        self.timeout = timeout
        self.callback = callback
        self.connection = connection
        self.limit = limit
        self.pattern = pattern
        self.matcher = matcher

    def _ask(self, command: str, **arguments: Any) -> Any:
        destination = [self.destination] if isinstance(self.destination, str) else self.destination
        replies = self.app.control.broadcast(
            command,
            arguments=arguments,
            destination=destination,
            callback=self.callback,
            connection=self.connection,
            limit=self.limit,
            timeout=self.timeout,
            reply=True,
            pattern=self.pattern,
            matcher=self.matcher,
        )
        if not replies:
            return None
        by_node = flatten_reply(replies)
        if isinstance(self.destination, str):
            return by_node.get(self.destination)
        if self.pattern:
            return {node: reply for node, reply in by_node.items() if match(node, self.pattern, self.matcher)}
        return by_node

    def ping(self, destination: Any = None) -> Any:
        """``{"ok": "pong"}`` from everyone who lives."""
        if destination:
            self.destination = destination
        return self._ask("ping")

    def report(self) -> Any:
        """What to put into a bug report."""
        return self._ask("report")

    def clock(self) -> Any:
        """The logical clock."""
        return self._ask("clock")

    def active(self, safe: bool | None = None) -> Any:
        """The tasks that run."""
        return self._ask("active", safe=safe)

    def reserved(self, safe: bool | None = None) -> Any:  # noqa: ARG002 - Celery's signature
        """The tasks that were claimed and wait for a slot."""
        return self._ask("reserved")

    def scheduled(self, safe: bool | None = None) -> Any:  # noqa: ARG002 - Celery's signature
        """The tasks that wait for their time inside the worker: here they wait in the broker, so there are none."""
        return self._ask("scheduled")

    def stats(self) -> Any:
        """Numbers about the worker and its pool."""
        return self._ask("stats")

    def revoked(self) -> Any:
        """The ids of revoked tasks."""
        return self._ask("revoked")

    def registered(self, *taskinfoitems: str) -> Any:
        """The names of the worker's tasks, with these attributes of theirs."""
        return self._ask("registered", taskinfoitems=taskinfoitems)

    registered_tasks = registered

    def active_queues(self) -> Any:
        """The queues that it consumes from."""
        return self._ask("active_queues")

    def query_task(self, *ids: Any) -> Any:
        """For each of these tasks that the worker has: ``(state, what is known about it)``."""
        if len(ids) == 1 and isinstance(ids[0], list | tuple):
            ids = tuple(ids[0])
        return self._ask("query_task", ids=ids)

    def conf(self, with_defaults: bool = False) -> Any:
        """The worker's settings."""
        return self._ask("conf", with_defaults=with_defaults)

    def hello(self, from_node: str, revoked: Any = None) -> Any:
        """What a worker tells another one that starts."""
        return self._ask("hello", from_node=from_node, revoked=revoked)

    def memsample(self) -> Any:
        """Memory in use."""
        return self._ask("memsample")

    def memdump(self, samples: int = 10) -> Any:
        """Earlier samples."""
        return self._ask("memdump", samples=samples)

    def objgraph(self, type: str = "Request", n: int = 200, max_depth: int = 10) -> Any:  # noqa: A002 - Celery's keyword
        """A picture of the objects of a type."""
        return self._ask("objgraph", num=n, max_depth=max_depth, type=type)


@celery_named
class Control:
    """Commands to workers. Those that workers answer take ``reply=True`` and ``timeout`` (seconds), and return a list of replies,
    each a mapping from the worker's name; ``destination`` is a list of workers' names."""

    Mailbox = Mailbox

    def __init__(self, app: Celery) -> None:
        self.app: Any = app
        conf = app.conf
        if conf.get("control_queue_durable") and conf.get("control_queue_exclusive"):
            raise ImproperlyConfigured(
                "control_queue_durable and control_queue_exclusive cannot both be True "
                "(exclusive queues are automatically deleted and cannot be durable)."
            )
        self.mailbox = self.Mailbox(
            conf.control_exchange,
            type="fanout",
            accept=conf.accept_content,
            serializer=conf.task_serializer,
            clock=app.clock,
            queue_ttl=conf.control_queue_ttl,
            reply_queue_ttl=conf.control_queue_ttl,
            queue_expires=conf.control_queue_expires,
            queue_exclusive=conf.control_queue_exclusive,
            queue_durable=conf.control_queue_durable,
            reply_queue_expires=conf.control_queue_expires,
        )

    @cached_property
    def inspect(self) -> Any:
        """The class of questions, for this app."""
        return self.app.subclass_with_self(Inspect, reverse="control.inspect")

    def purge(self, connection: Any = None) -> int:  # noqa: ARG002 - Celery's signature
        """Drop all messages that wait in the app's queues; answers how many."""
        from compat_celery.app.publisher import broker_for  # noqa: PLC0415 - it imports the brokers

        broker = broker_for(self.app)
        return sum(broker.purge(name) for name in self.app.amqp.queues.consume_from)

    discard_all = purge

    def revoke(
        self,
        task_id: Any,
        destination: Sequence[str] | None = None,
        terminate: bool = False,
        signal: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Tell workers not to start this task, or these.

        :param terminate: and to end it if it runs.
        :param signal: how, as Celery names signals.
        """
        said = self._say({"revoke": [str(each) for each in maybe_list(task_id) or ()]}, destination, kwargs)
        arguments = {"task_id": task_id, "terminate": terminate, "signal": signal or TERM_SIGNAL, **said}
        return self.broadcast("revoke", arguments, destination, **kwargs)

    def revoke_by_stamped_headers(
        self,
        headers: Mapping[str, Any],
        destination: Sequence[str] | None = None,
        terminate: bool = False,
        signal: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Tell workers not to start tasks that carry one of these stamps (a value, or several, for each header)."""
        said = self._say({"revoke_stamps": headers}, destination, kwargs)
        arguments = {"headers": headers, "terminate": terminate, "signal": signal or TERM_SIGNAL, **said}
        return self.broadcast("revoke_by_stamped_headers", arguments, destination, **kwargs)

    def _say(self, notice: Mapping[str, Any], destination: Any, selection: Mapping[str, Any]) -> dict[str, bool]:
        """Say it through the broker, if it is for all workers and the broker can: nothing that is published from now on starts
        before its worker knows. Workers of ours then need not hear it from the broadcast, and are told so."""
        from compat_celery.app.publisher import broker_for  # noqa: PLC0415 - it imports the brokers
        from compat_celery.worker.state import REVOKE_EXPIRES  # noqa: PLC0415 - only who revokes

        if destination or selection.get("pattern"):
            return {}
        try:
            was_said = broker_for(self.app, write=True).notify(json.dumps(notice), ttl=REVOKE_EXPIRES)
        except (BrokerUnavailable, TypeError):  # the broadcast will raise what there is to say
            return {}
        return {"said": True} if was_said else {}

    def terminate(self, task_id: Any, destination: Sequence[str] | None = None, signal: str | None = None, **kwargs: Any) -> Any:
        """:meth:`revoke` that also ends what runs."""
        return self.revoke(task_id, destination=destination, terminate=True, signal=signal, **kwargs)

    def ping(self, destination: Sequence[str] | None = None, timeout: float = 1.0, **kwargs: Any) -> Any:
        """Who lives: ``[{"celery@host": {"ok": "pong"}}, …]``."""
        return self.broadcast("ping", {}, destination, reply=True, timeout=timeout, **kwargs)

    def rate_limit(self, task_name: str, rate_limit: Any, destination: Sequence[str] | None = None, **kwargs: Any) -> Any:
        """Set a task's rate limit."""
        return self.broadcast("rate_limit", {"task_name": task_name, "rate_limit": rate_limit}, destination, **kwargs)

    def time_limit(
        self,
        task_name: str,
        soft: float | None = None,
        hard: float | None = None,
        destination: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Set a task's time limits, in seconds."""
        return self.broadcast("time_limit", {"task_name": task_name, "hard": hard, "soft": soft}, destination, **kwargs)

    def add_consumer(
        self,
        queue: str,
        exchange: str | None = None,
        exchange_type: str = "direct",
        routing_key: str | None = None,
        options: Mapping[str, Any] | None = None,
        destination: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Have workers consume from another queue."""
        arguments = {"queue": queue, "exchange": exchange, "exchange_type": exchange_type, "routing_key": routing_key}
        return self.broadcast("add_consumer", {**arguments, **(options or {})}, destination, **kwargs)

    def cancel_consumer(self, queue: str, destination: Sequence[str] | None = None, **kwargs: Any) -> Any:
        """Have workers consume from a queue no more."""
        return self.broadcast("cancel_consumer", {"queue": queue}, destination, **kwargs)

    def enable_events(self, destination: Sequence[str] | None = None, **kwargs: Any) -> Any:
        """Have workers send events about tasks."""
        return self.broadcast("enable_events", {}, destination, **kwargs)

    def disable_events(self, destination: Sequence[str] | None = None, **kwargs: Any) -> Any:
        """The opposite of :meth:`enable_events`."""
        return self.broadcast("disable_events", {}, destination, **kwargs)

    def heartbeat(self, destination: Sequence[str] | None = None, **kwargs: Any) -> Any:
        """Have workers send a heartbeat now."""
        return self.broadcast("heartbeat", {}, destination, **kwargs)

    def pool_grow(self, n: int = 1, destination: Sequence[str] | None = None, **kwargs: Any) -> Any:
        """Have workers run ``n`` tasks more at a time."""
        return self.broadcast("pool_grow", {"n": n}, destination, **kwargs)

    def pool_shrink(self, n: int = 1, destination: Sequence[str] | None = None, **kwargs: Any) -> Any:
        """Have workers run ``n`` tasks less at a time."""
        return self.broadcast("pool_shrink", {"n": n}, destination, **kwargs)

    def autoscale(self, max: int, min: int, destination: Sequence[str] | None = None, **kwargs: Any) -> Any:  # noqa: A002 - Celery's
        """Change the bounds of the pool's size."""
        return self.broadcast("autoscale", {"max": max, "min": min}, destination, **kwargs)

    def pool_restart(
        self,
        modules: Any = None,
        reload: bool = False,
        reloader: Any = None,
        destination: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Have workers replace their processes."""
        return self.broadcast("pool_restart", {"modules": modules, "reload": reload, "reloader": reloader}, destination, **kwargs)

    def shutdown(self, destination: Sequence[str] | None = None, **kwargs: Any) -> Any:
        """Have workers end, once what they run is done."""
        return self.broadcast("shutdown", {}, destination, **kwargs)

    def election(self, id: str, topic: str, action: Any = None, connection: Any = None) -> None:  # noqa: A002 - Celery's keyword
        """Have workers elect one of them (genuine ones do)."""
        self.broadcast("election", {"id": id, "topic": topic, "action": action}, None, connection)

    def broadcast(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        destination: Sequence[str] | None = None,
        connection: Any = None,
        reply: bool = False,
        timeout: float | None = 1.0,
        limit: int | None = None,
        callback: Callable[[Any], Any] | None = None,
        channel: Any = None,
        pattern: str | None = None,
        matcher: str | None = None,
        **more: Any,
    ) -> Any:
        """Send a command to all workers, or to those of ``destination``, or to those whose names match ``pattern``.

        :param reply: wait for replies, for ``timeout`` seconds or until there are ``limit`` of them; answers their list.
        :param callback: called with each reply as it comes.
        :param more: further arguments of the command.
        """
        selection = {"pattern": pattern, "matcher": matcher} if pattern and matcher else {}
        with self.app.connection_or_acquire(connection) as used:
            return self.mailbox(used)._broadcast(
                command,
                {**(arguments or {}), **more},
                destination,
                reply,
                timeout,
                limit,
                callback,
                channel=channel,
                **selection,
            )

"""Named crash points: a process is told by its environment to kill itself when it gets there.

``CHAOS_POINT=<name>[:<n-th time>]`` names one, ``CHAOS_PASSES`` a file in which the processes of a node count together how often it
was passed, so that exactly one of them dies; where ``CHAOS_FROM`` names a file, only what passes once that is there counts. Nothing
in the product knows of this: :func:`arm` wraps the methods of the ports (and, for answers that are never read, the connection below
them) in a process that was asked to.

A *hook* is a place in the code, ``<call>.<where>``: ``enter`` and ``return`` of a call of a port, and ``unread``, when the server
has carried it out and the answer is never looked at (Redis), or all statements are made and never committed (SQLite). A *point* is
what people call it; :data:`POINTS` says at which hooks it is on each broker. Where one atomic step makes two points the same, the
table says so.
"""

from __future__ import annotations

import functools
import importlib
import os
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.app import note as notes

#: The scene in which a crash point is reached; see tests/chaos/crash.py.
CHILD, PARENT, REQUEUE, REAPER, SHUTDOWN, PUBLISHER = "child", "parent", "requeue", "reaper", "shutdown", "publisher"


@dataclass(frozen=True, slots=True)
class Point:
    """A crash point.

    :ivar hooks: where it is: the first of these that is reached.
    :ivar elsewhere: hooks for some grounds or brokers, by name.
    :ivar remark: how it maps where a step is atomic.
    :ivar nth: how often it is passed before it kills.
    """

    name: str
    scene: str
    hooks: tuple[str, ...]
    elsewhere: tuple[tuple[str, tuple[str, ...]], ...] = ()
    remark: str = ""
    nth: int = 1

    def hooks_on(self, grounds: str) -> tuple[str, ...]:
        """Where it is on these grounds: as they are named, or else as their broker is."""
        table = dict(self.elsewhere)
        return table.get(grounds) or table.get(grounds.partition("-")[0]) or self.hooks


_APART = "redis-apart", "sqlite-apart", "amqp"


def _apart(*hooks: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple((name, hooks) for name in _APART)


#: Where a broker of ours is only with a fault planted.
FAULTY = ("claim.window",)

_SERVED_BY_AMQP = "on AMQP the server itself returns what a broken connection held"

POINTS = {
    point.name: point
    for point in (
        Point(
            "after-claim-before-record",
            CHILD,
            ("claim.unread",),
            (("amqp", ("claim.return",)),),
            "one step: done and never read (Redis), not committed (SQLite); on AMQP the server records what it pushes",
        ),
        Point("after-record-before-decode", CHILD, ("claim.return",)),
        Point("decoded", CHILD, ("decode.return",)),
        Point("before-admit", CHILD, ("admit.enter",)),
        Point("admitted", CHILD, ("admit.return",)),
        Point("before-run", CHILD, ("run.enter",)),
        Point("in-run", CHILD, ("in-run",)),
        Point("returned", CHILD, ("run.return",)),
        Point("before-result-stored", CHILD, ("settle-ack.enter",), _apart("put.enter")),
        Point(
            "result-stored-before-ack",
            CHILD,
            ("settle-ack.unread",),
            _apart("put.return"),
            "one step on one server: done, but its answer is never read (Redis) or it is not committed (SQLite)",
        ),
        Point("acked", CHILD, ("settle-ack.return",)),
        Point(
            "acked-before-chord-count",
            CHILD,
            ("settle-part.unread", "part.enter"),
            _apart("part.enter"),
            "counted before or together with the ack, never after it",
        ),
        Point("chord-counted", CHILD, ("settle-part.return", "part.return"), _apart("part.return")),
        Point(
            "chord-counted-before-body-published",
            CHILD,
            ("completed.return",),
            remark="the last member is counted and still claimed",
        ),
        Point(
            "body-published",
            CHILD,
            ("settle-close.return", "close-join.enter"),
            _apart("close-join.enter"),
            "one step with the ack; in results elsewhere, before the join is closed",
        ),
        Point("before-requeue", REQUEUE, ("settle-requeue.enter",), (("amqp", ("release.enter",)),), _SERVED_BY_AMQP),
        Point("after-requeue", REQUEUE, ("settle-requeue.return",), (("amqp", ("release.return",)),), _SERVED_BY_AMQP),
        Point("before-renewal", PARENT, ("renew.enter",)),
        Point("in-renewal", PARENT, ("renew.unread",), (("amqp", ("renew.return",)),)),
        Point("after-renewal", PARENT, ("renew.return",)),
        Point(
            "in-reaper-after-pop",
            REAPER,
            ("reap.expired",),
            (("amqp", ("reap.enter",)),),
            f"Redis: between finding and moving; SQLite: one transaction, not committed; {_SERVED_BY_AMQP}",
        ),
        Point("in-reaper-after-requeue", REAPER, ("reap.returned",), (("amqp", ("reap.return",)),), _SERVED_BY_AMQP),
        Point(
            "in-eta-mover-after-pop",
            CHILD,
            ("reap.moving",),
            (("amqp", ("settle-park.enter",)),),
            "one step: done and never read, or not committed; on AMQP the server moves what was parked there",
        ),
        Point("in-eta-mover-after-push", CHILD, ("reap.promoted",), (("amqp", ("settle-park.return",)),)),
        Point("before-shutdown-hand-back", SHUTDOWN, ("settle-return.enter", "release.enter")),
        Point("in-shutdown-hand-back", SHUTDOWN, ("settle-return.return", "release.unread"), (("amqp", ("release.return",)),)),
        Point("after-shutdown-hand-back", SHUTDOWN, ("release.return",)),
        Point("in-publisher-before-send", PUBLISHER, ("publish.enter",), nth=2),
        Point(
            "in-publisher-before-confirm",
            PUBLISHER,
            ("publish.unread",),
            remark="the server has it and nobody reads the answer; SQLite does not commit",
            nth=2,
        ),
        Point("in-publisher-after-confirm", PUBLISHER, ("publish.return",), nth=2),
        # Only with a fault planted (see faults.py): where a broker that pops and records in two steps is in between.
        Point("between-pop-and-record", CHILD, FAULTY),
    )
}

_local = threading.local()
_armed: frozenset[str] = frozenset()
_point = ""
_nth = 1
#: The process that imported the application: a node's parent, or a publisher.
_first_process = 0


def arm() -> None:
    """Wrap what has to be wrapped for the point that the environment names."""
    global _armed, _first_process, _nth, _point  # noqa: PLW0603 - one point for each process and its children
    wanted = os.environ.get("CHAOS_POINT", "")
    if not wanted:
        return
    _point, _, nth = wanted.partition(":")
    point = POINTS[_point]
    _armed = frozenset(point.hooks_on(os.environ["CHAOS_GROUNDS"]))
    _nth = int(nth) if nth else point.nth
    _first_process = os.getpid()
    _wrap_broker()
    _wrap_results()
    _wrap_worker()
    _wrap_connections()


def reach(hook: str) -> None:
    """Be at a hook: die if it is the one, for the n-th time."""
    if hook not in _armed or not _is_time():
        return
    # The end of the file after an append is this pass's number, whichever process makes it.
    file = os.open(os.environ["CHAOS_PASSES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(file, b".")
    passes = os.lseek(file, 0, os.SEEK_CUR)
    os.close(file)
    if passes == _nth:
        _die(hook)


def _is_time() -> bool:
    file = os.environ.get("CHAOS_FROM")
    return not file or Path(file).exists()


def _die(hook: str) -> None:
    is_first = os.getpid() == _first_process
    node = os.environ.get("CHAOS_NODE", "")
    # The first process takes its children along. A publisher has no slots.
    slots = (int(os.environ["CHAOS_SLOTS"]) if is_first else 1) if node else 0
    now = notes.boot_time()
    facts = {"what": _point, "hook": hook, "pids": [os.getpid()], "node": node if is_first and node else None, "slots": slots}
    notes.note("kill", **facts, began=now, ended=now + 0.1)
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()  # nothing more of this thread


# Wrapping


def around(owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
    """Replace a method by ``wrapper(original, *arguments)``."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return wrapper(original, *args, **kwargs)

    setattr(owner, name, wrapped)


def broker_class() -> Any:
    """The class of this run's broker."""
    scheme = os.environ["CHAOS_BROKER"].partition("://")[0]
    module, name = {
        "redis": ("jumpstarter.brokers.redis", "RedisBroker"),
        "sqlite": ("jumpstarter.brokers.sqlite", "SqliteBroker"),
        "amqp": ("jumpstarter.brokers.kombu", "AmqpBroker"),
    }[scheme]
    return getattr(importlib.import_module(module), name)


def results_class() -> Any:
    """The class of this run's results store."""
    scheme = os.environ["CHAOS_RESULTS"].partition("://")[0]
    module, name = {
        "redis": ("jumpstarter.results.redis", "RedisResults"),
        "sqlite": ("jumpstarter.results.sqlite", "SqliteResults"),
    }[scheme]
    return getattr(importlib.import_module(module), name)


class _Call:
    """The calls of the ports that this thread is in, for what lies below them."""

    def __init__(self, *labels: str) -> None:
        self._labels = labels

    def __enter__(self) -> None:
        self._before = getattr(_local, "labels", ())
        _local.labels = self._labels
        _local.trips = 0

    def __exit__(self, *error: object) -> None:
        _local.labels = self._before


def _in_call(labels: Sequence[str], call: Callable[[], Any]) -> Any:
    for label in labels:
        reach(f"{label}.enter")
    with _Call(*labels):
        answer = call()
    for label in labels:
        reach(f"{label}.return")
    return answer


def _plain(label: str) -> Callable[..., Any]:
    def wrapper(original: Any, *args: Any, **kwargs: Any) -> Any:
        return _in_call([label], lambda: original(*args, **kwargs))

    return wrapper


def _wrap_broker() -> None:
    broker = broker_class()
    for name in ("publish", "release"):
        around(broker, name, _plain(name))
    around(broker, "claim", _claim)
    around(broker, "settle", _settle)
    around(broker, "renew", _renew)
    around(broker, "reap", _reap)


def _claim(original: Any, *args: Any, **kwargs: Any) -> Any:
    with _Call("claim"):
        deliveries = original(*args, **kwargs)
    if deliveries:
        reach("claim.return")
    return deliveries


def _renew(original: Any, broker: Any, incarnations: Any, lease: float) -> Any:
    names = list(incarnations)
    if not names:  # a node whose children are not there yet
        return original(broker, names, lease)
    return _in_call(["renew"], lambda: original(broker, names, lease))


def _settle(original: Any, broker: Any, settlements: Any, *, incarnation: str) -> Any:
    from jumpstarter.jobs import Completed  # noqa: PLC0415 - genuine workers import this module's neighbours only

    answers = _in_call(_labels(settlements), lambda: original(broker, settlements, incarnation=incarnation))
    if any(isinstance(answer, Completed) for answer in answers):
        reach("completed.return")
    return answers


def _labels(settlements: Any) -> list[str]:
    """What a batch of settlements is about."""
    kinds = {type(settlement.action).__name__.lower() for settlement in settlements}
    labels = [f"settle-{kind}" for kind in sorted(kinds)]
    if any(settlement.part is not None for settlement in settlements):
        labels.append("settle-part")
    if any(settlement.closes is not None for settlement in settlements):
        labels.append("settle-close")
    return labels


def _reap(original: Any, *args: Any, **kwargs: Any) -> Any:
    reach("reap.enter")
    with _Call("reap"):
        reaped = original(*args, **kwargs)
    if reaped.returned:
        reach("reap.returned")
    if reaped.promoted:
        reach("reap.promoted")
    reach("reap.return")
    return reaped


def _wrap_results() -> None:
    results = results_class()
    around(results, "put", _plain("put"))
    around(results, "close_join", _plain("close-join"))
    if "add_parts" in vars(results):
        around(results, "add_parts", _add_parts)
    else:
        around(results, "add_part", _add_part)


def _add_part(original: Any, *args: Any, **kwargs: Any) -> Any:
    bodies = _in_call(["part"], lambda: original(*args, **kwargs))
    if bodies is not None:
        reach("completed.return")
    return bodies


def _add_parts(original: Any, *args: Any, **kwargs: Any) -> Any:
    answers = _in_call(["part"], lambda: original(*args, **kwargs))
    if any(bodies is not None for bodies in answers):
        reach("completed.return")
    return answers


def _wrap_worker() -> None:
    from compat_celery.worker.application import CeleryApplication  # noqa: PLC0415 - ours only
    from jumpstarter.worker import execute, worker  # noqa: PLC0415

    around(worker, "admit", _plain("admit"))
    around(CeleryApplication, "decode", _plain("decode"))
    around(execute.Runner, "run", _plain("run"))


# Answers that are never read


def _wrap_connections() -> None:
    from jumpstarter._redis import Link  # noqa: PLC0415 - ours only
    from jumpstarter.embedded.database import Database  # noqa: PLC0415

    around(Link, "exchange", _exchange)
    around(Database, "write", _write)
    if os.environ["CHAOS_BROKER"].startswith("amqp"):
        from jumpstarter.brokers.kombu.publisher import Publisher  # noqa: PLC0415 - not everybody has it

        around(Publisher, "_on_method", _on_method)


def _exchange(original: Any, *args: Any, **kwargs: Any) -> Any:
    """A round trip to Redis: when the answer is there, everything was carried out, and nobody has looked at it yet."""
    labels = getattr(_local, "labels", ())
    replies = original(*args, **kwargs)
    if "reap" in labels:
        _reap_round_trip(replies[-1])
    elif not (replies and "NOSCRIPT" in str(replies[-1])) and not ("claim" in labels and _is_empty_claim(replies[-1])):
        for label in labels:
            reach(f"{label}.unread")
    return replies


def _is_empty_claim(reply: Any) -> bool:
    # {epoch, refused keys, list, messages, …}
    return not (isinstance(reply, list) and any(isinstance(part, list) and part for part in reply[2:]))


def _reap_round_trip(reply: Any) -> None:
    _local.trips += 1
    # {promoted, swept, next due, expired incarnations, …}: the first round trip finds, the next ones move.
    if _local.trips == 1 and isinstance(reply, list):
        if reply[0]:
            reach("reap.moving")
        if reply[3]:
            reach("reap.expired")


def _on_method(original: Any, *args: Any, **kwargs: Any) -> Any:
    """The server says something to a publisher: the confirmation of what it was sent, and nobody has looked at it yet."""
    if "publish" in getattr(_local, "labels", ()):
        reach("publish.unread")
    return original(*args, **kwargs)


def _write(original: Any, database: Any, work: Any, **kwargs: Any) -> Any:
    """A transaction in SQLite: all statements are made, nothing is committed."""
    labels = getattr(_local, "labels", ())
    if not labels:
        return original(database, work, **kwargs)

    def interrupted(connection: Any) -> Any:
        answer = work(connection)
        if "reap" in labels:
            # Two transactions: what expired, answered in messages; and what is due, in messages too.
            reach("reap.moving" if "promote" in getattr(work, "__name__", "") else "reap.expired")
        else:
            for label in labels:
                reach(f"{label}.unread")
        return answer

    return original(database, interrupted, **kwargs)

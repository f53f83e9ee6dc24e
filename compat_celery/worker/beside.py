"""What lives beside a worker in its node's process: ears for fanout queues, the mailbox of remote control. Used by: apps.worker."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from typing import Any

from compat_celery.app.publisher import broker_for
from jumpstarter.worker.remote import Beside, Remote

__all__ = ("fanouts", "local_names", "together")

#: Names that Kombu's ``Broadcast`` makes for the queues of one process.
_RANDOM = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")


def local_names(app: Any, names: Iterable[str]) -> tuple[str, ...]:
    """The queues to claim from: aliases resolved. On Redis, what a fanout exchange says is said to each node, and kept in a queue
    of the node's own."""
    queues = app.amqp.queues
    hears = hasattr(broker_for(app), "listen")
    found = []
    for name in names:
        queue = queues[name]
        is_shared = queue.exchange.type == "fanout" and not _RANDOM.search(queue.name)
        if hears and is_shared:
            local = f"{queue.name}.{uuid.uuid4()}"
            dict.__setitem__(queues, local, type(queue)(local, exchange=queue.exchange, routing_key=queue.routing_key))
            found.append(local)
        else:
            found.append(queue.name)
    return tuple(found)


def fanouts(app: Any, names: Iterable[str], _remote: Remote) -> Callable[[], None]:
    """Open those of the queues that are bound to fanout exchanges."""
    broker = broker_for(app)
    stack = ExitStack()
    for name in names:
        queue = app.amqp.queues[name]
        if queue.exchange.type == "fanout":
            private = bool(_RANDOM.search(name))
            stack.callback(broker.open_fanout(name, queue.exchange.name, queue.routing_key or "", private=private))
    return stack.close


def together(*parts: Beside | None) -> Beside:
    """All of them; they end in reverse order."""

    def begin(remote: Remote) -> Callable[[], None]:
        with ExitStack() as stack:
            for part in parts:
                if part is not None:
                    stack.callback(part(remote))
            return stack.pop_all().close

    return begin


def ears(app: Any, names: Iterable[str]) -> Beside | None:
    """For fanout queues among these; None where there are none."""
    heard = [name for name in names if app.amqp.queues[name].exchange.type == "fanout"]
    return partial(fanouts, app, heard) if heard else None

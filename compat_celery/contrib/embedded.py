"""A worker inside the program that publishes: for notebooks, tests and small tools. Goes to: jumpstarter.nodes.

It runs in a thread of this process and is gone with it. Celery has nothing quite like it; its own ``contrib.testing`` is for tests
alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from compat_celery.app.publisher import broker_for
from compat_celery.apps.worker import queues_of
from compat_celery.bin.worker import POOL_NAMES
from compat_celery.utils.nodenames import default_nodename
from compat_celery.worker.application import CeleryApplication
from compat_celery.worker.beside import ears, together
from jumpstarter.errors import ConfigurationError
from jumpstarter.nodes import EmbeddedNode, NodeSetup
from jumpstarter.worker import WorkerOptions
from jumpstarter.worker.remote import Beside

__all__ = ("embedded_worker",)


@contextmanager
def embedded_worker(
    app: Any,
    *,
    pool: str = "threads",
    concurrency: int = 2,
    queues: Sequence[str] | None = None,
    hostname: str | None = None,
    beside: Beside | None = None,
) -> Iterator[EmbeddedNode]:
    """Run a worker of this app while the block lasts: ready when it begins, and what ran is done when it ends.

    :param app: a Celery app; tasks that are defined after this call are unknown to the worker.
    :param pool: ``threads``, ``async`` or ``solo`` run the tasks in this process; ``prefork`` in children forked from it, which is
        safe where no other thread of the program holds a lock at that moment.
    :param concurrency: tasks at a time.
    :param queues: queues to consume from; the app's own if not given.
    :param beside: what else lives with the worker; see :class:`jumpstarter.nodes.NodeSetup`. Its mailbox for remote control is not
        opened by itself.
    :raises ConfigurationError: an option cannot be used.
    :raises BrokerUnavailable: the broker does not answer.
    """
    if pool not in POOL_NAMES:
        raise ConfigurationError(f"unknown pool {pool!r}: use prefork, threads, async or solo")
    options = WorkerOptions(
        name=default_nodename(hostname),
        queues=queues_of(app, queues),
        pool=POOL_NAMES[pool],
        concurrency=concurrency,
        lease=app.conf.get("worker_lease") or 30.0,
    )
    setup = NodeSetup(
        application=CeleryApplication(app, options.name),
        broker=broker_for(app),
        results=getattr(app.backend, "results", None),
        options=options,
        beside=together(ears(app, options.queues), beside),
    )
    with EmbeddedNode(setup) as node:
        yield node

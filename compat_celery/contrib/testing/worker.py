"""A worker for tests, in a thread of the test's own process.

Tasks run in this process whatever the pool, so that tests see the signals, the log records and :mod:`celery.worker.state` of the
worker, and tasks that a test defines itself. Where the real thing is to be tested (children that die, memory limits), use
:func:`celery.contrib.embedded.embedded_worker` with ``pool="prefork"``, or the command.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from compat_celery import _state
from compat_celery.apps.worker import Worker
from compat_celery.contrib.testing.tasks import ping
from compat_celery.result import allow_join_result
from compat_celery.utils.dispatch import Signal
from compat_celery.utils.nodenames import anon_nodename
from compat_celery.worker import state as worker_state
from jumpstarter.nodes import EmbeddedNode
from jumpstarter.worker import WorkerOptions

__all__ = (
    "TestWorkController",
    "setup_app_for_worker",
    "start_worker",
    "test_worker_started",
    "test_worker_starting",
    "test_worker_stopped",
)

WORKER_LOGLEVEL = os.environ.get("WORKER_LOGLEVEL", "error")

test_worker_starting = Signal(name="test_worker_starting", providing_args=set())
test_worker_started = Signal(name="test_worker_started", providing_args={"worker", "consumer"})
test_worker_stopped = Signal(name="test_worker_stopped", providing_args={"worker"})

#: Workers that run in this process.
running: list[TestWorkController] = []


class TestWorkController(Worker):
    """The worker of :func:`start_worker`."""

    __test__ = False

    _node: EmbeddedNode | None = None

    def options(self) -> WorkerOptions:
        """As a worker's, but for the pool: ``solo`` stays, all others are threads of this process."""
        options = super().options()
        return options if options.pool in ("solo", "async") else replace(options, pool="threads")

    def begin(self) -> None:
        """Start it; return when it is ready."""
        setup = self._set_up()
        self._application.remembers_successes = True
        self._node = EmbeddedNode(setup)
        self._node.start()
        running.append(self)
        test_worker_started.send(sender=self.app, worker=self, consumer=None)

    def reload(self, *_: Any, **__: Any) -> None:
        """Take up the tasks that were defined since it began."""
        self._application.learn_tasks()

    def end(self, timeout: float) -> None:
        """Stop it once what runs is done.

        :raises RuntimeError: that took longer than ``timeout`` seconds.
        """
        if self in running:
            running.remove(self)
        if self._node is not None and not self._node.stop(timeout):
            raise RuntimeError(
                f"the worker did not end within {timeout:g} s: a task still runs. Give start_worker a longer shutdown_timeout if "
                "tasks may take so long."
            )

    def _set_up_logging(self) -> None:
        """The test's, or that of :func:`setup_app_for_worker`."""

    def _say_hello(self, options: WorkerOptions, url: str) -> None:
        """Nobody reads it."""


@contextmanager
def start_worker(
    app: Any,
    concurrency: int = 1,
    pool: str = "solo",
    loglevel: str | int = WORKER_LOGLEVEL,
    logfile: str | None = None,
    perform_ping_check: bool = True,
    ping_task_timeout: float = 10.0,
    shutdown_timeout: float = 10.0,
    WorkController: Any = TestWorkController,  # noqa: N803 - Celery's name
    **kwargs: Any,
) -> Iterator[Any]:
    """Run a worker while the block lasts; yields it.

    :param pool: ``solo`` runs tasks in the worker's thread, everything else in ``concurrency`` threads of this process.
    :param perform_ping_check: wait until it has run the task ``celery.ping``, ``ping_task_timeout`` seconds at most.
    :param shutdown_timeout: seconds that tasks which still run may take at the end.
    :param kwargs: more options of :class:`celery.apps.worker.Worker`, such as ``queues`` and ``hostname``.
    :raises RuntimeError: it did not end in time.
    """
    test_worker_starting.send(sender=app)
    setup_app_for_worker(app, loglevel, logfile)
    if perform_ping_check and "celery.ping" not in app.tasks:
        raise RuntimeError("the app does not know the task celery.ping: import celery.contrib.testing.tasks before it is finalized")
    options = {"hostname": anon_nodename(), **kwargs}
    worker = WorkController(app=app, concurrency=concurrency, pool=pool, loglevel=loglevel, logfile=logfile, quiet=True, **options)
    try:
        worker.begin()
        # Tests wait for results in this process, although a worker lives in it.
        _state._set_task_join_will_block(False)
        if perform_ping_check:
            with allow_join_result():
                answer = ping.delay().get(timeout=ping_task_timeout)
            assert answer == "pong", answer
        yield worker
    finally:
        try:
            worker.end(shutdown_timeout)
        finally:
            worker_state.should_terminate = None
            test_worker_stopped.send(sender=app, worker=worker)


def setup_app_for_worker(app: Any, loglevel: str | int, logfile: Any) -> None:
    """Make the app ready to be a worker's: finalized, current, default, with logging set up anew."""
    app.finalize()
    app.set_current()
    app.set_default()
    type(app.log)._setup = False
    app.log.setup(loglevel=loglevel, logfile=logfile)

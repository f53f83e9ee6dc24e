"""The worker program: from a Celery app and a command line's options to a running node. Comes from: bin.worker, contrib.testing.
Goes to: jumpstarter.nodes."""

from __future__ import annotations

import logging
import os
import platform
import resource
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from compat_celery import __version__, signals
from compat_celery.app.publisher import broker_for
from compat_celery.apps.steps import Steps, steps_of
from compat_celery.bin.worker import POOL_NAMES, write_pidfile
from compat_celery.concurrency import BasePool, get_implementation
from compat_celery.utils.nodenames import default_nodename, host_format
from compat_celery.utils.sysinfo import cpu_budget, is_auto_concurrency
from compat_celery.utils.timer2 import Timer
from compat_celery.worker import beside
from compat_celery.worker.application import CeleryApplication, tasks_of
from compat_celery.worker.consumer import counts
from compat_celery.worker.heart import Heart
from compat_celery.worker.pidbox import listen
from compat_celery.worker.reports import Reports
from jumpstarter import __version__ as jumpstarter_version
from jumpstarter.errors import BrokerUnavailable, ConfigurationError
from jumpstarter.nodes import NodeSetup, run_node
from jumpstarter.telemetry.log import log_transitions
from jumpstarter.worker import WorkerOptions
from jumpstarter.worker.remote import Remote

__all__ = ("Worker", "queues_of")

logger = logging.getLogger("celery.worker")


def queues_of(app: Any, only: Iterable[str] | None = None, exclude: Iterable[str] | None = None) -> tuple[str, ...]:
    """The names of the queues that a worker of this app consumes from.

    :param only: these alone (``-Q``); a name that no setting declares is a queue of its own, as in Celery.
    :param exclude: but for these (``-X``).
    :raises ConfigurationError: nothing is left.
    """
    names = list(only) if only else list(app.amqp.queues.consume_from)
    left = tuple(name for name in dict.fromkeys(names) if name not in set(exclude or ()))
    if not left:
        raise ConfigurationError(f"no queue is left to consume from: -X excludes all of {', '.join(names)}")
    return beside.local_names(app, left)


def shortest_lease(app: Any) -> float | None:
    """The shortest lease that a task or a queue asks for, in seconds."""
    leases = [getattr(task, "lease", None) for task in app.tasks.values()]
    return min((lease for lease in [*leases, *(app.conf.get("worker_queue_leases") or {}).values()] if lease), default=None)


def rlimits(by_name: Mapping[str, int]) -> dict[int, int]:
    """The setting ``worker_rlimits``, ``{"RLIMIT_AS": bytes, …}``, by the numbers of :mod:`resource`.

    :raises ConfigurationError: there is no such limit.
    """
    numbers = {}
    for name, value in by_name.items():
        number = getattr(resource, name, None) if name.startswith("RLIMIT_") else None
        if number is None:
            raise ConfigurationError(f"worker_rlimits: there is no limit {name!r}; names are those of Python's resource module")
        numbers[number] = int(value)
    return numbers


def _bytes(kibibytes: int | None) -> int | None:
    """Celery's memory settings are in KiB."""
    return kibibytes * 1024 if kibibytes else None


class Worker:
    """A worker of a Celery app in this process. :meth:`start` returns when it has ended."""

    app: Any = None
    heart: Heart | None = None
    _steps: Steps | None = None

    @cached_property
    def timer(self) -> Timer:
        """Calls functions later, for boot steps: a thread, started at its first use."""
        return Timer()

    def __init__(
        self,
        app: Any = None,
        *,
        hostname: str | None = None,
        loglevel: str | int = "WARNING",
        logfile: str | None = None,
        concurrency: int | str | None = None,
        pool: str | None = None,
        queues: Sequence[str] | None = None,
        exclude_queues: Sequence[str] | None = None,
        purge: bool = False,
        pidfile: str | None = None,
        no_color: bool | None = None,
        quiet: bool = False,
        lease: float | None = None,
        threads: int | None = None,
        max_tasks_per_child: int | None = None,
        max_memory_per_child: int | None = None,
        time_limit: float | None = None,
        soft_time_limit: float | None = None,
        statefile: str | None = None,
        task_events: bool | None = None,
        without_heartbeat: bool = False,
        heartbeat_interval: float | None = None,
        before_init: Callable[[], object] = lambda: None,
        **_accepted: Any,
    ) -> None:
        """Options that are None come from the app's settings. Celery's others are accepted and without effect.

        :param concurrency: a number, or ``auto``: the processors that this process may use.
        :param before_init: called between the signals ``celeryd_init`` and ``worker_init``: modules are imported there.
        """
        app = self.app = app or self.app
        self.hostname = default_nodename(host_format(hostname) if hostname else None)
        self.loglevel = loglevel
        self.logfile = logfile
        self.no_color = no_color
        self.quiet = quiet
        self.purge = purge
        self.pidfile = pidfile
        self.statefile = statefile
        self._asked: dict[str, Any] = {
            "pool": pool,
            "concurrency": concurrency,
            "queues": queues,
            "exclude": exclude_queues,
            "lease": lease,
            "threads": threads,
            "max_tasks": max_tasks_per_child,
            "max_memory": max_memory_per_child,
            "heartbeat": False if without_heartbeat else heartbeat_interval,
        }
        if task_events is not None:
            app.conf.worker_send_task_events = task_events
        if time_limit is not None:
            app.conf.task_time_limit = time_limit
        if soft_time_limit is not None:
            app.conf.task_soft_time_limit = soft_time_limit
        signals.celeryd_init.send(sender=self.hostname, instance=self, conf=app.conf, options=dict(self._asked))
        before_init()
        signals.worker_init.send(sender=self)

    def start(self) -> int:
        """Run; answer the exit code.

        :raises JumpstarterError: it could not start; the message says why.
        """
        setup = self._set_up()
        if not (self.app.conf.broker_connection_retry_on_startup or self.app.conf.broker_connection_retry):
            self._look_for_broker(setup)
        if self.pidfile:
            write_pidfile(self.pidfile)
        try:
            return self._run(setup)
        finally:
            if self.pidfile:
                with suppress(OSError):
                    Path(self.pidfile).unlink()

    @property
    def reports(self) -> Reports:
        """What it tells monitors about tasks."""
        return self._application.reports

    def _live(self, remote: Remote) -> Callable[[], None]:
        self.reports.follow()  # of tasks whose process died, this one tells
        self.heart = Heart(self.reports.sender, remote, self._asked["heartbeat"], counts)
        self.heart.start()
        return self.heart.stop

    def _look_for_broker(self, setup: NodeSetup) -> None:
        """What Celery says when its settings forbid a second attempt; programs look for the sentence. Ours never tries again at the
        start: a worker that cannot reach its broker says so and ends."""
        try:
            setup.broker.ping()
        except BrokerUnavailable:
            logger.critical(
                "Retrying to establish a connection to the message broker after a connection loss has been disabled "
                "(app.conf.broker_connection_retry_on_startup=False). Shutting down..."
            )
            raise

    def _run(self, setup: NodeSetup) -> int:
        try:
            return run_node(setup)
        finally:
            if self._steps is not None:
                self._steps.stop()
            signals.worker_shutdown.send(sender=self)

    def _set_up(self) -> NodeSetup:
        app = self.app
        self._steps = steps_of(self)
        self._set_up_logging()
        signals.celeryd_after_setup.send(sender=self.hostname, instance=self, conf=app.conf)
        options = self.options()
        broker = broker_for(app)
        application = self._application = CeleryApplication(app, self.hostname)
        results = getattr(app.backend, "results", None)
        if self.purge:
            logger.warning("purge: %d message(s) dropped", sum(broker.purge(queue) for queue in options.queues))
        if not self.quiet:
            self._say_hello(options, broker.url)
        for warning in getattr(broker, "durability_warnings", list)():
            logger.warning("%s", warning)
        return NodeSetup(
            application=application,
            broker=broker,
            results=results,
            options=options,
            on_ready=self._ready,
            on_stopping=self._stopping,
            statefile=self.statefile,
            beside=beside.together(
                beside.ears(app, options.queues),
                self._live if self._asked["heartbeat"] is not False else None,
                partial(listen, self) if app.conf.worker_enable_remote_control else None,
            ),
        )

    def _set_up_logging(self) -> None:
        colorize = None if self.no_color is None else not self.no_color
        self.app.log.setup(self.loglevel, self.logfile, redirect_stdouts=False, colorize=colorize)
        log_transitions()

    def options(self) -> WorkerOptions:
        """The node's options: the command line's, then the settings'.

        :raises ConfigurationError: one of them cannot be used.
        """
        conf, asked = self.app.conf, self._asked
        pool = asked["pool"] or conf.worker_pool
        if pool not in POOL_NAMES:
            raise ConfigurationError(f"unknown pool {pool!r} (setting worker_pool): use prefork, threads, async or solo")
        if pool in {"gevent", "eventlet"}:
            logger.warning(
                "there are no greenlets here: -P %s runs its %s slots as threads", pool, asked["concurrency"] or "default"
            )
        return WorkerOptions(
            name=self.hostname,
            queues=queues_of(self.app, asked["queues"], asked["exclude"]),
            pool=POOL_NAMES[pool],
            concurrency=self._concurrency(asked["concurrency"] or conf.worker_concurrency, pool),
            threads=asked["threads"] or conf.get("worker_threads") or 0,
            coroutines=conf.get("worker_coroutines") or 100,
            lease=asked["lease"] or conf.get("worker_lease") or 30.0,
            shortest_lease=shortest_lease(self.app),
            strict_early_ack=bool(conf.get("worker_strict_early_ack")),
            max_attempts=conf.get("worker_max_attempts") or 3,
            max_tasks=asked["max_tasks"] or conf.worker_max_tasks_per_child,
            max_memory=_bytes(asked["max_memory"] or conf.worker_max_memory_per_child),
            kill_memory=_bytes(conf.get("worker_kill_memory_per_child")),
            rlimits=rlimits(conf.get("worker_rlimits") or {}),
            soft_shutdown=conf.worker_soft_shutdown_timeout or 0.0,
        )

    @property
    def pool_cls(self) -> type[BasePool]:
        """The pool, by Celery's classes."""
        return get_implementation(self._asked["pool"] or self.app.conf.worker_pool)

    def _concurrency(self, asked: int | str | None, pool: str) -> int:
        if not is_auto_concurrency(asked):
            return int(asked or os.cpu_count() or 1)
        budget = cpu_budget(POOL_NAMES[pool] == "prefork")
        quota = "no cgroup cpu quota found" if budget.quota is None else f"cgroup cpu quota={budget.quota:.2f}"
        logger.info(
            "worker_concurrency='auto' resolved to %d (pool=%s, %s, available cpus=%d).",
            budget.count,
            pool,
            quota,
            budget.available,
        )
        return budget.count

    def _ready(self) -> None:
        logger.info("%s ready.", self.hostname)
        signals.worker_ready.send(sender=self)
        if self._steps is not None:
            self._steps.start()

    def _stopping(self, number: int, how: str) -> None:
        signals.worker_shutting_down.send(sender=self.hostname, sig=number, how=how, exitcode=0)

    def _say_hello(self, options: WorkerOptions, url: str) -> None:
        lines = [
            f"{self.hostname}  jumpstarter {jumpstarter_version}, celery API {__version__}, Python {platform.python_version()}",
            f"  app          {self.app.main or '-'}",
            f"  broker       {url}",
            f"  results      {self.app.backend.as_uri()}",
            f"  concurrency  {options.concurrency} ({options.pool})",
            f"  queues       {', '.join(options.queues)}",
        ]
        names = list(tasks_of(self.app))
        if logging.getLogger("celery").isEnabledFor(logging.INFO):
            lines += ["  tasks        " + (names[0] if names else "none"), *(f"               {name}" for name in names[1:])]
        print("\n".join(lines), file=sys.stderr, flush=True)

"""``celery worker``: run a worker."""

from __future__ import annotations

import os
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import click

from compat_celery.bin.base import CLIContext, CommaSeparatedList, Failure, import_modules, pass_context
from compat_celery.exceptions import ImproperlyConfigured, SecurityError, SecurityWarning
from compat_celery.platforms import check_privileges
from compat_celery.utils.sysinfo import AUTO_CONCURRENCY, is_auto_concurrency
from jumpstarter.errors import JumpstarterError

__all__ = ("POOL_NAMES", "worker")

#: Celery's names of pools, and those of ours that run them.
POOL_NAMES = {
    "prefork": "prefork",
    "processes": "prefork",
    "threads": "threads",
    "thread": "threads",
    "eventlet": "threads",
    "gevent": "threads",
    "solo": "solo",
    "async": "async",
    "asyncio": "async",
}
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "FATAL")


class PoolName(click.ParamType[Any]):
    """A pool by any of its names."""

    name = "pool"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in POOL_NAMES:
            self.fail(f"unknown pool {value!r}: use prefork, threads, async or solo", param, ctx)
        return str(value)


class Concurrency(click.ParamType[Any]):
    """A number, or ``auto``."""

    name = "number|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if is_auto_concurrency(value):
            return AUTO_CONCURRENCY
        number = int(value) if str(value).isdigit() else 0
        if number < 1:
            self.fail(f"{value!r} is neither a number above 0 nor 'auto'", param, ctx)
        return number


@click.command(name="worker", context_settings={"allow_extra_args": False})
@click.option("-n", "--hostname", "--name", help="The node's name; %h, %n and %d are the host, its first part and its domain.")
@click.option("-l", "--loglevel", default="WARNING", type=click.Choice(LOG_LEVELS, case_sensitive=False), help="Logging level.")
@click.option("-f", "--logfile", help="Log to this file instead of stderr.")
@click.option(
    "-c",
    "--concurrency",
    type=Concurrency(),
    help="Jobs at a time, or auto: the processors it may use; as many as there are processors if not given.",
)
@click.option(
    "-P", "--pool", type=PoolName(), help="prefork (default), threads, async or solo; gevent and eventlet run on threads."
)
@click.option("-Q", "--queues", type=CommaSeparatedList(), help="Queues to consume from, separated by commas.")
@click.option("-X", "--exclude-queues", type=CommaSeparatedList(), help="Queues not to consume from.")
@click.option("-I", "--include", type=CommaSeparatedList(), help="More modules with tasks.")
@click.option("-O", "optimization", type=click.Choice(["default", "fair"]), help="Accepted: claims always follow the free slots.")
@click.option("-E", "--task-events", "--events", "task_events", is_flag=True, default=None, help="Tell monitors about tasks.")
@click.option("--purge", is_flag=True, help="Drop all that waits in the queues first.")
@click.option("--pidfile", help="Write the process's id to this file.")
@click.option("--statefile", help="Keep this file up to date for `jumpstarter probe`.")
@click.option("--prefetch-multiplier", type=int, help="Accepted: claims always follow the free slots.")
@click.option("--threads", type=click.IntRange(min=0), help='Slots in threads of each child, for tasks with executor="thread".')
@click.option("--max-tasks-per-child", type=click.IntRange(min=1), help="Replace a child after so many tasks.")
@click.option("--max-memory-per-child", type=click.IntRange(min=1), help="Replace a child that uses so many KiB; kill it at twice.")
@click.option("--time-limit", type=float, help="Seconds after which a task is ended.")
@click.option("--soft-time-limit", type=float, help="Seconds after which SoftTimeLimitExceeded is raised in a task.")
@click.option("--without-gossip", is_flag=True, help="Accepted: there is no gossip.")
@click.option("--without-mingle", is_flag=True, help="Accepted: there is no mingle.")
@click.option("--without-heartbeat", is_flag=True, help="Do not tell monitors that the worker is there.")
@click.option("--heartbeat-interval", type=click.FloatRange(min=0.1), help="Seconds between two such events (2).")
@click.option("--lease", type=click.FloatRange(min=1), help="Seconds after which what a silent worker held is given to others.")
@pass_context
def worker(
    context: CLIContext,
    /,
    hostname: str | None,
    loglevel: str,
    logfile: str | None,
    concurrency: int | str | None,
    pool: str | None,
    queues: list[str] | None,
    exclude_queues: list[str] | None,
    include: list[str] | None,
    purge: bool,
    pidfile: str | None,
    statefile: str | None,
    lease: float | None,
    threads: int | None,
    max_tasks_per_child: int | None,
    max_memory_per_child: int | None,
    time_limit: float | None,
    soft_time_limit: float | None,
    task_events: bool | None,
    without_heartbeat: bool,
    heartbeat_interval: float | None,
    **_accepted: Any,
) -> int:
    """Run a worker. SIGTERM or SIGINT end it when what runs is done; a second one, or SIGQUIT, at once."""
    from compat_celery.apps.worker import Worker  # noqa: PLC0415 - the alias comes first

    app = context.app()
    if include:
        app.conf.include = [*app.conf.include, *include]
    try:
        node = Worker(
            app,
            hostname=hostname,
            loglevel=loglevel.upper(),
            logfile=logfile,
            concurrency=concurrency,
            pool=pool,
            queues=queues,
            exclude_queues=exclude_queues,
            purge=purge,
            pidfile=pidfile,
            statefile=statefile,
            no_color=context.no_color,
            quiet=context.quiet,
            lease=lease,
            threads=threads,
            max_tasks_per_child=max_tasks_per_child,
            max_memory_per_child=max_memory_per_child,
            time_limit=time_limit,
            soft_time_limit=soft_time_limit,
            task_events=task_events,
            without_heartbeat=without_heartbeat,
            heartbeat_interval=heartbeat_interval,
            before_init=partial(import_modules, app),
        )
        _refuse_pickle_as_root(node.app.conf.accept_content)
        return node.start()
    except (JumpstarterError, ImproperlyConfigured, SecurityError) as error:
        raise Failure(str(error)) from error


def _refuse_pickle_as_root(accepted: Any) -> None:
    """As Celery's worker does. Without its warning about root alone: that is how containers are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)
        check_privileges(accepted)


def write_pidfile(path: str) -> None:
    """Write this process's id.

    :raises Failure: another process that still runs wrote it.
    """
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        _check_stale(path)
        Path(path).unlink()
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{os.getpid()}\n")


def _check_stale(path: str) -> None:
    try:
        os.kill(int(Path(path).read_text().strip()), 0)
    except (ValueError, ProcessLookupError):
        return
    except PermissionError:
        pass
    raise Failure(f"the pidfile {path} names a process that runs: another worker uses it. Choose another --pidfile.")

"""Periodic calls, by Celery's classes: what schedulers of others (django-celery-beat, RedBeat) are subclasses of.

================== ===================================================================================================
ScheduleEntry      one call of a schedule: what, when, when last
Scheduler          keeps entries in a heap by the time of their next run, and sends what is due, one a ``tick()``
PersistentScheduler the same, with the entries in a file (:mod:`shelve`) between two lives
Service            ticks until it is stopped
================== ===================================================================================================

Agents replace ``Scheduler.apply_entry`` and ``Scheduler.tick``: both are looked up at every call.
"""

from __future__ import annotations

import copy
import heapq
import logging
import threading
import time
from calendar import timegm
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, total_ordering
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from kombu.utils.functional import reprcall

from compat_celery import signals
from compat_celery._names import celery_named
from compat_celery.schedules import crontab, maybe_schedule
from compat_celery.utils.functional import evaluated
from compat_celery.utils.imports import load_extension_class_names, symbol_by_name
from compat_celery.utils.time import humanize_seconds, maybe_make_aware

if TYPE_CHECKING:
    from compat_celery._beat_file import PersistentScheduler

__all__ = (
    "DEFAULT_MAX_INTERVAL",
    "BeatLazyFunc",
    "EmbeddedService",
    "PersistentScheduler",
    "ScheduleEntry",
    "Scheduler",
    "SchedulingError",
    "Service",
)

#: Seconds that a scheduler sleeps at most.
DEFAULT_MAX_INTERVAL = 300

#: Of entries that are due at the same time; all of Celery's have this one.
_PRIORITY = 5

logger = logging.getLogger("celery.beat")


@celery_named
class SchedulingError(Exception):
    """A call that was due could not be sent."""


class event_t(NamedTuple):  # noqa: N801 - Celery's name
    """A place in the heap."""

    time: float
    priority: int
    entry: Any


@celery_named
class BeatLazyFunc:
    """An argument of an entry that is made when the call is sent: ``BeatLazyFunc(func, *args, **kwargs)``."""

    def __init__(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._func = func
        self._func_params: dict[str, Any] = {"args": args, "kwargs": kwargs}

    def delay(self) -> Any:
        """Make it."""
        return self._func(*self._func_params["args"], **self._func_params["kwargs"])

    __call__ = delay


@total_ordering
@celery_named
class ScheduleEntry:
    """One call of a schedule.

    :param name: of the entry.
    :param task: the task's name.
    :param last_run_at: when it was sent last (default: now).
    :param total_run_count: how often.
    :param schedule: a schedule, seconds, or a timedelta.
    :param options: of ``apply_async``.
    :param relative: runs are at the beginning of the minute, hour or day.
    """

    name: Any = None
    schedule: Any = None
    args: Any = None
    kwargs: Any = None
    options: Any = None
    last_run_at: Any = None
    total_run_count: Any = 0

    #: What somebody may change in a configuration.
    _editable = ("task", "schedule", "args", "kwargs", "options")

    def __init__(
        self,
        name: str | None = None,
        task: str | None = None,
        last_run_at: Any = None,
        total_run_count: int | None = None,
        schedule: Any = None,
        args: Any = (),
        kwargs: Any = None,
        options: Any = None,
        relative: bool = False,
        app: Any = None,
    ) -> None:
        self.app = app
        self.name = name
        self.task = task
        self.args = args
        self.kwargs = kwargs or {}
        self.options = options or {}
        self.schedule = maybe_schedule(schedule, relative, app=app)
        self.last_run_at = last_run_at or self.default_now()
        self.total_run_count = total_run_count or 0

    def default_now(self) -> Any:
        """The time, as the schedule sees it."""
        return self.schedule.now() if self.schedule else self.app.now()

    _default_now = default_now

    def is_due(self) -> tuple[bool, float]:
        """Whether to send it now, and in how many seconds to ask again."""
        due: tuple[bool, float] = self.schedule.is_due(self.last_run_at)
        return due

    def _next_instance(self, last_run_at: Any = None) -> ScheduleEntry:
        """The entry as it is after one more run."""
        changed = {"last_run_at": last_run_at or self.default_now(), "total_run_count": self.total_run_count + 1}
        return type(self)(**{**dict(self), **changed})

    __next__ = next = _next_instance

    def update(self, other: Any) -> None:
        """Take over what somebody may have changed; the runs stay as they are."""
        vars(self).update({name: getattr(other, name) for name in self._editable})

    def editable_fields_equal(self, other: Any) -> bool:
        """Whether nobody has changed anything."""
        return all(getattr(self, name) == getattr(other, name) for name in self._editable)

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return iter(vars(self).items())

    def __eq__(self, other: object) -> bool:
        return self.editable_fields_equal(other)

    __hash__ = None  # type: ignore[assignment] # its fields may be changed

    def __lt__(self, other: object) -> bool:
        # Of two in one place of the heap any may be the first.
        return id(self) < id(other) if isinstance(other, ScheduleEntry) else NotImplemented

    def __reduce__(self) -> Any:
        fields = (self.name, self.task, self.last_run_at, self.total_run_count, self.schedule, self.args, self.kwargs, self.options)
        return type(self), fields

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.name} {reprcall(self.task, self.args or (), self.kwargs or {})} {self.schedule}"


def _now_made(value: Any) -> Any:
    return value() if isinstance(value, BeatLazyFunc) else value


@celery_named
class Scheduler:
    """Sends calls when they are due.

    :param schedule: entries by their names; changed in place.
    :param max_interval: seconds that it sleeps at most (default: the setting ``beat_max_loop_interval``).
    :param Producer: makes producers of a connection; ours if None.
    :param lazy: do not set up the schedule, for those who only look.
    :param sync_every_tasks: how many calls are sent before the state is written (default: the setting ``beat_sync_every``).
    """

    Entry: Any = ScheduleEntry

    max_interval: float = DEFAULT_MAX_INTERVAL
    #: Seconds between two times that the state is written.
    sync_every: float = 180
    sync_every_tasks: int | None = None

    _last_sync: float | None = None
    _tasks_since_sync = 0

    logger: ClassVar[Any] = logger

    def __init__(
        self,
        app: Any,
        schedule: Any = None,
        max_interval: float | None = None,
        Producer: Any = None,  # noqa: N803 - Celery's name
        lazy: bool = False,
        sync_every_tasks: int | None = None,
        **kwargs: Any,  # noqa: ARG002 - options of subclasses
    ) -> None:
        self.app = app
        self.data: Any = evaluated({} if schedule is None else schedule)
        self.max_interval = max_interval or app.conf.beat_max_loop_interval or self.max_interval
        self.Producer = Producer
        self._heap: list[event_t] | None = None
        self.old_schedulers: Any = None
        self.sync_every_tasks = app.conf.beat_sync_every if sync_every_tasks is None else sync_every_tasks
        if not lazy:
            self.setup_schedule()

    # The schedule.

    def setup_schedule(self) -> None:
        """Take the entries from where they are."""
        self.install_default_entries(self.data)
        self.merge_inplace(self.app.conf.beat_schedule)

    def install_default_entries(self, data: Any) -> None:
        """Add ``celery.backend_cleanup`` every night, for stores of results that do not forget by themselves."""
        needed = self.app.conf.result_expires and not self.app.backend.supports_autoexpire
        if needed and "celery.backend_cleanup" not in data:
            nightly = {"task": "celery.backend_cleanup", "schedule": crontab("0", "4", "*"), "options": {"expires": 12 * 3600}}
            self.update_from_dict({"celery.backend_cleanup": nightly})

    def get_schedule(self) -> Any:
        """The entries by their names."""
        return self.data

    def set_schedule(self, schedule: Any) -> None:
        """Put others in their place."""
        self.data = schedule

    @property
    def schedule(self) -> Any:
        """The entries by their names."""
        return self.get_schedule()

    @schedule.setter
    def schedule(self, schedule: Any) -> None:
        self.set_schedule(schedule)

    def add(self, **kwargs: Any) -> Any:
        """Add an entry, made of these."""
        entry = self.Entry(app=self.app, **kwargs)
        self.schedule[entry.name] = entry
        return entry

    def _maybe_entry(self, name: str, entry: Any) -> Any:
        if isinstance(entry, self.Entry):
            entry.app = self.app
            return entry
        return self.Entry(**{**entry, "name": name, "app": self.app})

    def update_from_dict(self, dict_: Mapping[str, Any]) -> None:
        """Add several entries."""
        self.schedule.update({name: self._maybe_entry(name, entry) for name, entry in dict_.items()})

    def merge_inplace(self, b: Mapping[str, Any]) -> None:
        """Make the schedule what ``b`` says; entries that stay keep their runs."""
        schedule = self.schedule
        for name in set(schedule) - set(b):
            schedule.pop(name, None)
        for name, fields in b.items():
            entry = self.Entry(**{**dict(fields), "name": name, "app": self.app})
            if schedule.get(name):
                schedule[name].update(entry)
            else:
                schedule[name] = entry

    def schedules_equal(self, old_schedules: Any, new_schedules: Any) -> bool:
        """Whether both have the same entries, runs apart."""
        if old_schedules is None or new_schedules is None:
            return old_schedules is new_schedules
        if set(old_schedules.keys()) != set(new_schedules.keys()):
            return False
        return all(new_schedules.get(name) and new_schedules.get(name) == entry for name, entry in old_schedules.items())

    # Time.

    def adjust(self, n: Any, drift: float = -0.010) -> Any:
        """Seconds to wait, a little less: waking up takes time, too."""
        return n + drift if n and n > 0 else n

    def is_due(self, entry: Any) -> tuple[bool, float]:
        """Whether to send the entry now, and in how many seconds to ask again."""
        due: tuple[bool, float] = entry.is_due()
        return due

    def _due(self, ask: Callable[[], tuple[bool, float]], entry: Any) -> tuple[bool, float]:
        try:
            return ask()
        except Exception:
            # One entry that nobody can calculate must not stop the others.
            pause = humanize_seconds(self.max_interval)
            logger.exception("beat: Cannot calculate the next run of %r, trying again in %s.", entry.name, pause)
            return False, self.max_interval

    def _when(self, entry: Any, next_time_to_run: Any, mktime: Callable[[Any], float] = timegm) -> float:
        """Seconds since the epoch at which it is so many seconds later than now."""
        now = maybe_make_aware(entry.default_now())
        return mktime(now.utctimetuple()) + now.microsecond / 1e6 + (self.adjust(next_time_to_run) or 0)

    def populate_heap(self) -> None:
        """Order all entries by their next runs."""
        heap = []
        for entry in self.schedule.values():
            is_due, wait = self._due(entry.is_due, entry)
            heap.append(event_t(self._when(entry, 0 if is_due else wait) or 0, _PRIORITY, entry))
        heapq.heapify(heap)
        self._heap = heap

    def tick(self) -> float:
        """Send the first entry if it is due; answers in how many seconds to call again."""
        if self._heap is None or not self.schedules_equal(self.old_schedulers, self.schedule):
            self.old_schedulers = copy.copy(self.schedule)
            self.populate_heap()
        heap = self._heap
        if not heap:
            return self.max_interval
        event = heap[0]
        entry = event.entry
        wait = event.time - self._when(entry, 0)
        if wait > 0:
            return min(wait, self.max_interval)
        is_due, again = self._due(lambda: self.is_due(entry), entry)
        if heapq.heappop(heap) is not event:  # somebody has changed the heap meanwhile
            heapq.heappush(heap, event)
            return 0
        if is_due:
            following = self.reserve(entry)
            self.apply_entry(entry, producer=self.producer)
            heapq.heappush(heap, event_t(self._when(following, again), event.priority, following))
            return 0
        pause = again if isinstance(again, int | float) else self.max_interval
        heapq.heappush(heap, event_t(self._when(entry, pause), event.priority, entry))
        # Whoever is the first now may be due.
        return 0 if heap[0].entry is not entry else min(self.adjust(pause), self.max_interval)

    # Sending.

    def reserve(self, entry: Any) -> Any:
        """Note one more run of the entry, before it is sent: what cannot be sent must not come again at once, for ever."""
        following = self.schedule[entry.name] = next(entry)
        return following

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        """Send an entry's call; what goes wrong is logged."""
        logger.info("Scheduler: Sending due task %s (%s)", entry.name, entry.task)
        try:
            result = self.apply_async(entry, producer=producer, advance=False)
        except Exception as error:
            logger.exception("Message Error: %s", error)
        else:
            logger.debug("%s sent. id->%s", entry.task, getattr(result, "id", None))

    def apply_async(self, entry: Any, producer: Any = None, advance: bool = True, **kwargs: Any) -> Any:  # noqa: ARG002 - Celery's
        """Send an entry's call.

        :param advance: note one more run of it before.
        :raises SchedulingError: it cannot be sent.
        """
        entry = self.reserve(entry) if advance else entry
        task = self.app.tasks.get(entry.task)
        try:
            args = [_now_made(value) for value in entry.args or ()]
            keywords = {name: _now_made(value) for name, value in (entry.kwargs or {}).items()}
            headers = {**(entry.options.get("headers") or {}), "celery_beat_task": True}
            options = {**entry.options, "headers": headers}
            if task:
                return task.apply_async(args, keywords, producer=producer, **options)
            return self.send_task(entry.task, args, keywords, producer=producer, **options)
        except Exception as error:
            raise SchedulingError(f"Couldn't apply scheduled task {entry.name}: {error}") from error
        finally:
            self._tasks_since_sync += 1
            if self.should_sync():
                self._do_sync()

    def send_task(self, *args: Any, **kwargs: Any) -> Any:
        """Send a call of a task that this program does not have."""
        return self.app.send_task(*args, **kwargs)

    @cached_property
    def connection(self) -> Any:
        """A connection to the broker, for schedulers that want one."""
        return self.app.connection_for_write()

    @cached_property
    def producer(self) -> Any:
        """What sends the calls."""
        if self.Producer is None:
            return self.app.producer_pool.acquire()
        return self.Producer(self._ensure_connected(), auto_declare=False)

    def _ensure_connected(self) -> Any:
        def tell(error: Exception, interval: float) -> None:
            logger.error("beat: Connection error: %s. Trying again in %s seconds...", error, interval)

        return self.connection.ensure_connection(tell, self.app.conf.broker_connection_max_retries)

    # State.

    def should_sync(self) -> bool:
        """Whether it is time to write the state."""
        is_late = not self._last_sync or time.monotonic() - self._last_sync > self.sync_every
        return bool(is_late or (self.sync_every_tasks and self._tasks_since_sync >= self.sync_every_tasks))

    def _do_sync(self) -> None:
        try:
            logger.debug("beat: Synchronizing schedule...")
            self.sync()
        finally:
            self._last_sync = time.monotonic()
            self._tasks_since_sync = 0

    def sync(self) -> None:
        """Write the state. For subclasses."""

    def close(self) -> None:
        """Write the state, and let go of the connection."""
        try:
            self.sync()
        finally:
            vars(self).pop("producer", None)
            connection = vars(self).pop("connection", None)
            if connection is not None:
                connection.release()

    @property
    def info(self) -> str:
        """A line for people."""
        return ""


@celery_named
class Service:
    """Ticks a scheduler until it is stopped.

    :param scheduler_cls: a class, its name, or that of an entry point ``celery.beat_schedulers``.
    """

    scheduler_cls: Any = "celery.beat:PersistentScheduler"

    def __init__(
        self,
        app: Any,
        max_interval: float | None = None,
        schedule_filename: str | None = None,
        scheduler_cls: Any = None,
        remote_control: bool | None = None,
        hostname: str | None = None,
    ) -> None:
        self.app = app
        self.max_interval = max_interval or app.conf.beat_max_loop_interval
        self.scheduler_cls = scheduler_cls or self.scheduler_cls
        self.schedule_filename = schedule_filename or app.conf.beat_schedule_filename
        self.remote_control = remote_control
        self.hostname = hostname
        self._is_shutdown = threading.Event()
        self._is_stopped = threading.Event()

    def __reduce__(self) -> Any:
        fields = (self.app, self.max_interval, self.schedule_filename, self.scheduler_cls, self.remote_control, self.hostname)
        return type(self), fields

    @cached_property
    def scheduler(self) -> Any:
        """The scheduler, made at its first use."""
        return self.get_scheduler()

    def get_scheduler(self, lazy: bool = False, extension_namespace: str = "celery.beat_schedulers") -> Any:
        """Make the scheduler."""
        cls = symbol_by_name(self.scheduler_cls, aliases=dict(load_extension_class_names(extension_namespace)))
        return cls(app=self.app, schedule_filename=self.schedule_filename, max_interval=self.max_interval, lazy=lazy)

    def start(self, embedded_process: bool = False) -> None:
        """Tick until :meth:`stop`, or a signal."""
        logger.info("beat: Starting...")
        logger.debug("beat: Ticking with max interval->%s", humanize_seconds(self.scheduler.max_interval))
        signals.beat_init.send(sender=self)
        if embedded_process:
            signals.beat_embedded_init.send(sender=self)
        try:
            while not self._is_shutdown.is_set():
                interval = self.scheduler.tick()
                if interval and interval > 0:
                    logger.debug("beat: Waking up %s.", humanize_seconds(interval, prefix="in "))
                    self._is_shutdown.wait(interval)
                    if self.scheduler.should_sync():
                        self.scheduler._do_sync()
        except (KeyboardInterrupt, SystemExit):
            self._is_shutdown.set()
        finally:
            self.sync()

    def sync(self) -> None:
        """Let the scheduler write its state and let go of what it has."""
        self.scheduler.close()
        self._is_stopped.set()

    def stop(self, wait: bool = False) -> None:
        """End it.

        :param wait: return when it has ended.
        """
        logger.info("beat: Shutting down...")
        self._is_shutdown.set()
        if wait:
            self._is_stopped.wait()


class _Threaded(threading.Thread):
    """A service in a thread."""

    def __init__(self, app: Any, **kwargs: Any) -> None:
        super().__init__(name="Beat", daemon=True)
        self.app = app
        self.service = Service(app, **kwargs)

    def run(self) -> None:
        """Tick."""
        self.app.set_current()
        self.service.start()

    def stop(self) -> None:
        """End it, and wait until it has ended."""
        self.service.stop(wait=True)


def EmbeddedService(app: Any, max_interval: float | None = None, **kwargs: Any) -> Any:  # noqa: N802 - Celery's public name
    """A service beside something else, in a thread: ``start()`` and ``stop()`` it."""
    kwargs.pop("thread", None)  # Celery's choice between a thread and a process
    return _Threaded(app, max_interval=max_interval or 1, **kwargs)


def __getattr__(name: str) -> Any:
    if name != "PersistentScheduler":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from compat_celery._beat_file import PersistentScheduler  # noqa: PLC0415 - it is a subclass of this module's

    return PersistentScheduler

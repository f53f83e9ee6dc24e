"""What a cluster's events say about it: its workers and tasks, in memory. Used by: monitors such as Flower, cameras.

:class:`State` takes events one by one, in any order. Tasks and workers are forgotten when there are too many of them, the ones
that nothing was heard of for longest first. Within a task, what must have happened before counts as before, whatever came first.
"""

from __future__ import annotations

import bisect
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import cached_property
from itertools import islice
from time import time
from typing import Any, ClassVar
from weakref import WeakSet, ref

from kombu.clocks import timetuple

from compat_celery import states
from compat_celery._names import celery_named
from compat_celery.utils.functional import LRUCache, memoize
from compat_celery.utils.log import get_logger

__all__ = ("State", "Task", "Worker", "heartbeat_expires")

#: A worker is taken for dead when this many per cent of the time between its heartbeats have passed.
HEARTBEAT_EXPIRE_WINDOW = 200

#: Seconds by which a worker's clock may differ from ours before we warn.
HEARTBEAT_DRIFT_MAX = 16

DRIFT_WARNING = "Substantial drift from %s may mean clocks are out of sync. Current drift is %s seconds. [orig: %s recv: %s]"

logger = get_logger("celery.events.state")
warn = logger.warning

#: What an event says of its task's state. Others are states by their own names, in capitals.
TASK_EVENT_TO_STATE = {
    "sent": states.PENDING,
    "received": states.RECEIVED,
    "started": states.STARTED,
    "failed": states.FAILURE,
    "retried": states.RETRY,
    "succeeded": states.SUCCESS,
    "revoked": states.REVOKED,
    "rejected": states.REJECTED,
}


@memoize(maxsize=1000, keyfun=lambda hostname, *_: hostname)  # type: ignore[untyped-decorator] # kombu's: once per worker
def _warn_drift(hostname: str, drift: float, local_received: float, timestamp: float) -> None:
    warn(DRIFT_WARNING, hostname, drift, datetime.fromtimestamp(local_received, UTC), datetime.fromtimestamp(timestamp, UTC))


def heartbeat_expires(timestamp: Any, freq: Any = 60, expire_window: float = HEARTBEAT_EXPIRE_WINDOW) -> float:
    """Until when (seconds since the epoch) a worker lives that was heard at ``timestamp`` and says something every ``freq`` s."""
    # Some JSON decoders give decimals, which do not add to floats.
    return float(timestamp) + float(freq) * expire_window / 100


@celery_named
class Worker:
    """A worker, as its events describe it."""

    heartbeat_max = 4
    expire_window = HEARTBEAT_EXPIRE_WINDOW

    _fields = (
        "hostname",
        "pid",
        "freq",
        "heartbeats",
        "clock",
        "active",
        "processed",
        "loadavg",
        "sw_ident",
        "sw_ver",
        "sw_sys",
    )

    def __init__(
        self,
        hostname: str | None = None,
        pid: int | None = None,
        freq: float = 60,
        heartbeats: list[float] | None = None,
        clock: int | None = 0,
        active: int | None = None,
        processed: int | None = None,
        loadavg: Any = None,
        sw_ident: str | None = None,
        sw_ver: str | None = None,
        sw_sys: str | None = None,
    ) -> None:
        self.hostname = hostname
        self.pid = pid
        self.freq = freq
        #: When it was heard, by our clock, the last times; the newest last.
        self.heartbeats = [] if heartbeats is None else heartbeats
        self.clock = clock or 0
        self.active = active
        self.processed = processed
        self.loadavg = loadavg
        self.sw_ident = sw_ident
        self.sw_ver = sw_ver
        self.sw_sys = sw_sys

    def event(
        self,
        type_: str | None,
        timestamp: Any = None,
        local_received: Any = None,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        """Take an event of this worker's.

        :param timestamp: when it was sent, by the worker's clock.
        :param local_received: when it came, by ours.
        """
        for name, value in (fields or {}).items():
            setattr(self, name, value)
        if type_ == "offline":
            self.heartbeats.clear()
            return
        if not local_received or not timestamp:
            return
        drift = abs(int(local_received) - int(timestamp))
        if drift > HEARTBEAT_DRIFT_MAX:
            _warn_drift(self.hostname, drift, local_received, timestamp)
        del self.heartbeats[: -(self.heartbeat_max - 1)]
        bisect.insort(self.heartbeats, local_received)

    def update(self, f: Mapping[str, Any], **kw: Any) -> None:
        """Set these attributes."""
        for name, value in {**f, **kw}.items():
            setattr(self, name, value)

    @property
    def heartbeat_expires(self) -> float:
        """Until when it lives unless it is heard again, seconds since the epoch."""
        return heartbeat_expires(self.heartbeats[-1], self.freq, self.expire_window)

    @property
    def alive(self) -> bool:
        """Whether it was heard lately."""
        return bool(self.heartbeats) and time() < self.heartbeat_expires

    @property
    def status_string(self) -> str:
        """``ONLINE`` or ``OFFLINE``."""
        return "ONLINE" if self.alive else "OFFLINE"

    @property
    def id(self) -> str:
        """Its name and its process."""
        return f"{self.hostname}.{self.pid}"

    def __eq__(self, other: object) -> bool:
        return self.hostname == other.hostname if isinstance(other, Worker) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.hostname)

    def __reduce__(self) -> Any:
        return type(self), tuple(getattr(self, name) for name in self._fields)

    def __repr__(self) -> str:
        return f"<Worker: {self.hostname} ({self.status_string} clock:{self.clock})>"


def _depickle_task(cls: type[Task], fields: dict[str, Any]) -> Task:
    return cls(**fields)


_depickle_task.__module__ = "celery.events.state"  # tasks are pickled as calls of it


@celery_named
class Task:
    """A task, as its events describe it. The time of each event is in the attribute of its name (``succeeded``)."""

    name: Any = None
    received: Any = None
    sent: Any = None
    started: Any = None
    succeeded: Any = None
    failed: Any = None
    retried: Any = None
    revoked: Any = None
    rejected: Any = None
    args: Any = None
    kwargs: Any = None
    eta: Any = None
    expires: Any = None
    retries: Any = None
    worker: Any = None
    result: Any = None
    exception: Any = None
    timestamp: Any = None
    runtime: Any = None
    traceback: Any = None
    exchange: Any = None
    routing_key: Any = None
    root_id: Any = None
    parent_id: Any = None
    client: Any = None
    state: str = states.PENDING
    clock: int = 0

    _fields = (
        "uuid",
        "name",
        "state",
        "received",
        "sent",
        "started",
        "rejected",
        "succeeded",
        "failed",
        "retried",
        "revoked",
        "args",
        "kwargs",
        "eta",
        "expires",
        "retries",
        "worker",
        "result",
        "exception",
        "timestamp",
        "runtime",
        "traceback",
        "exchange",
        "routing_key",
        "clock",
        "client",
        "root",
        "root_id",
        "parent",
        "parent_id",
        "children",
    )

    #: What an event tells that comes after a later one: of ``task-received`` only these fields count then.
    merge_rules: ClassVar[dict[str, tuple[str, ...]]] = {
        states.RECEIVED: ("name", "args", "kwargs", "parent_id", "root_id", "retries", "eta", "expires"),
    }

    #: What :meth:`info` gives.
    _info_fields = (
        "args",
        "kwargs",
        "retries",
        "result",
        "eta",
        "runtime",
        "expires",
        "exception",
        "exchange",
        "routing_key",
        "root_id",
        "parent_id",
    )

    def __init__(
        self, uuid: str | None = None, cluster_state: State | None = None, children: Iterable[str] | None = None, **kwargs: Any
    ) -> None:
        self.uuid = uuid
        self.cluster_state = cluster_state
        known = cluster_state.tasks if cluster_state is not None else {}
        self.children: WeakSet[Task] = WeakSet(known[child] for child in children or () if child in known)
        self.__dict__.update(kwargs)

    def event(
        self,
        type_: str,
        timestamp: Any = None,
        local_received: Any = None,  # noqa: ARG002 - Celery's signature
        fields: dict[str, Any] | None = None,
    ) -> None:
        """Take an event of this task's, sent at ``timestamp``."""
        fields = fields or {}
        state = TASK_EVENT_TO_STATE.get(type_)
        if state is None:
            state = type_.upper()
        else:
            setattr(self, type_, timestamp)
        if self._is_past(state):
            keep = self.merge_rules.get(state)
            if keep is not None:
                fields = {name: value for name, value in fields.items() if name in keep}
        else:
            fields.update(state=state, timestamp=timestamp)
        self.__dict__.update(fields)

    def _is_past(self, state: str) -> bool:
        """Whether the state lies before the one that the task is in. A retry begins anew, so nothing is before or after it."""
        if states.RETRY in (state, self.state):
            return False
        return states.precedence(state) > states.precedence(self.state)

    def info(self, fields: Iterable[str] | None = None, extra: Iterable[str] | None = None) -> dict[str, Any]:
        """Those of the fields that are known, for people."""
        names = [*(self._info_fields if fields is None else fields), *(extra or ())]
        return {name: value for name in names if (value := getattr(self, name, None)) is not None}

    def as_dict(self) -> dict[str, Any]:
        """All fields; relatives by their ids."""
        values = {name: getattr(self, name) for name in self._fields if name not in {"children", "root", "parent"}}
        return {**values, "children": [child.id for child in self.children], "root": self.root_id, "parent": self.parent_id}

    def _relative(self, task_id: str | None) -> Task | None:
        if not task_id or self.cluster_state is None:
            return None
        found: Task | None = self.cluster_state.tasks.data.get(task_id)
        return found

    @cached_property
    def parent(self) -> Task | None:
        """The task that sent it, when that is known."""
        return self._relative(self.parent_id)

    @cached_property
    def root(self) -> Task | None:
        """The first task of its workflow, when that is known."""
        return self._relative(self.root_id)

    @property
    def id(self) -> str | None:
        """Its id."""
        return self.uuid

    @property
    def origin(self) -> Any:
        """The worker that it is on, or the client that sent it."""
        return self.client if self.worker is None else self.worker.id

    @property
    def ready(self) -> bool:
        """Whether it has ended."""
        return self.state in states.READY_STATES

    def __eq__(self, other: object) -> bool:
        return self.uuid == other.uuid if isinstance(other, Task) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.uuid)

    def __reduce__(self) -> Any:
        return _depickle_task, (type(self), self.as_dict())

    def __repr__(self) -> str:
        return f"<Task: {self.name}({self.uuid}) {self.state} clock:{self.clock}>"


@celery_named
class CallableDefaultdict(defaultdict[Any, Any]):
    """An index that can be called, too: ``state.tasks_by_type(name, reverse=False)`` gives its tasks in order."""

    def __init__(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self.fun = fun
        super().__init__(*args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.fun(*args, **kwargs)


@celery_named
class State:
    """What is known about a cluster.

    :param callback: called with the state and each event, before it is taken.
    :param on_node_join: called with each worker that comes.
    :param on_node_leave: called with each that goes.
    """

    Worker = Worker
    Task = Task
    event_count = 0
    task_count = 0
    #: How many events per task are remembered for its order.
    heap_multiplier = 4

    def __init__(
        self,
        callback: Callable[[State, dict[str, Any]], Any] | None = None,
        workers: Any = None,
        tasks: Any = None,
        taskheap: list[Any] | None = None,
        max_workers_in_memory: int = 5000,
        max_tasks_in_memory: int = 10000,
        on_node_join: Callable[[Any], Any] | None = None,
        on_node_leave: Callable[[Any], Any] | None = None,
        tasks_by_type: Mapping[str, Iterable[str]] | None = None,
        tasks_by_worker: Mapping[str, Iterable[str]] | None = None,
    ) -> None:
        self.event_callback = callback
        self.workers = LRUCache(max_workers_in_memory) if workers is None else workers
        self.tasks = LRUCache(max_tasks_in_memory) if tasks is None else tasks
        self._taskheap: list[Any] = [] if taskheap is None else taskheap
        self.max_workers_in_memory = max_workers_in_memory
        self.max_tasks_in_memory = max_tasks_in_memory
        self.on_node_join = on_node_join
        self.on_node_leave = on_node_leave
        self._mutex = threading.Lock()
        #: Takes events of other groups than worker and task: ``handlers[group](subject, event)``.
        self.handlers: dict[str, Callable[[str, dict[str, Any]], Any]] = {}
        self._seen_types: set[str] = set()
        #: Tasks whose parent was not heard of yet, by its id. Bounded: a parent may never come.
        self._tasks_to_resolve = LRUCache(max_tasks_in_memory)
        self.rebuild_taskheap()
        self.tasks_by_type = CallableDefaultdict(self._tasks_by_type, WeakSet, self._index(tasks_by_type))
        self.tasks_by_worker = CallableDefaultdict(self._tasks_by_worker, WeakSet, self._index(tasks_by_worker))

    def _index(self, ids: Mapping[str, Iterable[str]] | None) -> dict[str, WeakSet[Any]]:
        return {
            name: WeakSet(self.tasks[each] for each in members if each in self.tasks) for name, members in dict(ids or {}).items()
        }

    # Events.

    def event(self, event: dict[str, Any]) -> Any:
        """Take an event.

        :returns: ``((worker or task, whether it is new), subject)``; None when it says nothing that can be kept.
        """
        with self._mutex:
            return self._event(event)

    def _event(self, event: dict[str, Any]) -> Any:
        self.event_count += 1
        if self.event_callback:
            self.event_callback(self, event)
        group, _, subject = event["type"].partition("-")
        handler = self.handlers.get(group)
        if handler is not None:
            return handler(subject, event), subject
        if group == "worker":
            return self._worker_event(subject, event)
        return self._task_event(subject, event) if group == "task" else None

    def _worker_event(self, subject: str, event: dict[str, Any]) -> Any:
        try:
            hostname, timestamp, received = event["hostname"], event["timestamp"], event["local_received"]
        except KeyError:
            return None
        leaves = subject == "offline"
        # Through ``data``: being asked for here is no use, and must not keep it longer in memory.
        worker = self.workers.data.get(hostname)
        created = worker is None and not leaves
        if worker is None:
            worker = self.Worker(hostname)
            if not leaves:
                self.workers[hostname] = worker
        worker.event(subject, timestamp, received, event)
        if self.on_node_join and (created or subject == "online"):
            self.on_node_join(worker)
        if self.on_node_leave and leaves:
            self.on_node_leave(worker)
            self.workers.pop(hostname, None)
        return (worker, created), subject

    def _task_event(self, subject: str, event: dict[str, Any]) -> Any:
        hostname, timestamp, received = event["hostname"], event["timestamp"], event["local_received"]
        task = self.tasks.data.get(event["uuid"])
        created = task is None
        if task is None:
            task = self.tasks[event["uuid"]] = self.Task(event["uuid"], cluster_state=self)
        if subject == "sent":
            task.client = hostname
        else:
            task.worker = self._worker_of(hostname, timestamp, received)
        self._remember(task, event["clock"], timestamp, hostname if subject == "sent" else task.worker.id)
        if subject == "received":
            self.task_count += 1
        task.event(subject, timestamp, received, event)
        if task.name is not None:
            self._seen_types.add(task.name)
            if created:
                self.tasks_by_type[task.name].add(task)
                self.tasks_by_worker[hostname].add(task)
        self._relate(task)
        return (task, created), subject

    def _worker_of(self, hostname: str, timestamp: Any, received: Any) -> Any:
        worker = self.workers.data.get(hostname)
        if worker is None:
            worker = self.workers[hostname] = self.Worker(hostname)
        if received:
            worker.event(None, received, timestamp)
        return worker

    def _remember(self, task: Any, clock: Any, timestamp: Any, origin: Any) -> None:
        """Put the event into the order of all events."""
        heap = self._taskheap
        if len(heap) >= self.max_tasks_in_memory * self.heap_multiplier:
            del heap[0]
        position = timetuple(clock, timestamp, origin, ref(task))
        if heap and position > heap[-1]:  # nearly always
            heap.append(position)
        else:
            bisect.insort(heap, position)

    def _relate(self, task: Any) -> None:
        if task.parent_id:
            parent = self.tasks.get(task.parent_id)
            if parent is not None:
                parent.children.add(task)
            else:
                waiting = self._tasks_to_resolve.get(task.parent_id)
                if waiting is None:
                    waiting = self._tasks_to_resolve[task.parent_id] = WeakSet()
                waiting.add(task)
        task.children.update(self._tasks_to_resolve.pop(task.uuid, ()))

    def task_event(self, type_: str, fields: dict[str, Any]) -> Any:
        """As :meth:`event`, for an event of a task (``type_``: ``sent`` …)."""
        return self._event({**fields, "type": f"task-{type_}"})[0]

    def worker_event(self, type_: str, fields: dict[str, Any]) -> Any:
        """As :meth:`event`, for an event of a worker (``type_``: ``online`` …)."""
        return self._event({**fields, "type": f"worker-{type_}"})[0]

    # Looking.

    def get_or_create_worker(self, hostname: str, **kwargs: Any) -> tuple[Any, bool]:
        """The worker of that name, with these attributes; and whether it is new."""
        worker = self.workers.get(hostname)
        if worker is None:
            worker = self.workers[hostname] = self.Worker(hostname, **kwargs)
            return worker, True
        worker.update(kwargs)
        return worker, False

    def get_or_create_task(self, uuid: str) -> tuple[Any, bool]:
        """The task of that id, and whether it is new."""
        task = self.tasks.get(uuid)
        if task is not None:
            return task, False
        task = self.tasks[uuid] = self.Task(uuid, cluster_state=self)
        return task, True

    def itertasks(self, limit: int | None = None) -> Iterator[tuple[str, Any]]:
        """The tasks by their ids, ``limit`` of them at most."""
        return islice(self.tasks.items(), limit or None)

    def tasks_by_time(self, limit: int | None = None, reverse: bool = True) -> Iterator[tuple[str, Any]]:
        """The tasks by their ids, the newest first.

        :param limit: so many events are looked at.
        :param reverse: False: the oldest first.
        """
        seen = set()
        for event in islice(reversed(self._taskheap) if reverse else iter(self._taskheap), limit):
            task = event[3]()
            if task is not None and task.uuid not in seen:
                seen.add(task.uuid)
                yield task.uuid, task

    tasks_by_timestamp = tasks_by_time

    def _tasks_by_type(self, name: str, limit: int | None = None, reverse: bool = True) -> Iterator[tuple[str, Any]]:
        return islice((pair for pair in self.tasks_by_time(reverse=reverse) if pair[1].name == name), limit)

    def _tasks_by_worker(self, hostname: str, limit: int | None = None, reverse: bool = True) -> Iterator[tuple[str, Any]]:
        ours = (
            pair
            for pair in self.tasks_by_time(reverse=reverse)
            if pair[1].worker is not None and pair[1].worker.hostname == hostname
        )
        return islice(ours, limit)

    def task_types(self) -> list[str]:
        """The names of all tasks that were heard of."""
        return sorted(self._seen_types)

    def alive_workers(self) -> Iterator[Any]:
        """The workers that were heard lately."""
        return (worker for worker in self.workers.values() if worker.alive)

    # Forgetting.

    def freeze_while(self, fun: Callable[..., Any], *args: Any, clear_after: bool = False, **kwargs: Any) -> Any:
        """Call a function while no event is taken.

        :param clear_after: forget everything afterwards.
        """
        with self._mutex:
            try:
                return fun(*args, **kwargs)
            finally:
                if clear_after:
                    self._clear()

    def clear(self, ready: bool = True) -> None:
        """Forget everything.

        :param ready: but not the tasks that have not ended.
        """
        with self._mutex:
            self._clear(ready)

    def clear_tasks(self, ready: bool = True) -> None:
        """Forget the tasks.

        :param ready: only those that have ended.
        """
        with self._mutex:
            self._clear_tasks(ready)

    def _clear(self, ready: bool = True) -> None:
        self.workers.clear()
        self._clear_tasks(ready)
        self.event_count = 0
        self.task_count = 0

    def _clear_tasks(self, ready: bool = True) -> None:
        kept = {uuid: task for uuid, task in self.itertasks() if task.state not in states.READY_STATES} if ready else {}
        self.tasks.clear()
        self.tasks.update(kept)
        self._taskheap.clear()

    def rebuild_taskheap(self) -> None:
        """Make the order of tasks anew, from what is known of them."""
        self._taskheap[:] = sorted(timetuple(task.clock, task.timestamp, task.origin, ref(task)) for task in self.tasks.values())

    def __repr__(self) -> str:
        return f"<State: events={self.event_count} tasks={self.task_count}>"

    def __reduce__(self) -> Any:
        return type(self), (
            self.event_callback,
            self.workers,
            self.tasks,
            None,
            self.max_workers_in_memory,
            self.max_tasks_in_memory,
            self.on_node_join,
            self.on_node_leave,
            {name: [task.id for task in tasks] for name, tasks in self.tasks_by_type.items()},
            {name: [task.id for task in tasks] for name, tasks in self.tasks_by_worker.items()},
        )

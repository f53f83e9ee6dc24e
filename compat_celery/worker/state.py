"""What a worker process knows about its tasks, by Celery's names: for programs and extensions that look.

Jumpstarter's jobs live in its child processes, so the sets of requests here hold what somebody puts in through the functions
below. ``revoked`` and the two flags are looked at by the worker of this process.
"""

from __future__ import annotations

import os
import platform
import shelve
import weakref
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any, TypeVar

from kombu.serialization import pickle, pickle_protocol

from compat_celery import __version__
from compat_celery._names import celery_named
from compat_celery.exceptions import ImproperlyConfigured, WorkerShutdown, WorkerTerminate
from compat_celery.utils.collections import LimitedSet

__all__ = (
    "SOFTWARE_INFO",
    "Persistent",
    "active_requests",
    "maybe_shutdown",
    "merge_revoked",
    "requests",
    "reserved_requests",
    "revoked",
    "revoked_stamps",
    "scheduled_requests",
    "task_accepted",
    "task_ready",
    "task_reserved",
    "task_scheduled",
    "total_count",
)

N = TypeVar("N", int, float)


def _env(name: str, default: N, kind: Callable[[str], N]) -> N:
    value = os.environ.get(name)
    if value is None:
        return default
    try:
        return kind(value)
    except ValueError as error:
        raise ImproperlyConfigured(f"Invalid value for {name}: expected {kind.__name__}, got {value!r}") from error


def _int_env(name: str, default: int) -> int:
    return _env(name, default, int)


def _float_env(name: str, default: float) -> float:
    return _env(name, float(default), float)


#: What this software calls itself in events.
SOFTWARE_INFO = {"sw_ident": "py-celery", "sw_ver": __version__, "sw_sys": platform.system()}

#: How many revoked tasks are remembered, and for how many seconds.
REVOKES_MAX = _int_env("CELERY_WORKER_REVOKES_MAX", 50000)
REVOKE_EXPIRES = _float_env("CELERY_WORKER_REVOKE_EXPIRES", 10800)

#: The same for tasks that succeeded.
SUCCESSFUL_MAX = _int_env("CELERY_WORKER_SUCCESSFUL_MAX", 1000)
SUCCESSFUL_EXPIRES = _float_env("CELERY_WORKER_SUCCESSFUL_EXPIRES", 10800)

#: Requests by their ids, and those of them that are reserved, that run, that wait for their time.
requests: dict[str, Any] = {}
reserved_requests: weakref.WeakSet[Any] = weakref.WeakSet()
active_requests: weakref.WeakSet[Any] = weakref.WeakSet()
scheduled_requests: weakref.WeakSet[Any] = weakref.WeakSet()

#: Ids of tasks that succeeded lately.
successful_requests = LimitedSet(maxlen=SUCCESSFUL_MAX, expires=SUCCESSFUL_EXPIRES)

#: How many tasks were started, by their names, and in all.
total_count: Counter[str] = Counter()
all_total_count = [0]

#: Ids of revoked tasks.
revoked = LimitedSet(maxlen=REVOKES_MAX, expires=REVOKE_EXPIRES)

#: Values of stamps whose tasks are revoked.
revoked_stamps: dict[str, Any] = {}

#: An exit code, or True, when the worker shall end: when its tasks are done, or at once.
should_stop: Any = None
should_terminate: Any = None


def reset_state() -> None:
    """Forget everything."""
    for store in (requests, reserved_requests, active_requests, scheduled_requests, successful_requests):
        store.clear()
    total_count.clear()
    all_total_count[:] = [0]
    revoked.clear()
    revoked_stamps.clear()


def merge_revoked(task_ids: Iterable[str] | None) -> None:
    """Add ids that were revoked elsewhere, or before a restart, as if it had been now.

    The times that they come with are dropped: ours count from the boot of this machine, and another's say nothing here.
    """
    if task_ids:
        revoked.update(list(task_ids))


def maybe_shutdown() -> None:
    """End the worker when one of the flags is set.

    :raises WorkerTerminate: at once.
    :raises WorkerShutdown: when its tasks are done.
    """
    # 0 is an exit code.
    if should_terminate is not None and should_terminate is not False:
        raise WorkerTerminate(should_terminate)
    if should_stop is not None and should_stop is not False:
        raise WorkerShutdown(should_stop)


def task_reserved(request: Any) -> None:
    """A task waits for a slot."""
    requests[request.id] = request
    reserved_requests.add(request)
    scheduled_requests.discard(request)


def task_scheduled(request: Any) -> None:
    """A task waits for its time."""
    if request in reserved_requests or request in active_requests:
        return  # its time came while somebody was about to say this
    requests[request.id] = request
    scheduled_requests.add(request)


def task_accepted(request: Any, _all_total_count: list[int] | None = None) -> None:
    """A task runs."""
    requests[request.id] = request
    active_requests.add(request)
    total_count[request.name] += 1
    (_all_total_count or all_total_count)[0] += 1


def task_ready(request: Any, successful: bool = False) -> None:
    """A task has ended."""
    if successful:
        successful_requests.add(request.id)
    requests.pop(request.id, None)
    for among in (active_requests, reserved_requests, scheduled_requests):
        among.discard(request)


@celery_named
class Persistent:
    """Keeps the ids of revoked tasks and the logical clock in a file between two lives of a worker.

    :param state: a module like this one.
    :param filename: as :mod:`shelve` takes it.
    :param clock: a Lamport clock.
    """

    storage = shelve
    protocol = pickle_protocol
    compress = staticmethod(zlib.compress)
    decompress = staticmethod(zlib.decompress)
    _is_open = False

    def __init__(self, state: Any, filename: str, clock: Any = None) -> None:
        self.state = state
        self.filename = filename
        self.clock = clock
        self.merge()

    def open(self) -> Any:
        """Open the file."""
        return self.storage.open(self.filename, protocol=self.protocol, writeback=True)

    @cached_property
    def db(self) -> Any:
        """The file, opened at the first use."""
        self._is_open = True
        return self.open()

    def merge(self) -> None:
        """Take what the file has."""
        self._merge_with(self.db)

    def sync(self) -> None:
        """Write."""
        self._sync_with(self.db)
        self.db.sync()

    def close(self) -> None:
        """Close the file."""
        if self._is_open:
            self.db.close()
            self._is_open = False

    def save(self) -> None:
        """Write, and close the file."""
        self.sync()
        self.close()

    @property
    def _revoked_tasks(self) -> Any:
        return self.state.revoked

    def _merge_with(self, d: Any) -> Any:
        if d.get("zrevoked"):
            self.state.merge_revoked(pickle.loads(self.decompress(d["zrevoked"])))
        elif "zrevoked" not in d and "revoked" in d:  # written by Celery 3
            self.state.merge_revoked(d.pop("revoked"))
        self._revoked_tasks.purge()
        if self.clock:
            d["clock"] = self.clock.adjust(d.get("clock") or 0)
        return d

    def _sync_with(self, d: Any) -> Any:
        self._revoked_tasks.purge()
        d["__proto__"] = 3
        # A plain list, which Celery reads too: a class would be pickled by a name that may not be importable.
        d["zrevoked"] = self.compress(pickle.dumps(list(self._revoked_tasks), protocol=self.protocol))
        d["clock"] = self.clock.forward() if self.clock else 0
        return d

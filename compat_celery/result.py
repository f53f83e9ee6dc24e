"""Results: what became of a task, or will. Asks: backends. Made by: task, canvas.

============ ============================================================================
AsyncResult  one task, by its id
ResultSet    several of them
GroupResult  those of a group; can be saved and restored by its id
EagerResult  of a task that was run on the spot (``apply()``)
============ ============================================================================

A result knows its ``parent`` (the step before it, or the header of a chord) and, once the task has run, its ``children`` (what
the task
sent). ``get()`` blocks; ``await result.aget()`` waits without blocking the loop.
"""

from __future__ import annotations

import datetime as dt
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from functools import partial as _partial
from importlib import import_module
from types import GenericAlias
from typing import TYPE_CHECKING, Any, ClassVar, Self
from weakref import proxy

from vine import Thenable, barrier, promise

from compat_celery import _state, states
from compat_celery._names import celery_named
from compat_celery._state import _set_task_join_will_block, current_app, task_join_will_block
from compat_celery.exceptions import ImproperlyConfigured, IncompleteStream, TaskRevokedError, TimeoutError  # noqa: A004 - Celery's name
from compat_celery.utils.graph import DependencyGraph, GraphFormatter

if TYPE_CHECKING:
    from compat_celery.backends.base import Backend

try:
    tblib: Any = import_module("tblib")
except ImportError:  # tracebacks of workers then stay text
    tblib = None

__all__ = (
    "AsyncResult",
    "EagerResult",
    "GroupResult",
    "ResultBase",
    "ResultSet",
    "result_from_tuple",
)

E_WOULDBLOCK = """\
Never call result.get() within a task: it holds its worker's slot while it waits for another slot, and when all do so nothing moves.
Link the tasks (chain, chord, link=) instead, or wrap the call in celery.result.allow_join_result().
"""

#: Seconds that a thread waits at a stretch on behalf of ``aget()``: so long it may outlive a cancelled one.
_ASYNC_SLICE = 1.0
#: Threads that may wait on behalf of ``aget()`` at once; more callers take turns.
_ASYNC_THREADS = 256

Callback = Callable[..., Any]


def assert_will_not_block() -> None:
    """:raises RuntimeError: this is a task, and a task must not wait for another one."""
    if task_join_will_block():
        raise RuntimeError(E_WOULDBLOCK)


@contextmanager
def _join_will_block(blocks: bool) -> Iterator[None]:
    before = task_join_will_block()
    _set_task_join_will_block(blocks)
    try:
        yield
    finally:
        _set_task_join_will_block(before)


def allow_join_result() -> Any:
    """Context manager: a task may wait for results in here."""
    return _join_will_block(False)


def denied_join_result() -> Any:
    """Context manager: nobody may wait for results in here."""
    return _join_will_block(True)


@cache
def _limiter_of_loop() -> Any:
    from anyio.lowlevel import RunVar  # noqa: PLC0415 - see below

    return RunVar("threads of aget()")


async def _in_thread(function: Callable[..., Any], *args: Any) -> Any:
    # Imported here: most programs that publish tasks have no event loop, and should not pay for one at start.
    from anyio import CapacityLimiter, to_thread  # noqa: PLC0415

    limiter = _limiter_of_loop().get(None)
    if limiter is None:
        limiter = CapacityLimiter(_ASYNC_THREADS)
        _limiter_of_loop().set(limiter)
    return await to_thread.run_sync(function, *args, abandon_on_cancel=True, limiter=limiter)


async def _until(ready_within: Callable[[float], bool], timeout: float | None) -> None:  # noqa: ASYNC109 - the message names it
    """Call ``ready_within(seconds)`` in a thread until it is true.

    :raises TimeoutError: after ``timeout`` seconds.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        left = _ASYNC_SLICE if deadline is None else min(_ASYNC_SLICE, max(deadline - time.monotonic(), 0.0))
        if await _in_thread(ready_within, left):
            return
        if deadline is not None and time.monotonic() >= deadline:
            raise TimeoutError(f"no result within {timeout:g} s")


class ResultBase:
    """What all results have."""

    #: The result of the step before, or of the header of the chord whose body this is.
    parent: Any = None


@Thenable.register
@celery_named
class AsyncResult(ResultBase):
    """What became of a task.

    :param id: the task's id.
    :param backend: where to ask; the app's by default.
    :param parent: the result of the step before.
    """

    app: Any = None
    #: Raised by ``get()`` when the time is over.
    TimeoutError = TimeoutError
    id: Any = None

    @cached_property
    def backend(self) -> Any:
        """Where to ask. Who only publishes never does, and needs none."""
        return self.app.backend

    def __init__(
        self,
        id: Any,  # noqa: A002 - Celery's parameter name
        backend: Backend | None = None,
        task_name: str | None = None,  # noqa: ARG002 - Celery's parameter, long without effect
        app: Any = None,
        parent: Any = None,
    ) -> None:
        if id is None:
            raise ValueError(f"AsyncResult requires valid id, not {type(id)}")
        self.app = _state.app_or_default(app or self.app)
        self.id = id
        if backend:
            self.backend = backend
        self.parent = parent
        self._cache: dict[str, Any] | None = None
        self._ignored = False

    @cached_property
    def on_ready(self) -> Any:
        """A promise that is fulfilled when the result has been seen."""
        return promise(self._on_fulfilled, weak=True)

    @property
    def ignored(self) -> bool:
        """True when the task's result is not stored, so that ``get()`` has nothing to wait for."""
        return getattr(self, "_ignored", False)

    @ignored.setter
    def ignored(self, value: bool) -> None:
        self._ignored = value

    # Waiting.

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        no_ack: bool = True,
        follow_parents: bool = True,
        callback: Callback | None = None,
        on_message: Callback | None = None,
        on_interval: Callback | None = None,
        disable_sync_subtasks: bool = True,
        EXCEPTION_STATES: Any = states.EXCEPTION_STATES,  # noqa: ARG002, N803 - Celery's parameters
        PROPAGATE_STATES: Any = states.PROPAGATE_STATES,  # noqa: ARG002, N803
    ) -> Any:
        """Wait until the task has run, and return what it returned.

        :param timeout: seconds to wait at most; the task goes on all the same.
        :param propagate: raise what the task raised; otherwise return it.
        :param interval: seconds between two looks, on backends that have to look.
        :param follow_parents: also raise what the steps before raised.
        :param callback: called with ``(id, value)``.
        :param on_interval: called now and then while waiting.
        :param disable_sync_subtasks: refuse to wait inside a task.
        :returns: None at once when the task's result is not stored (``ignore_result``).
        :raises TimeoutError: the time is over.
        :raises RuntimeError: called inside a task.
        """
        if self.ignored:
            return None
        if disable_sync_subtasks:
            assert_will_not_block()
        watch = self._watch(follow_parents and propagate, on_interval)
        if self._cache:
            if propagate:
                self.maybe_throw(callback=callback)
            return self.result
        self.backend.add_pending_result(self)
        return self.backend.wait_for_pending(
            self,
            timeout=timeout,
            interval=interval,
            on_interval=watch,
            no_ack=no_ack,
            propagate=propagate,
            callback=callback,
            on_message=on_message,
        )

    def wait(self, *args: Any, **kwargs: Any) -> Any:
        """As :meth:`get`."""
        return self.get(*args, **kwargs)

    def _watch(self, parents: bool, on_interval: Callback | None) -> Callback | None:
        """What to call while waiting: a look at the parents, then the caller's function. Looks at the parents now, too."""
        if not parents or not self.parent:
            return on_interval
        self._maybe_reraise_parent_error()

        def watch() -> None:
            self._maybe_reraise_parent_error()
            if on_interval:
                on_interval()

        return watch

    async def aget(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - as get() has it
        propagate: bool = True,
        *,
        follow_parents: bool = True,
        disable_sync_subtasks: bool = True,
    ) -> Any:
        """Wait for the task without blocking the event loop. Works under asyncio and trio; parameters as of :meth:`get`.

        Waits in a thread; a cancelled wait leaves it behind for a second at most.
        """
        if self.ignored:
            return None
        if disable_sync_subtasks:
            assert_will_not_block()
        await _until(_partial(self._ready_within, follow_parents=follow_parents and propagate), timeout)
        return await _in_thread(_partial(self.maybe_throw, propagate=propagate))

    def _ready_within(self, seconds: float, *, follow_parents: bool = False) -> bool:
        if follow_parents:
            self._maybe_reraise_parent_error()
        try:
            # What the task raised may be a TimeoutError, too: without propagate the only one is that of the wait.
            self.get(timeout=seconds, propagate=False, follow_parents=False, disable_sync_subtasks=False)
        except TimeoutError:
            return False
        return True

    def then(self, callback: Callback, on_error: Callback | None = None, weak: bool = False) -> Any:
        """Call ``callback(result)`` when the result is seen, by whoever waits for it in this process."""
        self.backend.add_pending_result(self, weak=weak)
        return self.on_ready.then(callback, on_error)

    def _on_fulfilled(self, result: Any) -> Any:
        self.backend.remove_pending_result(self)
        return result

    def _maybe_reraise_parent_error(self) -> None:
        for node in reversed(list(self._parents())):
            node.maybe_throw()

    def _parents(self) -> Iterator[Any]:
        node = self.parent
        while node:
            yield node
            node = node.parent

    def throw(self, *args: Any, **kwargs: Any) -> None:
        """Raise the task's error, and tell those who asked by ``then()``."""
        self.on_ready.throw(*args, **kwargs)

    def maybe_throw(self, propagate: bool = True, callback: Callback | None = None) -> Any:
        """The stored value; raised if it is what the task raised."""
        meta = self._get_task_meta() if self._cache is None else self._cache
        value = meta["result"]
        if meta["status"] in states.PROPAGATE_STATES and propagate:
            self.throw(value, self._to_remote_traceback(meta.get("traceback")))
        if callback is not None:
            callback(self.id, value)
        return value

    maybe_reraise = maybe_throw

    def _to_remote_traceback(self, tb: str | None) -> Any:
        if tb and tblib is not None and self.app.conf.task_remote_tracebacks:
            return tblib.Traceback.from_string(tb).as_traceback()
        return None

    # Asking and telling.

    def ready(self) -> bool:
        """True when the task has run: it succeeded, failed or was revoked."""
        return self.state in self.backend.READY_STATES

    def successful(self) -> bool:
        """True when the task has returned."""
        return bool(self.state == states.SUCCESS)

    def failed(self) -> bool:
        """True when the task has raised."""
        return bool(self.state == states.FAILURE)

    def exists(self) -> bool:
        """True when anything is stored under the id. A state of PENDING alone may also mean that the id is wrong or its time
        is over."""
        return bool(self.backend.task_result_exists(self.id))

    def forget(self) -> None:
        """Delete what is stored for the task and for the steps before it."""
        self._cache = None
        if self.parent:
            self.parent.forget()
        self.backend.remove_pending_result(self)
        self.backend.forget(self.id)

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Tell all workers not to start the task.

        :param terminate: also end the process that runs it, with this ``signal`` (TERM by default).
        :param wait: wait for the workers' replies, ``timeout`` seconds at most.
        """
        self.app.control.revoke(self.id, connection=connection, terminate=terminate, signal=signal, reply=wait, timeout=timeout)

    def revoke_by_stamped_headers(
        self,
        headers: dict[str, Any],
        connection: Any = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Tell all workers not to start tasks that carry all of these stamps."""
        self.app.control.revoke_by_stamped_headers(
            headers, connection=connection, terminate=terminate, signal=signal, reply=wait, timeout=timeout
        )

    # What it belongs to.

    def as_tuple(self) -> Any:
        """``((id, parent's tuple), None)``: how results are stored; see :func:`result_from_tuple`."""
        return (self.id, self.parent and self.parent.as_tuple()), None

    def as_list(self) -> list[Any]:
        """Its id, its parent's, and so on."""
        return [self.id, *(self.parent.as_list() if self.parent is not None else ())]

    def iterdeps(self, intermediate: bool = False) -> Iterator[tuple[Any, Any]]:
        """Pairs of ``(parent, result)``: itself, its children, their children, and so on.

        :param intermediate: pass over what is not ready.
        :raises IncompleteStream: something is not ready yet.
        """
        pending: deque[tuple[Any, Any]] = deque([(None, self)])
        while pending:
            parent, node = pending.popleft()
            yield parent, node
            if node.ready():
                pending.extend((node, child) for child in node.children or [])
            elif not intermediate:
                raise IncompleteStream

    def collect(self, intermediate: bool = False, **kwargs: Any) -> Iterator[tuple[Any, Any]]:
        """Pairs of ``(result, value)``: of itself, its children, and so on; ``kwargs`` are those of ``get()``.

        For a task that sends a group of ten tasks, each of which has another one square its number, the squares are the leaves::

            >>> [value for node, value in result.collect() if not node.children]
            [0, 1, 4, 9, 16, 25, 36, 49, 64, 81]
        """
        for _, node in self.iterdeps(intermediate=intermediate):
            yield node, node.get(**kwargs)

    def get_leaf(self) -> Any:
        """The value of the last of its descendants."""
        value = None
        for _, node in self.iterdeps():
            value = node.get()
        return value

    def build_graph(self, intermediate: bool = False, formatter: GraphFormatter | None = None) -> DependencyGraph:
        """Itself and its descendants as a graph."""
        graph = DependencyGraph(formatter=formatter or GraphFormatter(root=self.id, shape="oval"))
        for parent, node in self.iterdeps(intermediate=intermediate):
            graph.add_arc(node)
            if parent:
                graph.add_edge(parent, node)
        return graph

    @cached_property
    def graph(self) -> DependencyGraph:
        """Itself and its descendants as a graph."""
        return self.build_graph()

    @property
    def children(self) -> Any:
        """The results of the tasks that the task sent, or None while it is not ready."""
        return self._get_task_meta().get("children")

    @property
    def supports_native_join(self) -> bool:
        """True when the backend waits for many results at once."""
        return bool(self.backend.supports_native_join)

    # What is stored.

    def _maybe_set_cache(self, meta: dict[str, Any] | None) -> Any:
        if meta and meta["status"] in states.READY_STATES:
            cached = self._set_cache(self.backend.meta_from_decoded(meta))
            self.on_ready(self)
            return cached
        return meta

    def _get_task_meta(self) -> dict[str, Any]:
        if self._cache is None:
            meta: dict[str, Any] = self._maybe_set_cache(self.backend.get_task_meta(self.id))
            return meta
        return self._cache

    def _iter_meta(self, **kwargs: Any) -> Iterator[dict[str, Any]]:  # noqa: ARG002 - as ResultSet
        return iter([self._get_task_meta()])

    def _set_cache(self, d: dict[str, Any]) -> dict[str, Any]:
        if d.get("children"):
            d["children"] = [result_from_tuple(child, self.app) for child in d["children"]]
        self._cache = d
        return d

    @property
    def result(self) -> Any:
        """What the task returned, or the exception that it raised, or its progress, or None."""
        return self._get_task_meta()["result"]

    info = result

    @property
    def traceback(self) -> Any:
        """Where a failed task raised, as text."""
        return self._get_task_meta().get("traceback")

    @property
    def state(self) -> Any:
        """PENDING (also: nobody knows the id), STARTED, RETRY, FAILURE, SUCCESS, REVOKED, or a state of the task's own."""
        return self._get_task_meta()["status"]

    status = state

    @property
    def task_id(self) -> Any:
        """The id."""
        return self.id

    @task_id.setter
    def task_id(self, id: Any) -> None:  # noqa: A002 - Celery's parameter name
        self.id = id

    @property
    def name(self) -> Any:
        """The task's name; stored with ``result_extended`` only, as the five below."""
        return self._get_task_meta().get("name")

    @property
    def args(self) -> Any:
        """Its positional arguments."""
        return self._get_task_meta().get("args")

    @property
    def kwargs(self) -> Any:
        """Its keyword arguments."""
        return self._get_task_meta().get("kwargs")

    @property
    def worker(self) -> Any:
        """The name of the worker that ran it."""
        return self._get_task_meta().get("worker")

    @property
    def retries(self) -> Any:
        """How often it was tried again."""
        return self._get_task_meta().get("retries")

    @property
    def queue(self) -> Any:
        """The routing key of its message."""
        return self._get_task_meta().get("queue")

    @property
    def date_done(self) -> Any:
        """When it was done, as an aware datetime (naive only if it was stored so)."""
        done = self._get_task_meta().get("date_done")
        if done and not isinstance(done, dt.datetime):
            return dt.datetime.fromisoformat(done)
        return done

    # As a value.

    __class_getitem__: ClassVar[Any] = classmethod(GenericAlias)

    def __str__(self) -> str:
        return str(self.id)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id}>"

    def __hash__(self) -> int:
        return hash(self.id)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, AsyncResult):
            return bool(other.id == self.id)
        if isinstance(other, str):
            return bool(other == self.id)
        return NotImplemented

    def __copy__(self) -> Self:
        return type(self)(self.id, self.backend, None, self.app, self.parent)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.__reduce_args__()

    def __reduce_args__(self) -> tuple[Any, ...]:
        return self.id, self.backend, None, None, self.parent

    def __del__(self) -> None:
        # For backends of third parties that wait in the background; ours keep nothing. Who was never asked waits for nothing.
        backend = vars(self).get("backend")
        if backend is not None:
            backend.remove_pending_result(self)


@Thenable.register
@celery_named
class ResultSet(ResultBase):
    """Several results.

    :param results: a list, kept and changed; or an iterable.
    """

    _app: Any = None
    results: Any = None

    def __init__(self, results: Any, app: Any = None, ready_barrier: Any = None, **kwargs: Any) -> None:  # noqa: ARG002 - Celery's signature
        self._app = app
        self.results = results
        self._set_ready_barrier(ready_barrier or barrier(results))

    def _set_ready_barrier(self, ready_barrier: Any) -> None:
        self.on_ready = promise(args=(proxy(self),))
        self._on_full = ready_barrier
        if self._on_full:
            self._on_full.then(promise(self._on_ready, weak=True))

    def _on_ready(self) -> None:
        if self.backend.is_async:
            self.on_ready()

    # Members.

    def add(self, result: Any) -> None:
        """Add a result, unless it is a member."""
        if result in self.results:
            return
        self.results.append(result)
        if not self._on_full:
            return
        if self._on_full.p.ready:
            # The members so far are all ready, and that has been told. A new promise waits for the new one.
            self._set_ready_barrier(barrier())
            self._on_full.add(result)
            self._on_full.finalize()
        else:
            self._on_full.add(result)

    def remove(self, result: Any) -> None:
        """Take a result, or the one with this id, out.

        :raises KeyError: it is no member.
        """
        if isinstance(result, str):
            result = self.app.AsyncResult(result)
        try:
            self.results.remove(result)
        except ValueError:
            raise KeyError(result) from None

    def discard(self, result: Any) -> None:
        """Take a result out if it is a member."""
        if isinstance(result, str):
            result = self.app.AsyncResult(result)
        if result in self.results:
            self.results.remove(result)

    def update(self, results: Iterable[Any]) -> None:
        """Add those that are not members."""
        self.results.extend(result for result in results if result not in self.results)

    def clear(self) -> None:
        """Take all results out of the list that it was given."""
        self.results[:] = []

    def __iter__(self) -> Iterator[Any]:
        return iter(self.results)

    def __getitem__(self, index: Any) -> Any:
        return self.results[index]

    def __len__(self) -> int:
        return len(self.results)

    # Asking.

    def successful(self) -> bool:
        """True when all have succeeded."""
        return all(result.successful() for result in self.results)

    def failed(self) -> bool:
        """True when one has failed."""
        return any(result.failed() for result in self.results)

    def waiting(self) -> bool:
        """True when one is not ready."""
        return any(not result.ready() for result in self.results)

    def ready(self) -> bool:
        """True when all are ready."""
        return all(result.ready() for result in self.results)

    def completed_count(self) -> int:
        """How many have succeeded."""
        return sum(int(result.successful()) for result in self.results)

    def maybe_throw(self, callback: Callback | None = None, propagate: bool = True) -> None:
        """Raise what the first failed one raised."""
        for result in self.results:
            result.maybe_throw(callback=callback, propagate=propagate)

    maybe_reraise = maybe_throw

    # Telling.

    def forget(self) -> None:
        """Delete what is stored for all of them."""
        for result in self.results:
            result.forget()

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Tell all workers not to start any of the tasks; see :meth:`AsyncResult.revoke`."""
        self.app.control.revoke(
            [result.id for result in self.results],
            connection=connection,
            timeout=timeout,
            terminate=terminate,
            signal=signal,
            reply=wait,
        )

    # Waiting.

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callback | None = None,
        no_ack: bool = True,
        on_message: Callback | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callback | None = None,
    ) -> Any:
        """Wait for all: :meth:`join_native` where the backend waits for many at once, else :meth:`join`."""
        return (self.join_native if self.supports_native_join else self.join)(
            timeout=timeout,
            propagate=propagate,
            interval=interval,
            callback=callback,
            no_ack=no_ack,
            on_message=on_message,
            disable_sync_subtasks=disable_sync_subtasks,
            on_interval=on_interval,
        )

    def join(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callback | None = None,
        no_ack: bool = True,
        on_message: Callback | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callback | None = None,
    ) -> list[Any]:
        """Wait for one after the other; return their values in order.

        :param timeout: seconds for all of them together; 0 looks once.
        :param propagate: raise what a task raised; otherwise the exception is its value.
        :param callback: called with ``(id, value)`` for each; the list is empty then.
        :raises TimeoutError: the time is over.
        """
        if disable_sync_subtasks:
            assert_will_not_block()
        if on_message is not None:
            raise ImproperlyConfigured("Backend does not support on_message callback")
        started = time.monotonic()
        values = []
        for result in self.results:
            value = result.get(
                timeout=None if timeout is None else max(timeout - (time.monotonic() - started), 0.0),
                propagate=propagate,
                interval=interval,
                no_ack=no_ack,
                on_interval=on_interval,
                disable_sync_subtasks=disable_sync_subtasks,
            )
            if callback:
                callback(result.id, value)
            else:
                values.append(value)
        return values

    def iter_native(
        self,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Callback | None = None,
        on_interval: Callback | None = None,
    ) -> Iterator[tuple[str, Any]]:
        """Pairs of ``(id, stored document)`` as they become ready; for a group among the members, its list of results."""
        self._on_full.finalize()
        found: Iterator[tuple[str, Any]] = self.backend.iter_native(
            self, timeout=timeout, interval=interval, no_ack=no_ack, on_message=on_message, on_interval=on_interval
        )
        return found

    def join_native(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callback | None = None,
        no_ack: bool = True,
        on_message: Callback | None = None,
        on_interval: Callback | None = None,
        disable_sync_subtasks: bool = True,
    ) -> list[Any] | None:
        """Wait for all of them at once; return their values in order, or None with a ``callback``."""
        if disable_sync_subtasks:
            assert_will_not_block()
        values: dict[str, Any] = {}
        for task_id, meta in self.iter_native(timeout, interval, no_ack, on_message, on_interval):
            if isinstance(meta, list):
                value: Any = [child.get(propagate=propagate, disable_sync_subtasks=disable_sync_subtasks) for child in meta]
            else:
                value = meta["result"]
                if propagate and meta["status"] in states.PROPAGATE_STATES:
                    raise value
            if callback:
                callback(task_id, value)
            else:
                values[task_id] = value
        return None if callback else [values.get(result.id) for result in self.results]

    async def aget(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - as get() has it
        propagate: bool = True,
        *,
        disable_sync_subtasks: bool = True,
    ) -> list[Any] | None:
        """Wait for all without blocking the event loop; with ``propagate`` only until one has failed. See
        :meth:`AsyncResult.aget`."""
        if disable_sync_subtasks:
            assert_will_not_block()
        await _until(_partial(self._ready_within, propagate=propagate), timeout)
        values: list[Any] | None = await _in_thread(_partial(self.get, propagate=propagate, disable_sync_subtasks=False))
        return values

    def _ready_within(self, seconds: float, *, propagate: bool = False, **_: Any) -> bool:
        """True when all are ready, or one has failed and ``propagate`` is true."""
        deadline = time.monotonic() + seconds
        if not self.supports_native_join:
            return all(result._ready_within(max(deadline - time.monotonic(), 0.0)) for result in self.results)
        try:
            for _id, meta in self.iter_native(timeout=seconds):
                if isinstance(meta, list):
                    if not all(child._ready_within(max(deadline - time.monotonic(), 0.0)) for child in meta):
                        return False
                elif propagate and meta["status"] in states.PROPAGATE_STATES:
                    return True
        except TimeoutError:
            return False
        return True

    def then(self, callback: Callback, on_error: Callback | None = None, weak: bool = False) -> Any:  # noqa: ARG002 - as AsyncResult
        """Call ``callback`` with the set when all results have been seen."""
        return self.on_ready.then(callback, on_error)

    def _iter_meta(self, **kwargs: Any) -> Iterator[dict[str, Any]]:
        return (meta for _, meta in self.backend.get_many({result.id for result in self.results}, max_iterations=1, **kwargs))

    def _failed_join_report(self) -> Iterator[Any]:
        # Those that were not waited for are not asked either: that could take for ever.
        known = (result for result in self.results if isinstance(result._cache, dict) or result.backend.is_cached(result.id))
        return (result for result in known if result.state in states.PROPAGATE_STATES)

    # What it belongs to, and as a value.

    @property
    def supports_native_join(self) -> Any:
        """True when the backend waits for many results at once; None when there are no results."""
        return self.results[0].supports_native_join if self.results else None

    @property
    def app(self) -> Any:
        """The app of the first result, or the current one."""
        if self._app is None:
            self._app = self.results[0].app if self.results else current_app._get_current_object()
        return self._app

    @app.setter
    def app(self, app: Any) -> None:
        self._app = app

    @property
    def backend(self) -> Any:
        """Where the results are."""
        return self.app.backend if self.app else self.results[0].backend

    __hash__: ClassVar[Any] = None  # two sets are equal when their members are, and members come and go

    def __eq__(self, other: object) -> bool:
        if isinstance(other, ResultSet):
            return bool(other.results == self.results)
        return NotImplemented

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: [{', '.join(result.id for result in self.results)}]>"


@Thenable.register
@celery_named
class GroupResult(ResultSet):
    """The results of a group, under its id.

    :param parent: the result of the step before the group.
    """

    id: Any = None

    def __init__(self, id: Any = None, results: Any = None, parent: Any = None, **kwargs: Any) -> None:  # noqa: A002 - Celery's parameter name
        self.id = id
        self.parent = parent
        super().__init__(results, **kwargs)

    def _on_ready(self) -> None:
        self.backend.remove_pending_result(self)
        super()._on_ready()

    def save(self, backend: Backend | None = None) -> Any:
        """Store which results belong to the group; see :meth:`restore`."""
        return (backend or self.app.backend).save_group(self.id, self)

    def delete(self, backend: Backend | None = None) -> None:
        """Delete what :meth:`save` stored."""
        (backend or self.app.backend).delete_group(self.id)

    @classmethod
    def restore(cls, id: Any, backend: Backend | None = None, app: Any = None) -> Any:  # noqa: A002 - Celery's parameter name
        """The group that was saved under this id, or None."""
        app = app or (current_app if isinstance(cls.app, property) else cls.app)
        return (backend or app.backend).restore_group(id)

    def as_tuple(self) -> Any:
        """``((id, parent's tuple), [members' tuples])``: how results are stored; see :func:`result_from_tuple`."""
        return (self.id, self.parent and self.parent.as_tuple()), [result.as_tuple() for result in self.results]

    @property
    def children(self) -> Any:
        """Its results."""
        return self.results

    def __bool__(self) -> bool:
        return bool(self.id or self.results)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, GroupResult):
            return bool(other.id == self.id and other.results == self.results and other.parent == self.parent)
        if isinstance(other, str):
            return bool(other == self.id)
        return NotImplemented

    def __hash__(self) -> int:  # unlike other sets it has an id
        return hash(self.id)

    def __str__(self) -> str:
        return str(self.id)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id} [{', '.join(result.id for result in self.results)}]>"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.__reduce_args__()

    def __reduce_args__(self) -> tuple[Any, ...]:
        return self.id, self.results


@Thenable.register
@celery_named
class EagerResult(AsyncResult):
    """The result of a task that has been run on the spot.

    :param ret_value: what it returned, or the exception that it raised.
    """

    def __init__(
        self,
        id: Any,  # noqa: A002 - Celery's parameter name
        ret_value: Any,
        state: str,
        traceback: Any = None,
        name: str | None = None,
    ) -> None:
        # AsyncResult's constructor wants a backend, which an eager app need not have.
        self.id = id
        self._result = ret_value
        self._state = state
        self._traceback = traceback
        self._name = name
        self.on_ready = promise()
        self.on_ready(self)

    @property
    def _cache(self) -> dict[str, Any]:  # type: ignore[override]  # what others fetch and keep is at hand here
        return {
            "task_id": self.id,
            "result": self._result,
            "status": self._state,
            "traceback": self._traceback,
            "name": self._name,
        }

    def _get_task_meta(self) -> dict[str, Any]:
        return self._cache

    def then(self, callback: Callback, on_error: Callback | None = None, weak: bool = False) -> Any:  # noqa: ARG002 - as AsyncResult
        """Call ``callback(result)`` now."""
        return self.on_ready.then(callback, on_error)

    def ready(self) -> bool:
        """Always true."""
        return True

    def get(  # type: ignore[override]  # there is nothing to wait for
        self,
        timeout: float | None = None,  # noqa: ARG002 - as AsyncResult
        propagate: bool = True,
        disable_sync_subtasks: bool = True,
        **kwargs: Any,  # noqa: ARG002
    ) -> Any:
        """What the task returned; raises what it raised. None for a task that ended otherwise (ignored, rejected, retried)."""
        if disable_sync_subtasks:
            assert_will_not_block()
        if self.successful():
            return self.result
        if self.state not in states.PROPAGATE_STATES:
            return None
        if propagate:
            raise self.result if isinstance(self.result, Exception) else Exception(self.result)
        return self.result

    async def aget(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - as get() has it
        propagate: bool = True,
        *,
        follow_parents: bool = True,  # noqa: ARG002 - as AsyncResult
        disable_sync_subtasks: bool = True,
    ) -> Any:
        """As :meth:`get`."""
        return self.get(timeout, propagate, disable_sync_subtasks)

    def _ready_within(self, seconds: float, *, follow_parents: bool = False) -> bool:  # noqa: ARG002 - as AsyncResult
        return True

    def forget(self) -> None:
        """Nothing is stored."""

    def revoke(self, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002 - as AsyncResult
        """Become what a worker would have stored for a revoked task; what it returned or raised is lost."""
        self._state = states.REVOKED
        self._result = TaskRevokedError("revoked")
        self._traceback = None

    @property
    def result(self) -> Any:
        """What the task returned, or the exception that it raised."""
        return self._result

    @property
    def state(self) -> Any:
        """How it ended."""
        return self._state

    status = state

    @property
    def traceback(self) -> Any:
        """Where it raised, as text."""
        return self._traceback

    @property
    def supports_native_join(self) -> bool:
        """There is nothing to wait for."""
        return False

    def __repr__(self) -> str:
        return f"<EagerResult: {self.id}>"

    def __copy__(self) -> Self:
        return type(self)(*self.__reduce_args__())

    def __reduce_args__(self) -> tuple[Any, ...]:
        return self.id, self._result, self._state, self._traceback, self._name


def result_from_tuple(r: Any, app: Any = None) -> Any:
    """The result that ``as_tuple()`` was taken of. A result is given back as it is (some serializers carry them whole).

    :param r: ``((id, parent), None)`` for one result, ``((id, parent), [members])`` for a group.
    """
    if isinstance(r, ResultBase):
        return r
    app = _state.app_or_default(app)
    own, members = r
    result_id, parent = own if isinstance(own, list | tuple) else (own, None)
    if parent:
        parent = result_from_tuple(parent, app)
    if members is None:
        return app.AsyncResult(result_id, parent=parent)
    return app.GroupResult(result_id, [result_from_tuple(member, app) for member in members], parent=parent)

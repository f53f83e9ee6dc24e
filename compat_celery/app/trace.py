"""Run a task as Celery does: hooks, signals, callbacks and results, in Celery's order. Used by: worker.application, Task.apply.

======================  ==============================================================================================
success                 task_prerun → before_start → run → callbacks and the chain's next step → result and chord →
                        on_success → task_success → after_return → task_postrun
failure                 … → result, chord and errbacks → on_failure → task_failure → after_return → task_postrun
retry, ignore, reject   … → result (retry only) → on_retry → task_retry → task_postrun
======================  ==============================================================================================

Inside a worker's job, messages and results are not sent but collected (see :mod:`compat_celery.app.effects`): the worker sends,
stores and acks them in one step. Monitoring agents replace ``build_tracer`` in this module, so it is looked up here each time a
task gets its tracer.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from copy import copy
from typing import Any, NamedTuple

import anyio
from billiard.einfo import ExceptionInfo
from kombu.serialization import loads as loads_message
from kombu.serialization import prepare_accept_content
from kombu.utils.encoding import safe_repr, safe_str

from compat_celery import _state, signals, states
from compat_celery.app.duplicates import deduplicates, is_done
from compat_celery.app.effects import current, deferred
from compat_celery.app.shelf import Rest
from compat_celery.app.task import Context
from compat_celery.app.task import Task as BaseTask
from compat_celery.app.trace_log import (
    get_log_policy,
    get_task_name,
    log_policy_expected,
    log_policy_ignore,
    log_policy_internal,
    log_policy_reject,
    log_policy_unexpected,
    report_internal_error,
    traceback_clear,
)
from compat_celery.backends.base import Backend
from compat_celery.backends.documents import (
    DocumentFormat,
    chain_failures,
    chord_part,
    failure_part,
    stores_documents,
    task_document,
)
from compat_celery.exceptions import Ignore, InvalidTaskError, Reject, Retry
from compat_celery.loaders.base import BaseLoader
from compat_celery.result import AsyncResult
from compat_celery.utils.nodenames import gethostname
from compat_celery.utils.objects import mro_lookup
from compat_celery.utils.saferepr import saferepr
from jumpstarter.abc.results import Fence

__all__ = (
    "EXCEPTION_STATES",
    "FAILURE",
    "IGNORED",
    "IGNORE_STATES",
    "REJECTED",
    "RETRY",
    "SUCCESS",
    "TraceInfo",
    "build_tracer",
    "fast_trace_task",
    "get_log_policy",
    "get_task_name",
    "log_policy_expected",
    "log_policy_ignore",
    "log_policy_internal",
    "log_policy_reject",
    "log_policy_unexpected",
    "report_internal_error",
    "reset_worker_optimizations",
    "setup_worker_optimizations",
    "task_has_custom",
    "trace_ok_t",
    "trace_task",
    "trace_task_ret",
    "traceback_clear",
)

logger = logging.getLogger("celery.app.trace")

#: The stack of current tasks.
TASKS = _state._task_stack.items

IGNORED = states.IGNORED
REJECTED = states.REJECTED
RETRY = states.RETRY
FAILURE = states.FAILURE
SUCCESS = states.SUCCESS
EXCEPTION_STATES = states.EXCEPTION_STATES

#: Lines of a worker's log. Celery's: programs read them.
LOG_RECEIVED = "Task %(name)s[%(id)s] received"
LOG_SUCCESS = "Task %(name)s[%(id)s] succeeded in %(runtime)ss: %(return_value)s"
LOG_FAILURE = "Task %(name)s[%(id)s] %(description)s: %(exc)s"
IGNORE_STATES = frozenset({IGNORED, RETRY, REJECTED})


class trace_ok_t(NamedTuple):  # noqa: N801 - Celery's name
    """What a tracer returns: the value or exception, what is known about a state that is no success, seconds, and the value's
    repr."""

    retval: Any
    info: TraceInfo | None
    runtime: float
    retstr: str | None


class TraceInfo:
    """The state that a task ended in, if that is not success, and the exception that led there."""

    __slots__ = ("retval", "state")

    def __init__(self, state: str, retval: Any = None) -> None:
        self.state = state
        self.retval = retval


def task_has_custom(task: Any, attr: str) -> bool:
    """Whether the task's class, or one between it and Celery's, defines the method itself."""
    return bool(
        mro_lookup(task.__class__, attr, stop={BaseTask, object}, monkey_patched=["celery.app.task", "compat_celery.app.task"])
    )


def _own(thing: Any, name: str, base: type) -> Any:
    """The thing's hook if it does anything; None when it is the empty one of the base class."""
    hook = getattr(thing, name)
    return None if getattr(hook, "__func__", None) is getattr(base, name) else hook


def build_tracer(
    name: str,
    task: Any,
    loader: Any = None,
    hostname: str | None = None,
    store_errors: bool = True,
    Info: type[TraceInfo] = TraceInfo,  # noqa: N803 - Celery's name, given by keyword
    eager: bool = False,
    propagate: bool = False,
    app: Any = None,
    monotonic: Callable[[], float] = time.monotonic,
    **_options: Any,
) -> Tracer:
    """A function ``tracer(uuid, args, kwargs, request)`` that runs ``task`` and returns a :class:`trace_ok_t`.

    :param eager: the task runs in the caller's process: results are stored only with ``task_store_eager_result``.
    :param propagate: errors of the task are raised.
    """
    return Tracer(name, task, loader, hostname, store_errors, Info, eager, propagate, app, monotonic)


def coroutine_tracer(task: Any, *, app: Any, hostname: str | None) -> Tracer:
    """A tracer whose :meth:`Tracer.acall` runs a coroutine task on the running loop."""
    return Tracer(task.name, task, None, hostname, True, TraceInfo, False, False, app, time.monotonic)


class _Run:
    """One execution on its way. From here on its task and its request are the current ones, until the tokens are given back."""

    __slots__ = (
        "args",
        "backend",
        "info",
        "job_token",
        "kwargs",
        "request",
        "request_token",
        "retstr",
        "retval",
        "runtime",
        "started",
        "state",
        "task_token",
        "uuid",
    )

    def __init__(self, tracer: Tracer, uuid: str, args: Any, kwargs: Any, request: Any) -> None:
        if not isinstance(kwargs, dict):
            raise InvalidTaskError("Task keyword arguments is not a mapping")
        self.uuid = uuid
        self.args = args
        self.kwargs = kwargs
        self.request = Context(request or {}, args=args, called_directly=False, kwargs=kwargs)
        # A backend of somebody else may belong to a thread.
        self.backend = tracer.task.backend if tracer.backend is None else tracer.backend
        self.state = SUCCESS
        self.retval: Any = None
        self.info: TraceInfo | None = None
        self.retstr: str | None = None
        self.runtime = 0.0
        self.started = tracer.monotonic()
        # An eager task inside a worker's job is no part of that job: what it does, it does at once.
        self.job_token = current.set(None) if tracer.is_eager else None
        self.task_token = TASKS.set((*TASKS.get(), tracer.task))
        self.request_token = tracer.requests.set((*tracer.requests.get(), self.request))


class Tracer:
    """Runs one task. Made once per task and process by :func:`build_tracer`.

    What the task and the app leave as it is (hooks, results of foreign backends, clean-ups) is found out here, once, and not
    called for each run.
    """

    def __init__(
        self,
        name: str,
        task: Any,
        loader: Any,
        hostname: str | None,
        store_errors: bool,
        info: type[TraceInfo],
        eager: bool,
        propagate: bool,
        app: Any,
        monotonic: Callable[[], float],
    ) -> None:
        self.name = name
        self.task = task
        self.app = app or task.app
        self.hostname = hostname
        self.is_eager = eager
        self.monotonic = monotonic
        self.requests = task.request_stack.items
        self._fun = task if task_has_custom(task, "__call__") else task.run
        self._loader = loader or self.app.loader
        self._info = info
        self._propagate = propagate
        self._store_errors = store_errors
        self._publishes = not eager or getattr(task, "store_eager_result", False)
        #: Whether the task is a coroutine function.
        self.is_coroutine = bool(getattr(task, "is_coroutine", False))
        backend = task.backend
        self._documents: DocumentFormat | None = backend.document_format if stores_documents(backend) else None
        #: Where results go, or None when each run has to ask for it.
        self.backend = backend if self._documents is not None else None
        self._find_hooks(backend)
        self._deduplicates = deduplicates(self.app, task)

    def _find_hooks(self, backend: Any) -> None:
        """What the task, its loader and its backend want to be told."""
        task = self.task
        self._on_success = _own(task, "on_success", BaseTask)
        self._after_return = _own(task, "after_return", BaseTask)
        self._before_start = _own(task, "before_start", BaseTask)
        self._on_task_init = _own(self._loader, "on_task_init", BaseLoader)
        self._tracks_start = not self.is_eager and (task.track_started and not task.ignore_result)
        self._prepares = bool(self._before_start or self._on_task_init or self._tracks_start)
        ends = _own(backend, "process_cleanup", Backend) or _own(self._loader, "on_process_cleanup", BaseLoader)
        self._cleans_up = self.is_eager or self.backend is None or bool(ends)

    def __call__(self, uuid: str, args: Any, kwargs: Any, request: Any = None) -> trace_ok_t:
        """Run it in this thread."""
        if self._deduplicates and (done := self._done_before(uuid, args, kwargs, request)):
            return done
        run = _Run(self, uuid, args, kwargs, request)
        value, failure = None, None
        try:
            try:
                if self._prepares or signals.task_prerun.receivers:
                    self._prerun(run)
                value = self._fun(*args, **kwargs)
                if self.is_coroutine:
                    value = anyio.run(_awaited, value)
            except Exception as error:  # noqa: BLE001 - the user's error becomes the task's result
                failure = error
            return self._conclude(run, value, failure)
        finally:
            self.requests.reset(run.request_token)
            TASKS.reset(run.task_token)
            if self._cleans_up:
                self._clean_up(run)

    async def acall(self, uuid: str, args: Any, kwargs: Any, request: Any = None) -> trace_ok_t:
        """Run a coroutine task on this loop."""
        if self._deduplicates and (done := self._done_before(uuid, args, kwargs, request)):
            return done
        run = _Run(self, uuid, args, kwargs, request)
        value, failure = None, None
        try:
            try:
                if self._prepares or signals.task_prerun.receivers:
                    self._prerun(run)
                value = await self._fun(*args, **kwargs)
            except Exception as error:  # noqa: BLE001 - the user's error becomes the task's result
                failure = error
            return self._conclude(run, value, failure)
        finally:
            self.requests.reset(run.request_token)
            TASKS.reset(run.task_token)
            if self._cleans_up:
                self._clean_up(run)

    @property
    def log(self) -> logging.Logger:
        """Where it is told what became of tasks."""
        return logger

    def _done_before(self, uuid: str, args: Any, kwargs: Any, request: Any) -> trace_ok_t | None:
        """What to answer for a message that has come again after its task had succeeded; None for others."""
        outcome = current.get()
        try:
            if not is_done(self, AsyncResult, uuid, Context(request or {}, args=args, kwargs=kwargs)):
                return None
        except Reject as error:
            if outcome is None:
                raise
            outcome.status = REJECTED
            return trace_ok_t(error, self._info(REJECTED, error), 0.0, None)
        if outcome is not None:
            outcome.status = SUCCESS
        return trace_ok_t(None, None, 0.0, None)

    # The steps, in order.

    def _prerun(self, run: _Run) -> None:
        task = self.task
        if signals.task_prerun.receivers:
            signals.task_prerun.send(sender=task, task_id=run.uuid, task=task, args=run.args, kwargs=run.kwargs)
        if self._on_task_init:
            self._on_task_init(run.uuid, task)
        if self._tracks_start and not run.request.ignore_result:
            meta = {"pid": os.getpid(), "hostname": self.hostname}
            run.backend.store_result(run.uuid, meta, states.STARTED, request=run.request)
        if self._before_start:
            self._before_start(run.uuid, run.args, run.kwargs)

    def _conclude(self, run: _Run, value: Any, failure: Exception | None) -> trace_ok_t:
        """Everything after the task's own code."""
        try:
            if failure is None:
                failure = self._keep(run, value)
            if failure is not None:
                self._end(run, failure)
            elif self._on_success or signals.task_success.receivers or logger.isEnabledFor(logging.INFO):
                self._tell_success(run)
            if self._after_return or signals.task_postrun.receivers:
                self._postrun(run)
        except Exception as error:
            if self.is_eager:
                raise
            self._internal_error(run, error)
        return trace_ok_t(run.retval, run.info, run.runtime, run.retstr)

    def _keep(self, run: _Run, value: Any) -> Exception | None:
        """Send what follows a success and store it; or say why that cannot be done, which fails the task."""
        request, outcome = run.request, current.get()
        try:
            if request.callbacks or request.chain:
                self.follow_up(run.uuid, request, value)
            if outcome is None or self._documents is None:
                run.backend.mark_as_done(run.uuid, value, request, self._publishes_result(request))
            else:
                if self._publishes_result(request):
                    document = self._documents.document(run.uuid, value, SUCCESS, None, request)
                    outcome.documents = (*outcome.documents, document)
                if request.chord:
                    outcome.part = chord_part(run.backend, request, SUCCESS, value)
        except Exception as error:  # noqa: BLE001 - what cannot be encoded or sent fails the task
            return error
        run.runtime = self.monotonic() - run.started
        run.retval = value
        if outcome is not None:
            outcome.status = SUCCESS
        return None

    def _decide(self, run: _Run, state: str, retval: Any) -> None:
        """What the task came to, if not to success. What hooks raise from here on changes nothing about it."""
        run.state, run.retval, run.info = state, retval, self._info(state, retval)
        outcome = current.get()
        if outcome is not None:
            outcome.status = state
            outcome.error = retval if state == FAILURE else None

    def _tell_success(self, run: _Run) -> None:
        if self._on_success:
            self._call_hook("on_success", self._on_success, run, run.retval, run.uuid, run.args, run.kwargs)
        if signals.task_success.receivers:
            signals.task_success.send(sender=self.task, result=run.retval, runtime=run.runtime)
        if logger.isEnabledFor(logging.INFO):
            self._log_success(run)

    def _call_hook(self, name: str, hook: Callable[..., Any], run: _Run, *facts: Any) -> None:
        """Call a hook whose error changes nothing any more: it is logged, and the others are still told. Whoever measures tasks
        waits for task_postrun."""
        try:
            hook(*facts)
        except Exception:
            if self.is_eager:
                raise
            logger.exception("Task %s[%s]: %s raised", self._shown_name(run), run.uuid, name)

    def _internal_error(self, run: _Run, error: Exception) -> None:
        """What is done about a failure or a retry failed itself: told, and nothing else changes."""
        logger.error("Task %s[%s]: a hook failed: %r", self._shown_name(run), run.uuid, error, exc_info=error)
        signals.task_internal_error.send(
            sender=self.task,
            task_id=run.uuid,
            args=run.args,
            kwargs=run.kwargs,
            request=run.request,
            exception=error,
            traceback=error.__traceback__,
            einfo=ExceptionInfo((type(error), error, error.__traceback__)),
        )

    def follow_up(self, uuid: str, request: Context, value: Any) -> None:
        """Send the callbacks and the chain's next step: before the result is stored, so that what cannot be encoded fails the
        task."""
        with deferred():
            self._follow_up(uuid, request, value)

    def _follow_up(self, uuid: str, request: Context, value: Any) -> None:
        callbacks, chain = request.callbacks, request.chain
        app = self.app
        root = request.root_id or uuid
        options: dict[str, Any] = {"parent_id": uuid, "root_id": root, "priority": self._inherited_priority(request)}
        if callbacks:
            for callback in callbacks:
                signature = app._canvas.maybe_signature(callback, app=app)
                signature.apply_async((value,), **options, **_stamps_of(request))
        if chain:
            # A copy: the task's own hooks are still to see the request.
            rest = copy(app.shelf.chain(chain))
            signature = app._canvas.maybe_signature(rest.pop(), app=app)
            later = rest.wire() if isinstance(rest, Rest) else rest
            signature.apply_async((value,), chain=later or None, **options)

    def _inherited_priority(self, request: Context) -> int | None:
        if not self.app.conf.task_inherit_parent_priority:
            return None
        return (request.delivery_info or {}).get("priority")

    def _publishes_result(self, request: Context) -> bool:
        ignore = request.ignore_result
        return bool(self._publishes and not (self.task.ignore_result if ignore is None else ignore))

    def _end(self, run: _Run, error: Exception) -> None:
        """The task did not succeed; find out in which way."""
        match error:
            case Reject():
                self._leave(run, REJECTED, error)
            case Ignore():
                self._leave(run, IGNORED, error)
            case Retry() if not self._propagate:
                self._retry(run, error)
            case _:
                if self._propagate:
                    raise error
                self._fail(run, error)
        # A result is kept longer than what its exception went through.
        traceback_clear(error)
        run.runtime = self.monotonic() - run.started

    def _leave(self, run: _Run, state: str, error: Exception) -> None:
        self._decide(run, state, error)
        if state == REJECTED:
            logger.info(
                "Task %s[%s] reject requeue=%s: %s", self._shown_name(run), run.uuid, getattr(error, "requeue", None), error
            )
        else:
            logger.info("Task %s[%s] ignored", self._shown_name(run), run.uuid)

    def _retry(self, run: _Run, error: Retry) -> None:
        self._decide(run, RETRY, error)
        task, request = self.task, run.request
        trace = error.__traceback__
        try:
            info = ExceptionInfo((type(error), error, trace))
            if self._publishes_result(request):
                self._store(run, error.exc, RETRY, info.traceback)
            task.on_retry(error.exc, run.uuid, run.args, run.kwargs, info)
            signals.task_retry.send(sender=task, request=request, reason=error, einfo=info)
            logger.info("Task %s[%s] retry: %s", self._shown_name(run), run.uuid, safe_str(error))
        finally:
            del trace

    def _fail(self, run: _Run, error: Exception) -> None:
        self._decide(run, FAILURE, error)
        task = self.task
        trace = error.__traceback__
        try:
            info = ExceptionInfo((type(error), error, trace))
            info.exception = error
            record_failure(
                run.backend,
                run.uuid,
                error,
                run.request,
                traceback=info.traceback,
                store=self._store_errors
                and self._publishes
                and (self._publishes_result(run.request) or task.store_errors_even_if_ignored),
            )
            task.on_failure(error, run.uuid, run.args, run.kwargs, info)
            signals.task_failure.send(
                sender=task,
                task_id=run.uuid,
                exception=error,
                args=run.args,
                kwargs=run.kwargs,
                traceback=trace,
                einfo=info,
            )
            self._log_failure(run, error)
        finally:
            del trace

    def _store(self, run: _Run, result: Any, state: str, traceback: str | None) -> None:
        outcome = current.get()
        if outcome is not None and self._documents is not None:
            document = self._documents.document(run.uuid, result, state, traceback, run.request)
            outcome.documents = (*outcome.documents, document)
        else:
            run.backend.store_result(run.uuid, result, state, traceback=traceback, request=run.request)

    def _postrun(self, run: _Run) -> None:
        task = self.task
        if self._after_return and run.state not in IGNORE_STATES:
            facts = (run.state, run.retval, run.uuid, run.args, run.kwargs, None)
            self._call_hook("after_return", self._after_return, run, *facts)
        if signals.task_postrun.receivers:
            signals.task_postrun.send(
                sender=task,
                task_id=run.uuid,
                task=task,
                args=run.args,
                kwargs=run.kwargs,
                retval=run.retval,
                state=run.state,
            )

    def _clean_up(self, run: _Run) -> None:
        if run.job_token is not None:
            current.reset(run.job_token)
            return
        try:
            run.backend.process_cleanup()
            self._loader.on_process_cleanup()
        except Exception:
            logger.exception("Process cleanup failed")

    # Logging.

    def _shown_name(self, run: _Run) -> str:
        return getattr(run.request, "shadow", None) or self.name

    def _facts(self, run: _Run) -> dict[str, Any]:
        """What every line about a task tells, by Celery's names; monitors and tests read it from the record's ``data``."""
        request = run.request
        return {
            "id": run.uuid,
            "name": self._shown_name(run),
            "args": request.get("argsrepr") or safe_repr(request.args),
            "kwargs": request.get("kwargsrepr") or safe_repr(request.kwargs),
        }

    def _log_success(self, run: _Run) -> None:
        run.retstr = saferepr(run.retval, getattr(self.task, "resultrepr_maxsize", 1024))
        facts = {**self._facts(run), "return_value": run.retstr, "runtime": round(run.runtime, 6)}
        logger.info(LOG_SUCCESS, facts, extra={"data": facts})

    def _log_failure(self, run: _Run, error: Exception) -> None:
        throws = self.task.throws or ()
        is_expected = isinstance(error, throws)
        facts = {
            **self._facts(run),
            "hostname": run.request.hostname,
            "exc": safe_repr(error),
            "description": "raised expected" if is_expected else "raised unexpected",
            "internal": False,
        }
        logger.log(
            logging.INFO if is_expected else logging.ERROR,
            LOG_FAILURE,
            facts,
            exc_info=None if is_expected else (type(error), error, error.__traceback__),
            extra={"data": facts},
        )


def record_failure(
    backend: Any,
    uuid: str,
    error: BaseException,
    request: Context,
    *,
    traceback: str | None,
    store: bool,
    state: str = FAILURE,
) -> None:
    """Store a failure, count it in its chord, fail the rest of its chain, and send or call its errbacks.

    Also for failures that no tracer saw: a lost process, an expired or unknown task. In a worker's job all of it is collected.

    :param store: whether the task's own result is stored.
    """
    outcome = current.get()
    if outcome is None or not stores_documents(backend):
        backend.mark_as_failure(uuid, error, traceback=traceback, request=request, store_result=store, state=state)
        return
    documents = chain_failures(backend, request, error, traceback)
    if store:
        documents.insert(0, task_document(backend, uuid, error, state, traceback, request))
    outcome.documents = (*outcome.documents, *documents)
    outcome.part = failure_part(backend, request, state, error)
    if request.errbacks:
        if documents and backend.calls_errbacks_here(request):
            # Those look at the failure, which settling would store only after them; it stores the same once more.
            fence = None if outcome.job is None else Fence(uuid, outcome.delivery.attempt)
            backend.results.put(documents, by=[fence] * len(documents))
        with deferred():
            backend._call_task_errbacks(request, error, traceback)


async def _awaited(coroutine: Any) -> Any:
    return await coroutine


def _stamps_of(request: Context) -> dict[str, Any]:
    headers = dict(request.stamps or {}) if request.stamped_headers else {}
    return {"stamped_headers": request.stamped_headers, **headers} if headers else {}


def trace_task(task: Any, uuid: str, args: Any, kwargs: Any, request: Any = None, **options: Any) -> trace_ok_t:
    """Run a task, giving it its tracer first if it has none. What fails around it is reported, not raised.

    :raises Reject: the message shall come again.
    """
    request = request or {}
    try:
        if task.__trace__ is None:
            task.__trace__ = build_tracer(task.name, task, **options)
        result: trace_ok_t = task.__trace__(uuid, args, kwargs, request)
    except Reject:
        raise
    except Exception as error:  # noqa: BLE001 - as Celery's: the caller gets a result in any case
        signals.task_internal_error.send(
            sender=task,
            task_id=uuid,
            args=args,
            kwargs=kwargs,
            request=request,
            exception=error,
            traceback=error.__traceback__,
            einfo=ExceptionInfo(),
        )
        return trace_ok_t(report_internal_error(task, error), TraceInfo(FAILURE, error), 0.0, None)
    return result


# For pools and extensions that run tasks by Celery's own functions. Jumpstarter's worker calls the tracer itself.

#: The tasks, the content types that are accepted, and the node's name; see :func:`setup_worker_optimizations`.
_localized: list[Any] = []


def _decoded(body: Any, content_type: str | None, encoding: str | None, accept: Any, loads: Any) -> Any:
    return loads(body, content_type, encoding, accept=accept) if content_type else body


def trace_task_ret(
    name: str,
    uuid: str,
    request: dict[str, Any],
    body: Any,
    content_type: str | None,
    content_encoding: str | None,
    loads: Any = loads_message,
    app: Any = None,
    **_: Any,
) -> tuple[int, Any, float]:
    """Decode a message's body and run its task.

    :returns: ``(1, exception or what the tracer made of it, seconds)`` when it did not succeed, else ``(0, its repr, seconds)``.
    """
    app = app or _state.get_current_app()
    accept = prepare_accept_content(app.conf.accept_content)
    args, kwargs, embed = _decoded(body, content_type, content_encoding, accept, loads)
    request.update({"args": args, "kwargs": kwargs, "hostname": gethostname(), "is_eager": False}, **embed or {})
    done = trace_task(app.tasks[name], uuid, args, kwargs, request, app=app)
    return (1, done.retval, done.runtime) if done.info else (0, done.retstr, done.runtime)


def fast_trace_task(
    task: str,
    uuid: str,
    request: dict[str, Any],
    body: Any,
    content_type: str | None,
    content_encoding: str | None,
    loads: Any = loads_message,
    _loc: list[Any] | None = None,
    hostname: str | None = None,  # noqa: ARG001 - Celery's signature
    **_: Any,
) -> tuple[int, Any, float]:
    """As :func:`trace_task_ret`, for a process in which :func:`setup_worker_optimizations` was called.

    :raises RuntimeError: it was not.
    """
    known = _loc or _localized
    if not known:
        raise RuntimeError(
            "fast_trace_task: worker task registry is empty: setup_worker_optimizations(app) was not called in this process"
        )
    tasks, accept, node = known
    args, kwargs, embed = _decoded(body, content_type, content_encoding, accept, loads)
    request.update({"args": args, "kwargs": kwargs, "hostname": node, "is_eager": False}, **embed or {})
    done = tasks[task].__trace__(uuid, args, kwargs, request)
    return (1, done.retval, done.runtime) if done.info else (0, done.retstr, done.runtime)


def setup_worker_optimizations(app: Any, hostname: str | None = None) -> None:
    """Prepare this process for running an app's tasks: it is the app of all threads, and its tasks are there."""
    app.set_current()
    app.set_default()
    app.finalize()
    _localized[:] = [app._tasks, prepare_accept_content(app.conf.accept_content), hostname or gethostname()]
    app.use_fast_trace_task = True


def reset_worker_optimizations(app: Any = None) -> None:
    """Undo :func:`setup_worker_optimizations`, but for the current app."""
    _localized.clear()
    chosen: Any = app or _state.get_current_app()
    chosen.use_fast_trace_task = False

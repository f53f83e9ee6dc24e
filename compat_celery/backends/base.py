"""Celery's backend classes: where results go and come from. Made by: app.backends. Used by: results, the tracer. Subclassed
by: third parties.

====================== ==============================================================================
Backend                the hooks that everyone calls; what a subclass has to provide begins with ``_``
SyncBackendMixin       waiting by looking again and again
BaseBackend            both (also ``BaseDictBackend``)
KeyValueStoreBackend   a backend that has get, set, delete, mget and perhaps incr
DisabledBackend        no results
====================== ==============================================================================

Hooks are called with the positions that Celery uses, since backends outside name their parameters differently.
"""

from __future__ import annotations

import sys
import time
import traceback as traceback_module
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any, ClassVar, NoReturn
from uuid import UUID

from billiard.einfo import ExceptionInfo
from kombu.compression import encoders as compression_encoders
from kombu.compression import get_encoder as get_compression_encoder
from kombu.serialization import dumps, loads, prepare_accept_content
from kombu.serialization import registry as serializer_registry
from kombu.utils.encoding import bytes_to_str, ensure_bytes
from kombu.utils.url import maybe_sanitize_url
from kombu.utils.uuid import uuid

from compat_celery import states
from compat_celery._names import CELERYS, OURS, celery_named
from compat_celery._state import current_app, get_current_task
from compat_celery.app.task import Context
from compat_celery.backends.documents import (
    COMPRESSED_PAYLOAD_MAGIC,
    children_of,
    compress_payload,
    decompress_payload,
    later_steps,
    result_meta,
    step_request,
)
from compat_celery.canvas import _chain, _chord, group, maybe_signature
from compat_celery.exceptions import (
    BackendGetMetaError,
    BackendStoreError,
    ChordError,
    ImproperlyConfigured,
    NotRegistered,
    SecurityError,
    TaskRevokedError,
    TimeoutError,  # noqa: A004 - Celery's name
)
from compat_celery.result import GroupResult, ResultBase, ResultSet, allow_join_result, result_from_tuple
from compat_celery.utils.functional import LRUCache, arity_greater, maybe_list
from compat_celery.utils.log import get_logger
from compat_celery.utils.serialization import (
    create_exception_cls,
    ensure_serializable,
    get_pickleable_exception,
    get_pickled_exception,
    raise_with_context,
)
from compat_celery.utils.time import get_exponential_backoff_interval

__all__ = (
    "COMPRESSED_PAYLOAD_MAGIC",
    "BaseBackend",
    "BaseDictBackend",
    "DisabledBackend",
    "KeyValueStoreBackend",
    "compress_payload",
    "decompress_payload",
    "get_current_task",
)

#: Serializers that carry exceptions as they are.
EXCEPTION_ABLE_CODECS = frozenset({"pickle"})

logger = get_logger("celery.backends.base")

E_NO_BACKEND = (
    "No result backend is configured, so nothing is known about results. Set result_backend, for example to redis://localhost/1."
)
E_CHORD_NO_BACKEND = (
    "Starting chords requires a result backend to be configured (set result_backend): something has to count the tasks of the "
    "header. A group that is chained with a task is a chord, too."
)


def unpickle_backend(cls: type[Backend], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Backend:
    """A backend of the current app."""
    make: Callable[..., Backend] = cls
    return make(*args, app=current_app._get_current_object(), **kwargs)


def _create_chord_error_with_cause(message: str, original_exc: Any = None) -> ChordError:
    error = ChordError(message)
    if isinstance(original_exc, Exception):
        error.__cause__ = original_exc
    return error


def _create_fake_task_request(task_id: Any, errbacks: Any = None, task_name: str = "unknown", **extra: Any) -> Context:
    """A request for errbacks of a task that never ran."""
    return Context({"id": task_id, "errbacks": errbacks or [], "delivery_info": {}, "task": task_name, **extra})


def _result_errbacks(sig: Any, app: Any) -> tuple[Any, list[Any]]:
    """The id of the result of a frozen signature, and the errbacks that wait for it: of a chord also its body's, of a group
    its members'."""
    sig = maybe_signature(sig, app=app)
    errbacks: list[Any] = []
    while isinstance(sig, _chord) and sig.body is not None:
        errbacks.extend(maybe_list(sig.options.get("link_error")) or [])
        sig = maybe_signature(sig.body, app=app)
    errbacks.extend(maybe_list(sig.options.get("link_error")) or [])
    if isinstance(sig, group):
        for task in sig.tasks:
            errbacks.extend(_result_errbacks(task, app)[1])
    return sig.options.get("task_id"), errbacks


def _is_request_ignore_result(request: Any) -> bool:
    return request is not None and bool(request.ignore_result)


class _nulldict(dict[Any, Any]):  # noqa: N801 - Celery's name
    """A cache that keeps nothing."""

    def ignore(self, *args: Any, **kwargs: Any) -> None:
        """Keep nothing."""

    __setitem__ = update = setdefault = ignore


class Backend:
    """Stores what became of tasks, and finds it again. Subclasses provide ``_store_result``, ``_get_task_meta_for``, ``_forget``,
    ``_save_group``, ``_restore_group`` and ``_delete_group``."""

    READY_STATES = states.READY_STATES
    UNREADY_STATES = states.UNREADY_STATES
    EXCEPTION_STATES = states.EXCEPTION_STATES

    TimeoutError = TimeoutError

    #: Seconds between looks at single results of a set, where that is not ``interval``.
    subpolling_interval: float | None = None
    #: It can wait for many results at once.
    supports_native_join = False
    #: It drops results itself when their time is over; otherwise ``cleanup()`` has to be called.
    supports_autoexpire = False
    #: Results outlive the process.
    persistent: Any = True
    #: It gives back any bytes as they were stored, so that they may be compressed.
    supports_result_compression = False
    #: It honours ``result_failure_expires``.
    supports_failure_expires = False

    retry_policy: ClassVar[Any] = {"max_retries": 20, "interval_start": 0, "interval_step": 1, "interval_max": 1}

    def __init__(
        self,
        app: Any,
        serializer: str | None = None,
        max_cached_results: int | None = None,
        accept: Any = None,
        expires: Any = None,
        expires_type: Callable[[Any], Any] | None = None,
        url: str | None = None,
        **kwargs: Any,  # noqa: ARG002 - subclasses hand on whatever they were given
    ) -> None:
        self.app = app
        conf = app.conf
        self.serializer = serializer or conf.result_serializer
        self.content_type, self.content_encoding, self.encoder = serializer_registry._encoders[self.serializer]
        self.compression = self.prepare_compression(conf.get("result_compression"))
        cache_size = max_cached_results or conf.result_cache_max
        self._cache: Any = _nulldict() if cache_size == -1 else LRUCache(limit=cache_size)
        self.expires = self.prepare_expires(expires, expires_type)
        accept = conf.result_accept_content if accept is None else accept
        self.accept = prepare_accept_content(conf.accept_content if accept is None else accept)
        if conf.get("result_failure_expires") is not None and not self.supports_failure_expires:
            warnings.warn(
                f"The {type(self).__name__} result backend does not support result_failure_expires: "
                "failures expire as all results do.",
                UserWarning,
                stacklevel=2,
            )
        self.always_retry = conf.get("result_backend_always_retry", False)
        self.max_sleep_between_retries_ms = conf.get("result_backend_max_sleep_between_retries_ms", 10000)
        self.base_sleep_between_retries_ms = conf.get("result_backend_base_sleep_between_retries_ms", 10)
        self.max_retries = conf.get("result_backend_max_retries", float("inf"))
        self.thread_safe = conf.get("result_backend_thread_safe", False)
        self.url = url

    # Settings.

    def as_uri(self, include_password: bool = False) -> Any:
        """Its address, by default without the password."""
        if include_password:
            return self.url
        url = maybe_sanitize_url(self.url or "")
        return url[:-1] if url.endswith(":///") else url  # kombu adds a slash

    def prepare_compression(self, compression: str | None) -> str | None:
        """The method by which documents are compressed, or None.

        :raises ImproperlyConfigured: kombu does not know the method.
        """
        if not compression:
            return None
        if not self.supports_result_compression:
            warnings.warn(
                f"The {type(self).__name__} result backend cannot store compressed payloads: result_compression has no effect.",
                UserWarning,
                stacklevel=2,
            )
            return None
        try:
            get_compression_encoder(compression)
        except KeyError as exc:
            known = ", ".join(sorted(compression_encoders()))
            raise ImproperlyConfigured(
                f"Unknown compression method {compression!r} configured in result_compression. Available methods are: {known}."
            ) from exc
        return compression

    def prepare_expires(self, value: Any, type: Callable[[Any], Any] | None = None) -> Any:  # noqa: A002 - Celery's parameter name
        """Seconds for which results are kept (``result_expires`` by default), or None."""
        if value is None:
            value = self.app.conf.result_expires
        if isinstance(value, timedelta):
            value = value.total_seconds()
        return type(value) if value is not None and type else value

    def prepare_persistent(self, enabled: Any = None) -> Any:
        """Whether results are to outlive the server (``result_persistent`` by default)."""
        if enabled is not None:
            return enabled
        persistent = self.app.conf.result_persistent
        return self.persistent if persistent is None else persistent

    # What the worker reports.

    def mark_as_started(self, task_id: str, **meta: Any) -> Any:
        """The task runs; ``meta`` says where."""
        return self.store_result(task_id, meta, states.STARTED)

    def mark_as_done(
        self, task_id: str, result: Any, request: Any = None, store_result: bool = True, state: str = states.SUCCESS
    ) -> None:
        """The task returned."""
        if store_result and not _is_request_ignore_result(request):
            self.store_result(task_id, result, state, request=request)
        if request and request.chord:
            self.on_chord_part_return(request, state, result)

    def mark_as_failure(
        self,
        task_id: str,
        exc: Any,
        traceback: Any = None,
        request: Any = None,
        store_result: bool = True,
        call_errbacks: bool = True,
        state: str = states.FAILURE,
    ) -> None:
        """The task failed: so do the later steps of its chain and its chord, and its errbacks are called."""
        if store_result:
            self.store_result(task_id, exc, state, traceback=traceback, request=request)
        if not request:
            return
        if request.chord:
            self.on_chord_part_return(request, state, exc)
        self._fail_chain(getattr(request, "chain", None), exc, traceback, store_result=store_result, state=state)
        if call_errbacks and request.errbacks:
            self._call_task_errbacks(request, exc, traceback)

    def mark_as_revoked(
        self, task_id: str, reason: str = "", request: Any = None, store_result: bool = True, state: str = states.REVOKED
    ) -> None:
        """The task was revoked, or expired."""
        exc = TaskRevokedError(reason)
        if store_result:
            self.store_result(task_id, exc, state, traceback=None, request=request)
        if request and request.chord:
            self.on_chord_part_return(request, state, exc)

    def mark_as_retry(
        self,
        task_id: str,
        exc: Any,
        traceback: Any = None,
        request: Any = None,
        store_result: bool = True,  # noqa: ARG002 - Celery's parameter, without effect there as well
        state: str = states.RETRY,
    ) -> Any:
        """The task will be tried again because of ``exc``."""
        return self.store_result(task_id, exc, state, traceback=traceback, request=request)

    def fail_from_current_stack(self, task_id: str, exc: Any = None) -> ExceptionInfo:
        """The task failed with the exception that is being handled, or with ``exc``."""
        kind, current, tb = sys.exc_info()
        exc = current if exc is None else exc
        try:
            info = ExceptionInfo((kind or type(exc), exc, tb))
            self.mark_as_failure(task_id, exc, info.traceback)
            return info
        finally:
            # The frames would keep the user's objects alive for as long as anybody keeps the exception.
            traceback_module.clear_frames(tb)
            del tb

    # Failures that concern others.

    def _fail_chain(
        self, chain: Any, exc: Any, traceback: Any = None, store_result: bool = True, state: str = states.FAILURE
    ) -> None:
        """Let the steps fail that come after a failed one, and tell the chord that the chain is a member of."""
        try:
            steps = list(self.app.shelf.later(chain))
        except TypeError:
            return
        for step in later_steps(steps):
            request = step_request(step)
            is_member = "chord" in (step.get("options") or {})
            # A step that has failed before has told its chord.
            told = is_member and request.id is not None and self.get_state(request.id) in states.PROPAGATE_STATES
            if store_result and state in states.PROPAGATE_STATES and request.id is not None:
                self.store_result(request.id, exc, state, traceback=traceback, request=request)
            if is_member and not told:
                self.on_chord_part_return(request, state, exc)

    def _call_task_errbacks(self, request: Any, exc: Any, traceback: Any) -> None:
        """Tell the errbacks of a failed task: those that take more than the task's id are called here with ``(request, exc,
        traceback)``, the others are sent as tasks with the id."""
        to_send = []
        for linked in request.errbacks:
            errback = self.app.signature(linked)
            if not errback._app:
                errback._app = self.app
            if self._is_called_here(errback):
                try:
                    errback(request, exc, traceback)
                except Exception:
                    logger.exception("Errback %r raised an exception", errback.name)
            else:
                to_send.append(errback)
        if not to_send:
            return
        errbacks = group(to_send, app=self.app)
        eager = self.app.conf.task_always_eager or (request.delivery_info or {}).get("is_eager", False)
        send = errbacks.apply if eager else errbacks.apply_async
        send((request.id,), parent_id=request.id, root_id=request.root_id or request.id)

    def calls_errbacks_here(self, request: Any) -> bool:
        """Whether one of the task's errbacks is called in this process rather than sent as a task."""
        return any(self._is_called_here(self.app.signature(linked)) for linked in request.errbacks)

    def _is_called_here(self, errback: Any) -> bool:
        try:
            header = getattr(errback.type, "__header__", None)
        except NotRegistered:  # another worker may have it
            return False
        if header is None or isinstance(header, partial):  # a task class of its own, or bound: may want to retry
            return False
        return self._errback_arity_greater(errback, 1)

    def _errback_arity_greater(self, errback: Any, n: int) -> bool:
        """True when the errback takes more than n arguments beside those that its signature has already."""
        header = errback.type.__header__
        if not errback.immutable and (errback.args or errback.kwargs):
            try:
                return bool(arity_greater(partial(header, *errback.args, **errback.kwargs), n))
            except (TypeError, ValueError):  # arguments that do not fit: the call will say so
                pass
        return bool(arity_greater(header, n))

    def chord_error_from_stack(self, callback: Any, exc: Any = None) -> Any:
        """The body of a chord fails with the exception that is being handled, or with ``exc``: tell its errbacks and who waits
        for it."""
        exc = sys.exc_info()[1] if exc is None else exc
        try:
            backend = self.app._tasks[callback.task].backend
        except KeyError:
            backend = self
        if isinstance(callback, group):
            info = self._handle_group_chord_error(group_callback=callback, backend=backend, exc=exc)
        else:
            info, exc = self._fail_body(callback, backend, exc)
        backend._fail_chain(callback.options.get("chain"), exc)
        # Celery leaves it at that, and a chord in whose header this one is waits for ever.
        for task in _reporting_tasks(callback):
            request = step_request(task)
            # An errback that was linked to the outer chord was linked to this one as well: it has been told.
            if told := callback.options.get("link_error"):
                request.chord = _without_errbacks(self.app.shelf.opened(request.chord), told)
            backend.on_chord_part_return(request, states.FAILURE, exc)
        return info

    def _fail_body(self, body: Any, backend: Backend, exc: Any) -> tuple[ExceptionInfo, Any]:
        task_id = body.id
        if not task_id:
            task_id = body.options["task_id"] = uuid()
        request = _create_fake_task_request(task_id, body.options.get("link_error", []), **body)
        try:
            self._call_task_errbacks(request, exc, None)
        except Exception as errback_exc:  # noqa: BLE001 - whoever waits for the body learns of it
            exc = errback_exc
        return backend.fail_from_current_stack(task_id, exc=exc), exc

    def _handle_group_chord_error(self, group_callback: Any, backend: Backend, exc: Any = None) -> Any:
        """Every task of a body that is a group fails with what went wrong in the header, and its errbacks and the group's are
        told."""
        cause = exc.__cause__ if isinstance(exc, ChordError) and exc.__cause__ else exc
        try:
            frozen = group_callback.freeze()
            shared = maybe_list(group_callback.options.get("link_error")) or []
            own = dict(_result_errbacks(task, self.app) for task in group_callback.tasks)
            names = {task.options.get("task_id"): task.task for task in group_callback.tasks}
            for result in frozen.results:
                name = getattr(result, "task", None) or names.get(result.id, "unknown")
                self._fail_member(backend, result.id, name, [*own.get(result.id, ()), *shared], cause)
            if frozen.id:
                backend.mark_as_failure(frozen.id, cause)
            # After the failures are stored: whoever handles the revocation leaves a result that is final as it is.
            self._revoke_body(frozen)
        except Exception:
            logger.exception("The failure of a chord's header could not be told to its body's tasks; told to the group only")
            return backend.fail_from_current_stack(group_callback.id, exc=exc)
        return None

    def _revoke_body(self, result: Any) -> None:
        """Make sure that no task of a body that has failed is run: some of its messages may be under way."""
        result.revoke()

    def _fail_member(self, backend: Backend, task_id: str, name: str, errbacks: list[Any], cause: Any) -> None:
        once = [errback for position, errback in enumerate(errbacks) if errback not in errbacks[:position]]
        try:
            backend._call_task_errbacks(_create_fake_task_request(task_id, once, name), cause, None)
        except Exception:
            logger.exception("Errbacks of task %s could not be called", task_id)
        try:
            backend.fail_from_current_stack(task_id, exc=cause)
        except Exception:
            logger.exception("Failed to handle chord error for task %s", task_id)

    # Encoding.

    def prepare_exception(self, exc: BaseException, serializer: str | None = None) -> Any:
        """An exception as the serializer takes it."""
        if (serializer or self.serializer) in EXCEPTION_ABLE_CODECS:
            return get_pickleable_exception(exc)
        kind = type(exc)
        return {
            "exc_type": getattr(kind, "__qualname__", kind.__name__),
            "exc_message": ensure_serializable(exc.args, self.encode),
            "exc_module": kind.__module__,
        }

    def exception_to_python(self, exc: Any) -> Any:
        """A stored exception as an exception.

        Its class is looked for in modules that are imported already; one that is not found is made anew, by its name.

        :raises SecurityError: what is stored names something that is no exception.
        """
        if not exc:
            return None
        if isinstance(exc, BaseException):
            return get_pickled_exception(exc) if self.serializer in EXCEPTION_ABLE_CODECS else exc
        if not isinstance(exc, dict):
            try:
                exc = dict(exc)
            except TypeError as error:
                raise TypeError(
                    f"If the stored exception isn't an instance of BaseException, it must be a dictionary.\nInstead got: {exc}"
                ) from error
        if "exc_type" not in exc:
            raise ValueError("Exception information must include the exception type")
        message = exc.get("exc_message", "")
        cls = _exception_class(exc.get("exc_module"), exc["exc_type"], message)
        try:
            return cls(*message) if isinstance(message, tuple | list) else cls(message)
        except Exception:  # noqa: BLE001 - its constructor wants something else
            return Exception(f"{cls}({message})")

    def prepare_value(self, result: Any) -> Any:
        """A result as the serializer takes it."""
        if self.serializer != "pickle" and isinstance(result, ResultBase):
            return result.as_tuple()  # type: ignore[attr-defined]  # all results but the bare base have it
        return result

    def encode_result(self, result: Any, state: str) -> Any:
        """A result or exception as the serializer takes it."""
        if state in self.EXCEPTION_STATES and isinstance(result, BaseException):
            return self.prepare_exception(result)
        return self.prepare_value(result)

    def encode(self, data: Any) -> Any:
        """What is stored."""
        _, _, payload = self._encode(data)
        return compress_payload(payload, self.compression) if self.compression else payload

    def _encode(self, data: Any) -> tuple[str, str, Any]:
        encoded: tuple[str, str, Any] = dumps(data, serializer=self.serializer)
        return encoded

    def decode(self, payload: Any) -> Any:
        """The opposite of :meth:`encode`, also for what was stored with another compression."""
        if payload is None:
            return payload
        payload = decompress_payload(payload or str(payload))
        return loads(payload, content_type=self.content_type, content_encoding=self.content_encoding, accept=self.accept)

    def meta_from_decoded(self, meta: dict[str, Any]) -> dict[str, Any]:
        """A decoded document, its result an exception if it is one."""
        if meta["status"] in self.EXCEPTION_STATES:
            meta["result"] = self.exception_to_python(meta["result"])
        return meta

    def decode_result(self, payload: Any) -> dict[str, Any]:
        """A stored document as a mapping."""
        return self.meta_from_decoded(self.decode(payload))

    def _get_result_meta(
        self,
        result: Any,
        state: str,
        traceback: Any,
        request: Any,
        format_date: bool = True,
        encode: bool = False,
    ) -> dict[str, Any]:
        """A document, without its ``task_id``.

        :param format_date: the date as text.
        :param encode: args and kwargs (``result_extended``) as bytes, for backends with columns.
        """
        done = self.app.now() if state in self.READY_STATES else None
        if done is not None and format_date:
            done = done.isoformat()
        extended = bool(self.app.conf.find_value_for_key("extended", "result"))
        children = self.current_task_children(request)
        meta = result_meta(result, state, traceback, request or None, done=done, children=children, extended=extended)
        if encode and extended and request:
            for name in ("args", "kwargs"):
                meta[name] = ensure_bytes(self.encode(meta[name]))
        return meta

    def current_task_children(self, request: Any = None) -> Any:
        """What the task (by default the one that runs here) has sent, as tuples; None when no task runs."""
        return children_of(request or None)

    # Storing.

    def store_result(self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **kwargs: Any) -> Any:
        """Store what became of a task; with ``result_backend_always_retry`` as often as it takes.

        :returns: the result as it was stored.
        """
        result = self.encode_result(result, state)
        self._ensure_retryable(
            self._store_result,
            task_id,
            result,
            state,
            traceback,
            fallback_exc=partial(BackendStoreError, task_id=task_id, state=state),
            fallback_msg="failed to store result on the backend",
            request=request,
            **kwargs,
        )
        return result

    def _store_result(
        self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **kwargs: Any
    ) -> Any:
        raise NotImplementedError("backend does not implement store_result.")

    def forget(self, task_id: str) -> None:
        """Delete what is stored for a task."""
        self._cache.pop(task_id, None)
        self._ensure_retryable(self._forget, task_id)

    def _forget(self, task_id: str) -> None:
        raise NotImplementedError("backend does not implement forget.")

    def _ensure_retryable(
        self, func: Callable[..., Any], *args: Any, fallback_exc: Any = None, fallback_msg: str | None = None, **kwargs: Any
    ) -> Any:
        """Call ``func``; with ``result_backend_always_retry`` again after errors that :meth:`exception_safe_to_retry` knows."""
        limit = kwargs.pop("max_retries", None)
        limit = self.max_retries if limit is None else limit
        retries = 0
        while True:
            try:
                return func(*args, **kwargs)
            except Exception as exc:
                if not self.always_retry or not self.exception_safe_to_retry(exc):
                    raise
                if retries >= limit:
                    if fallback_exc:
                        raise_with_context(fallback_exc(fallback_msg))
                    raise
                retries += 1
                self._before_retry(func, exc, limit - retries)
                self._sleep(
                    get_exponential_backoff_interval(
                        self.base_sleep_between_retries_ms, retries, self.max_sleep_between_retries_ms, True
                    )
                    / 1000
                )

    def _before_retry(self, func: Callable[..., Any], exc: Exception, left: float) -> None:
        logger.warning("Failed operation %s. Retrying %s more times.", getattr(func, "__name__", repr(func)), left, exc_info=exc)
        try:
            self.on_backend_retryable_error(exc)
        except Exception:
            logger.exception("on_backend_retryable_error hook failed; continuing retry loop")

    def _sleep(self, amount: float) -> None:
        time.sleep(amount)

    def exception_safe_to_retry(self, exc: Exception) -> bool:  # noqa: ARG002 - a hook
        """Whether an operation that failed with ``exc`` may be tried again. Subclasses know their errors; none by default."""
        return False

    def on_backend_retryable_error(self, exc: Exception) -> None:
        """Called before an operation is tried again."""

    # Finding.

    def get_task_meta(self, task_id: str, cache: bool = True) -> dict[str, Any]:
        """A task's document; ``{"status": "PENDING", "result": None}`` when there is none. Successes are kept in memory
        (``cache``)."""
        self._ensure_not_eager()
        if cache:
            try:
                found: dict[str, Any] = self._cache[task_id]
                return found
            except KeyError:
                pass
        meta: dict[str, Any] = self._ensure_retryable(
            self._get_task_meta_for,
            task_id,
            fallback_exc=partial(BackendGetMetaError, task_id=task_id),
            fallback_msg="failed to get meta",
        )
        if cache and meta.get("status") == states.SUCCESS:
            self._cache[task_id] = meta
        return meta

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        raise NotImplementedError("backend does not implement get_task_meta.")

    def _ensure_not_eager(self) -> None:
        conf = self.app.conf
        if conf.task_always_eager and not conf.task_store_eager_result:
            warnings.warn(
                "Results are not stored in backend and should not be retrieved when "
                "task_always_eager is enabled, unless task_store_eager_result is enabled.",
                RuntimeWarning,
                stacklevel=2,
            )

    def get_state(self, task_id: str) -> Any:
        """A task's state."""
        return self.get_task_meta(task_id)["status"]

    get_status = get_state

    def get_traceback(self, task_id: str) -> Any:
        """Where a task failed, as text."""
        return self.get_task_meta(task_id).get("traceback")

    def get_result(self, task_id: str) -> Any:
        """What a task returned or raised."""
        return self.get_task_meta(task_id).get("result")

    def get_children(self, task_id: str) -> Any:
        """What a task has sent, as tuples."""
        return self.get_task_meta(task_id).get("children")

    def task_result_exists(self, task_id: str) -> bool:
        """Whether anything is stored for a task."""
        return bool(self._get_task_meta_for(task_id)["status"] != states.PENDING)

    def is_cached(self, task_id: str) -> bool:
        """Whether the task's document is kept in memory."""
        return task_id in self._cache

    def reload_task_result(self, task_id: str) -> None:
        """Fetch the task's document anew."""
        self._cache[task_id] = self.get_task_meta(task_id, cache=False)

    # Groups.

    def save_group(self, group_id: str, result: Any) -> Any:
        """Store which results belong to a group."""
        return self._ensure_retryable(self._save_group, group_id, result)

    def _save_group(self, group_id: str, result: Any) -> Any:
        raise NotImplementedError("backend does not implement save_group.")

    def get_group_meta(self, group_id: str, cache: bool = True) -> Any:
        """A saved group's document, or None."""
        self._ensure_not_eager()
        if cache:
            try:
                return self._cache[group_id]
            except KeyError:
                pass
        meta = self._ensure_retryable(self._restore_group, group_id)
        if cache and meta is not None:
            self._cache[group_id] = meta
        return meta

    def _restore_group(self, group_id: str) -> Any:
        raise NotImplementedError("backend does not implement restore_group.")

    def restore_group(self, group_id: str, cache: bool = True) -> Any:
        """The group that was saved, or None."""
        meta = self.get_group_meta(group_id, cache=cache)
        return meta["result"] if meta else None

    def reload_group_result(self, group_id: str) -> None:
        """Fetch the saved group anew."""
        self._cache[group_id] = self.get_group_meta(group_id, cache=False)

    def delete_group(self, group_id: str) -> Any:
        """Forget which results belong to a group."""
        self._cache.pop(group_id, None)
        return self._ensure_retryable(self._delete_group, group_id)

    def _delete_group(self, group_id: str) -> Any:
        raise NotImplementedError("backend does not implement delete_group.")

    # Chords.

    def ensure_chords_allowed(self) -> None:
        """:raises NotImplementedError: the backend has no chords."""

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        """Say how many parts a chord waits for. Called just before the last task of the header is sent."""

    def apply_chord(self, header_result_args: Any, body: Any, **kwargs: Any) -> None:
        """Called before a chord's header is sent: watch it by the ``celery.chord_unlock`` task, unless a subclass knows better."""
        self.ensure_chords_allowed()
        self.fallback_chord_unlock(self.app.GroupResult(*header_result_args), body, **kwargs)

    def add_to_chord(self, chord_id: str, result: Any) -> None:
        """Let a chord that is under way wait for one more part."""
        raise NotImplementedError("Backend does not support add_to_chord")

    def on_chord_part_return(self, request: Any, state: str, result: Any, **kwargs: Any) -> None:
        """A task of a chord's header is done."""

    def fallback_chord_unlock(self, header_result: Any, body: Any, countdown: float = 1, **kwargs: Any) -> None:
        """Send a task that looks at the header now and then, and sends the body once it is ready. It goes where the body goes."""
        kwargs["result"] = [result.as_tuple() for result in header_result]
        routing = self._body_routing(body, kwargs)
        if "exchange_type" in routing:
            kwargs["_chord_unlock_exchange_type"] = routing["exchange_type"]
        self.app.tasks["celery.chord_unlock"].apply_async((header_result.id, body), kwargs, countdown=countdown, **routing)

    def _body_routing(self, body: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        try:
            task = body.type
        except NotRegistered:
            task = None
        queue = body.options.get("queue", getattr(task, "queue", None))
        if queue is None:
            queue = self.app.amqp.router.route(kwargs, body.name)["queue"].name
        stamps = body.options.get("stamped_headers", ())
        routing = {
            name: body.options[name]
            for name in ("exchange", "exchange_type", "routing_key", "headers")
            if name not in stamps and body.options.get(name) is not None
        }
        if "exchange_type" not in routing:
            with suppress(AttributeError, KeyError):
                routing["exchange_type"] = (self.app.amqp.queues[queue] if isinstance(queue, str) else queue).exchange.type
        priority = body.options.get("priority", getattr(task, "priority", 0))
        return {"queue": queue, "priority": priority, **routing}

    # Other occasions.

    def cleanup(self) -> None:
        """Drop what has expired."""

    def process_cleanup(self) -> None:
        """Called after each task."""

    def on_task_call(self, producer: Any, task_id: str) -> dict[str, Any]:  # noqa: ARG002 - a hook
        """Called before a task is sent; returns properties for its message."""
        return {}

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> tuple[Any, ...]:
        return unpickle_backend, (type(self), args, kwargs or {})


def _without_errbacks(sig: Any, told: Any) -> Any:
    """A copy of a chord's body without the errbacks that were told already. Pure."""
    errbacks = maybe_list((sig or {}).get("options", {}).get("link_error")) or []
    told = maybe_list(told) or []
    left = [errback for errback in errbacks if errback not in told]
    if len(left) == len(errbacks):
        return sig
    copy = sig.clone() if hasattr(sig, "clone") else {**sig, "options": dict(sig["options"])}
    copy["options"]["link_error"] = left
    return copy


def _reporting_tasks(sig: Any) -> Iterator[Any]:
    """The tasks by which a signature in a chord's header would have reported to the chord."""
    sig = maybe_signature(sig)
    if isinstance(sig, group):
        for task in sig.tasks:
            yield from _reporting_tasks(task)
    elif isinstance(sig, _chain):
        if sig.tasks:
            yield from _reporting_tasks(sig.tasks[-1])
    elif isinstance(sig, _chord):
        yield from _reporting_tasks(sig.body)
    elif sig.options.get("chord"):
        yield sig


def _exception_class(module: str | None, name: str, message: Any) -> Callable[..., BaseException]:
    if module is None:
        found: Any = create_exception_cls(name, "celery.backends.base")
    else:
        try:
            # Never imported for this: whoever can write results could else have any module's code run.
            found = _imported(module)
            for part in name.split("."):
                found = getattr(found, part)
        except (KeyError, AttributeError):
            found = create_exception_cls(name, "celery.exceptions")
    # os.system is a name in an imported module, too. It would be called with arguments of the writer's choice.
    if not isinstance(found, type) or not issubclass(found, BaseException):
        shown = name if module is None else f"{module}.{name}"
        raise SecurityError(f"Expected an exception class, got {shown} with payload {message}")
    return found


def _imported(module: str) -> Any:
    # Our errors bear Celery's names, whether or not the alias is installed under which those can be imported.
    ours = OURS + module.removeprefix(CELERYS) if module.split(".", 1)[0] == CELERYS else module
    return sys.modules.get(ours) or sys.modules[module]


class SyncBackendMixin:
    """Waiting by looking again and again."""

    app: Any
    get_task_meta: Callable[..., dict[str, Any]]
    get_many: Callable[..., Any]
    _ensure_not_eager: Callable[[], None]

    def iter_native(
        self,
        result: Any,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Any = None,
        on_interval: Any = None,
    ) -> Iterator[tuple[str, Any]]:
        """Pairs of ``(id, document)`` as they become ready; for a set among the members, its list of results."""
        self._ensure_not_eager()
        task_ids = set()
        for member in result.results:
            if isinstance(member, ResultSet):
                yield member.id, member.results  # type: ignore[attr-defined]  # only groups, which have ids, are members
            else:
                task_ids.add(member.id)
        if task_ids:
            yield from self.get_many(
                task_ids, timeout=timeout, interval=interval, no_ack=no_ack, on_message=on_message, on_interval=on_interval
            )

    def wait_for_pending(
        self,
        result: Any,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Any = None,
        on_interval: Any = None,
        callback: Any = None,
        propagate: bool = True,
    ) -> Any:
        """Wait until the result is ready; its value, raised if it is what the task raised."""
        self._ensure_not_eager()
        if on_message is not None:
            raise ImproperlyConfigured("Backend does not support on_message callback")
        meta = self.wait_for(result.id, timeout=timeout, interval=interval, on_interval=on_interval, no_ack=no_ack)
        if not meta:
            return None
        result._maybe_set_cache(meta)
        return result.maybe_throw(propagate=propagate, callback=callback)

    def wait_for(
        self,
        task_id: str,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,  # noqa: ARG002 - Celery's parameter
        on_interval: Any = None,
    ) -> dict[str, Any]:
        """Wait until the task is ready; its document.

        :raises TimeoutError: after ``timeout`` seconds.
        """
        self._ensure_not_eager()
        waited = 0.0
        while True:
            meta = self.get_task_meta(task_id)
            if meta["status"] in states.READY_STATES:
                return meta
            if on_interval:
                on_interval()
            waited += _nap(interval, timeout, waited, "The operation timed out.")

    def add_pending_result(self, result: Any, weak: bool = False) -> Any:  # noqa: ARG002 - a hook
        """Somebody is going to wait for the result."""
        return result

    def remove_pending_result(self, result: Any) -> Any:
        """Nobody waits for the result any more."""
        return result

    @property
    def is_async(self) -> bool:
        """Whether results arrive by themselves, so that promises on them are fulfilled."""
        return False


def _nap(interval: float, timeout: float | None, waited: float, message: str) -> float:
    """Sleep for ``interval`` seconds, never beyond the timeout; how long it was."""
    if timeout is not None and waited >= timeout:
        raise TimeoutError(message)
    nap = interval if timeout is None else min(interval, timeout - waited)
    time.sleep(nap)
    return nap


class BaseBackend(Backend, SyncBackendMixin):
    """A backend that waits by looking again and again."""


BaseDictBackend = BaseBackend


class BaseKeyValueStoreBackend(Backend):
    """A backend over a store of keys and values. Subclasses provide ``get``, ``set``, ``delete``, ``mget``; with
    ``implements_incr`` also ``incr`` and ``expire``, and then have chords."""

    key_t: Callable[[Any], Any] = ensure_bytes
    task_keyprefix: Any = "celery-task-meta-"
    group_keyprefix: Any = "celery-taskset-meta-"
    chord_keyprefix: Any = "chord-unlock-"
    implements_incr = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.key_t = getattr(self.key_t, "__func__", self.key_t)  # a plain function, not a method
        super().__init__(*args, **kwargs)
        self._chord_expires = self.app.conf.get("result_chord_expires")
        self._add_global_keyprefix()
        self._encode_prefixes()
        if self.implements_incr:
            self.apply_chord = self._apply_chord_incr  # type: ignore[method-assign]  # as in Celery, where tests and subclasses rely on it

    # Keys.

    def _add_global_keyprefix(self) -> None:
        prefix = (self.app.conf.get("result_backend_transport_options") or {}).get("global_keyprefix")
        if prefix:
            if prefix[-1] not in ":_-.":
                prefix += "_"
            self.task_keyprefix = f"{prefix}{self.task_keyprefix}"
            self.group_keyprefix = f"{prefix}{self.group_keyprefix}"
            self.chord_keyprefix = f"{prefix}{self.chord_keyprefix}"

    def _encode_prefixes(self) -> None:
        self.task_keyprefix = self.key_t(self.task_keyprefix)
        self.group_keyprefix = self.key_t(self.group_keyprefix)
        self.chord_keyprefix = self.key_t(self.chord_keyprefix)

    def get_key_for_task(self, task_id: Any, key: Any = "") -> Any:
        """The key of a task's document."""
        return self._get_key_for(self.task_keyprefix, task_id, key, "task_id")

    def get_key_for_group(self, group_id: Any, key: Any = "") -> Any:
        """The key of a group's document."""
        return self._get_key_for(self.group_keyprefix, group_id, key, "group_id")

    def get_key_for_chord(self, group_id: Any, key: Any = "") -> Any:
        """The key of the counter of a chord."""
        return self._get_key_for(self.chord_keyprefix, group_id, key, "group_id")

    def _get_key_for(self, prefix: Any, id: Any, key: Any = "", what: str = "id") -> Any:  # noqa: A002 - Celery's parameter name
        if not id:
            raise ValueError(f"{what} must not be empty. Got {id} instead.")
        key_t = self.key_t
        return key_t("").join([prefix, key_t(str(id) if isinstance(id, UUID) else id), key_t(key)])

    def _strip_prefix(self, key: Any) -> str:
        key = self.key_t(key)
        for prefix in (self.task_keyprefix, self.group_keyprefix):
            if key.startswith(prefix):
                return str(bytes_to_str(key[len(prefix) :]))
        return str(bytes_to_str(key))

    # The store.

    def get(self, key: Any) -> Any:
        """The value of a key, or None."""
        raise NotImplementedError("Must implement the get method.")

    def mget(self, keys: Any) -> Any:
        """The values of keys: a list in their order, or a mapping."""
        raise NotImplementedError("Does not support get_many")

    def set(self, key: Any, value: Any) -> Any:
        """Set the value of a key."""
        raise NotImplementedError("Must implement the set method.")

    def _set_with_state(self, key: Any, value: Any, state: str) -> Any:  # noqa: ARG002 - a hook
        return self.set(key, value)

    def delete(self, key: Any) -> Any:
        """Delete a key."""
        raise NotImplementedError("Must implement the delete method")

    def incr(self, key: Any) -> int:
        """Add one to a key that is a counter; its value."""
        raise NotImplementedError("Does not implement incr")

    def expire(self, key: Any, value: Any) -> Any:
        """Delete the key after ``value`` seconds."""

    @property
    def chord_expires(self) -> Any:
        """Seconds for which the parts of a chord are kept."""
        return self.expires if self._chord_expires is None else self.prepare_expires(self._chord_expires, type=int)

    @property
    def _chord_result_expires(self) -> Any:
        # The results of a header's tasks are read by users as well, hence never shorter than others. 0 means for ever.
        expires = self.chord_expires
        return max(expires, self.expires) if expires and self.expires else 0

    # Documents.

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: Any = None,
        request: Any = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> Any:
        meta = self._get_result_meta(result=result, state=state, traceback=traceback, request=request)
        meta["task_id"] = bytes_to_str(task_id)
        # A worker that was believed lost may report after the one that did its work.
        if self._get_task_meta_for(task_id)["status"] == states.SUCCESS:
            return result
        try:
            self._set_with_state(self.get_key_for_task(task_id), self.encode(meta), state)
        except BackendStoreError as exc:
            raise BackendStoreError(str(exc), state=state, task_id=task_id) from exc
        return result

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        payload = self.get(self.get_key_for_task(task_id))
        return self.decode_result(payload) if payload else {"status": states.PENDING, "result": None}

    def task_result_exists(self, task_id: str) -> bool:
        """Whether anything is stored for a task."""
        return bool(self.get(self.get_key_for_task(task_id)))

    def _forget(self, task_id: str) -> None:
        self.delete(self.get_key_for_task(task_id))

    def _save_group(self, group_id: str, result: Any) -> Any:
        self._set_with_state(self.get_key_for_group(group_id), self.encode({"result": result.as_tuple()}), states.SUCCESS)
        return result

    def _restore_group(self, group_id: str) -> Any:
        payload = self.get(self.get_key_for_group(group_id))
        if not payload:
            return None
        meta = self.decode(payload)
        meta["result"] = result_from_tuple(meta["result"], self.app)
        return meta

    def _delete_group(self, group_id: str) -> None:
        self.delete(self.get_key_for_group(group_id))

    # Many at once.

    def _filter_ready(
        self,
        values: Iterable[tuple[Any, Any]],
        READY_STATES: Any = states.READY_STATES,  # noqa: N803 - Celery's parameter
    ) -> Iterator[tuple[Any, dict[str, Any]]]:
        for key, value in values:
            if value is not None:
                meta = self.decode_result(value)
                if meta["status"] in READY_STATES:
                    yield key, meta

    def _mget_to_results(self, values: Any, keys: list[Any], READY_STATES: Any = states.READY_STATES) -> dict[str, dict[str, Any]]:  # noqa: N803
        if hasattr(values, "items"):
            return {self._strip_prefix(key): meta for key, meta in self._filter_ready(values.items(), READY_STATES)}
        return {bytes_to_str(keys[index]): meta for index, meta in self._filter_ready(enumerate(values), READY_STATES)}

    def get_many(
        self,
        task_ids: Iterable[str],
        timeout: float | None = None,
        interval: float | None = 0.5,
        no_ack: bool = True,  # noqa: ARG002 - Celery's parameter
        on_message: Any = None,
        on_interval: Any = None,
        max_iterations: int | None = None,
        READY_STATES: Any = states.READY_STATES,  # noqa: N803 - Celery's parameter
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Pairs of ``(id, document)`` as they become ready.

        :param max_iterations: how often to look; None until all are ready.
        :raises TimeoutError: after ``timeout`` seconds.
        """
        ids = set(task_ids)
        for task_id in list(ids):
            cached = self._cache.get(task_id)
            if cached is not None and cached["status"] in READY_STATES:
                ids.discard(task_id)
                yield bytes_to_str(task_id), cached
        looks, waited = 0, 0.0
        while ids:
            keys = list(ids)
            found = self._mget_to_results(self.mget([self.get_key_for_task(key) for key in keys]), keys, READY_STATES)
            self._cache.update(found)
            ids.difference_update(found)
            for task_id, meta in found.items():
                if on_message is not None:
                    on_message(meta)
                yield bytes_to_str(task_id), meta
            if not ids:
                return
            if timeout is None or waited < timeout:
                if on_interval:
                    on_interval()
                looks += 1
                if max_iterations and looks >= max_iterations:
                    return
            waited += _nap(0.5 if interval is None else interval, timeout, waited, f"Operation timed out ({timeout})")

    # Chords, by a counter.

    def _apply_chord_incr(self, header_result_args: Any, body: Any, **kwargs: Any) -> None:  # noqa: ARG002 - as apply_chord
        self.ensure_chords_allowed()
        header_result = self.app.GroupResult(*header_result_args)
        header_result.save(backend=self)
        self.expire(self.get_key_for_group(header_result.id), self._chord_result_expires)

    def on_chord_part_return(self, request: Any, state: str, result: Any, **kwargs: Any) -> Any:  # noqa: ARG002 - as Backend
        """Count a task of a chord's header; after the last one, join them and send the body."""
        if not self.implements_incr or not request.group:
            return None
        group_id = request.group
        body = maybe_signature(request.chord, app=self.app)
        try:
            deps = GroupResult.restore(group_id, backend=self)
        except Exception as exc:
            logger.exception("Chord %r raised: %r", group_id, exc)
            return self.chord_error_from_stack(body, ChordError(f"Cannot restore group: {exc!r}"))
        if deps is None:
            logger.error("Chord callback %r: its group's results no longer exist", group_id)
            return self.chord_error_from_stack(body, ChordError(f"GroupResult {group_id} no longer exists"))
        self._count_part(request, body, deps)
        return None

    def _count_part(self, request: Any, body: Any, deps: Any) -> None:
        group_id = request.group
        key = self.get_key_for_chord(group_id)
        count = self.incr(key)
        size = request.chord.get("chord_size")
        size = len(deps) if size is None else size
        if count == size:
            try:
                self._join_and_send(group_id, body, deps)
            finally:
                deps.delete()
                self.delete(key)
                for dep in deps.results:
                    self.expire(self.get_key_for_task(dep.id), self.expires)
            return
        if count > size:
            logger.warning("Chord counter incremented too many times for %r", group_id)
            return
        self.expire(key, self.chord_expires)
        self.expire(self.get_key_for_group(group_id), self._chord_result_expires)
        self.expire(self.get_key_for_task(request.id), self._chord_result_expires)

    def _join_and_send(self, group_id: str, body: Any, deps: Any) -> None:
        join = deps.join_native if deps.supports_native_join else deps.join
        try:
            with allow_join_result():
                values = join(timeout=self.app.conf.result_chord_join_timeout, propagate=True)
        except Exception as exc:
            culprit = next(deps._failed_join_report(), None)
            reason = repr(exc) if culprit is None else f"Dependency {culprit.id} raised {exc!r}"
            logger.exception("Chord %r raised: %r", group_id, reason)
            self.chord_error_from_stack(body, _create_chord_error_with_cause(reason, exc))
            return
        try:
            body.delay(values)
        except Exception as exc:
            logger.exception("Chord %r raised: %r", group_id, exc)
            self.chord_error_from_stack(body, _create_chord_error_with_cause(f"Callback error: {exc!r}", exc))


class KeyValueStoreBackend(BaseKeyValueStoreBackend, SyncBackendMixin):
    """A backend over a store of keys and values that waits by looking again and again."""


class DisabledBackend(BaseBackend):
    """No results: storing does nothing, asking is an error."""

    _cache: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]  # tests reset it

    def store_result(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is stored."""

    def ensure_chords_allowed(self) -> None:
        """:raises NotImplementedError: always; something has to count the tasks of a header."""
        raise NotImplementedError(E_CHORD_NO_BACKEND)

    def as_uri(self, *args: Any, **kwargs: Any) -> str:  # noqa: ARG002 - as Backend
        """``disabled://``."""
        return "disabled://"

    def _is_disabled(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(E_NO_BACKEND)

    get_state = get_status = get_result = get_traceback = get_children = _is_disabled
    get_task_meta = get_task_meta_for = wait_for = get_many = task_result_exists = _is_disabled
    forget = save_group = restore_group = delete_group = _is_disabled


for _cls in (Backend, BaseBackend, BaseKeyValueStoreBackend, KeyValueStoreBackend, DisabledBackend):
    celery_named(_cls)

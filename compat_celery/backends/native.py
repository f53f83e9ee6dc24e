"""The backend over Jumpstarter's results stores. Between: results and canvas (above), ``jumpstarter.abc.results`` (below).

Waits without looking again and again; waits for many results at once; counts chords in the store. Inside
:meth:`NativeBackend.collect`
nothing is stored: documents and parts of chords are gathered for whoever stores them together with something else (a worker's
settle).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, partial
from typing import Any
from weakref import WeakKeyDictionary

from kombu.utils.encoding import bytes_to_str

from compat_celery import states
from compat_celery._names import celery_named
from compat_celery.backends.base import KeyValueStoreBackend
from compat_celery.backends.chords import run_body
from compat_celery.backends.documents import DocumentFormat, chord_part, task_document
from compat_celery.exceptions import TimeoutError  # noqa: A004 - Celery's name
from compat_celery.result import GroupResult, ResultSet
from compat_celery.utils.functional import _regen
from jumpstarter.abc.results import Results
from jumpstarter.errors import ResultsUnavailable
from jumpstarter.jobs import Document, Part
from jumpstarter.results import open_results

__all__ = ("Collected", "NativeBackend")

#: Who overrides one of these wants to be asked for each result; see :func:`~compat_celery.backends.documents.stores_documents`.
_STORING = (
    "_encode",
    "_get_result_meta",
    "_set_with_state",
    "_store_result",
    "encode",
    "encode_result",
    "get_key_for_group",
    "get_key_for_task",
    "mark_as_done",
    "mark_as_failure",
    "mark_as_retry",
    "on_chord_part_return",
    "prepare_exception",
    "prepare_value",
    "set",
    "store_result",
)

#: Seconds between looks at a document that is there and not final (STARTED, RETRY, a progress report): the store's ``wait`` would
#: give it again at once. They grow from the first to the second.
_PAUSE, _LONGEST_PAUSE = 0.005, 0.25

#: One store for each app and address: stores are made for many threads, while Celery makes a backend for each.
_stores: WeakKeyDictionary[Any, dict[Any, Results]] = WeakKeyDictionary()


@dataclass(slots=True)
class Collected:
    """What would have been stored."""

    documents: list[Document] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)


_collected: ContextVar[Collected | None] = ContextVar("collected results", default=None)


@celery_named
class NativeBackend(KeyValueStoreBackend):
    """Results in one of Jumpstarter's stores.

    :param url: where; see :func:`jumpstarter.results.open_results`.
    """

    key_t = bytes_to_str
    supports_native_join = True
    supports_autoexpire = True
    supports_result_compression = True
    supports_failure_expires = True

    def __init__(self, app: Any, url: str | None = None, **kwargs: Any) -> None:
        super().__init__(app, url=url, **kwargs)
        failure = app.conf.get("result_failure_expires")
        self.failure_expires = None if failure is None else self.prepare_expires(failure)

    @cached_property
    def results(self) -> Results:
        """The store. Connects at first use; for all threads, also after a fork."""
        stores = _stores.setdefault(self.app, {})
        options = self._store_options()
        key = (self.url, repr(sorted(options.items())))
        if key not in stores:
            stores[key] = open_results(self._store_url(), **options)
        return stores[key]

    def _store_url(self) -> str:
        return self.url or ""

    def _store_options(self) -> dict[str, Any]:
        """Keyword options for :func:`~jumpstarter.results.open_results`."""
        return {}

    def _form(self) -> DocumentFormat:
        failure_ttl = self.expires if self.failure_expires is None else self.failure_expires
        return DocumentFormat(
            task_prefix=self.task_keyprefix,
            group_prefix=self.group_keyprefix,
            serializer=self.serializer,
            compression=self.compression,
            ttl=self.expires or None,
            failure_ttl=failure_ttl or None,
            chord_ttl=self.chord_expires or None,
            extended=bool(self.app.conf.find_value_for_key("extended", "result")),
            now=partial(datetime.now, self.app.timezone),
            prepare=self.encode_result,
        )

    @cached_property
    def _document_form(self) -> DocumentFormat:
        return self._form()

    @property
    def document_format(self) -> DocumentFormat | None:
        """How documents are written; None when a subclass has a way of its own."""
        return None if self._is_customised else self._document_form

    @cached_property
    def _is_customised(self) -> bool:
        # By either of our names: which one a module was loaded under depends on whether the alias was installed by then.
        ours = ("compat_celery.", "celery.")
        return any(not getattr(getattr(self, name), "__module__", ours[0]).startswith(ours) for name in _STORING)

    # Collecting.

    @contextmanager
    def collect(self) -> Iterator[Collected]:
        """Store nothing in this context: gather documents and parts instead."""
        collected = Collected()
        token = _collected.set(collected)
        try:
            yield collected
        finally:
            _collected.reset(token)

    def _put(self, document: Document) -> None:
        collected = _collected.get()
        if collected is not None:
            collected.documents.append(document)
        else:
            self.results.put([document])

    # Documents.

    def _store_result(
        self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **kwargs: Any
    ) -> Any:
        if self._is_customised:
            return super()._store_result(task_id, result, state, traceback, request, **kwargs)
        # The store itself keeps a SUCCESS from being overwritten, so there is no need to look first.
        self._put(task_document(self, bytes_to_str(task_id), result, state, traceback, request))
        return result

    def get(self, key: str) -> bytes | None:
        """The document under a key, or None."""
        return self.results.get([key])[0]

    def mget(self, keys: Iterable[str]) -> list[bytes | None]:
        """The documents under the keys, in their order."""
        return self.results.get(list(keys))

    def set(self, key: str, value: str | bytes) -> None:
        """Store a document under a key."""
        self._set_with_state(key, value, states.PENDING)

    def _set_with_state(self, key: str, value: str | bytes, state: str) -> None:
        expires = self.failure_expires if state == states.FAILURE and self.failure_expires is not None else self.expires
        body = value.encode() if isinstance(value, str) else bytes(value)
        self._put(Document(key, body, expires or None, final=False))

    def delete(self, key: str) -> None:
        """Delete the document under a key."""
        self.results.delete([key])

    def exception_safe_to_retry(self, exc: Exception) -> bool:
        """When the store could not be reached."""
        return isinstance(exc, ResultsUnavailable)

    # Waiting.

    @property
    def is_async(self) -> bool:
        """True: whoever waits for a set fulfils the promises on its members."""
        return True

    def wait_for_pending(
        self,
        result: Any,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,  # noqa: ARG002 - Celery's parameter
        on_message: Any = None,
        on_interval: Any = None,
        callback: Any = None,
        propagate: bool = True,
    ) -> Any:
        """Wait until the result is ready; its value, raised if it is what the task raised.

        :raises TimeoutError: after ``timeout`` seconds.
        """
        meta = self.wait_for(result.id, timeout=timeout, interval=interval, on_interval=on_interval)
        if not meta:
            return None
        if on_message is not None:
            on_message(meta)
        if on_interval and meta["status"] in states.PROPAGATE_STATES:
            on_interval()  # looks at the parents: what went wrong first is raised, not what came of it
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
        """Wait until the task is ready; its document."""
        self._ensure_not_eager()
        ((_, meta),) = self._arrivals({task_id}, timeout, interval, on_interval)
        return meta

    def iter_native(
        self,
        result: Any,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,  # noqa: ARG002 - Celery's parameter
        on_message: Any = None,
        on_interval: Any = None,
    ) -> Iterator[tuple[str, Any]]:
        """Pairs of ``(id, document)`` as they become ready; for a group among the members, its list of results."""
        self._ensure_not_eager()
        waiting: dict[str, list[Any]] = {}
        for member in result.results:
            if isinstance(member, ResultSet):
                yield member.id, member.results  # type: ignore[attr-defined]  # only groups, which have ids, are members
            else:
                waiting.setdefault(member.id, []).append(member)
        for task_id, meta in self._arrivals(set(waiting), timeout, interval, on_interval):
            if on_message is not None:
                on_message(meta)
            for member in waiting[task_id]:
                member._maybe_set_cache(meta)
            yield task_id, meta

    def _arrivals(
        self, ids: Iterable[str], timeout: float | None, interval: float | None, on_interval: Any
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Pairs of ``(id, document)`` as they become ready, until all are.

        :raises TimeoutError: after ``timeout`` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        pending: dict[str, str] = {}
        for task_id in ids:
            cached = self._cache.get(task_id)
            if cached is not None and cached["status"] in states.READY_STATES:
                yield task_id, cached
            else:
                pending[self.get_key_for_task(task_id)] = task_id
        unready: dict[str, Any] = {}
        pause = _PAUSE
        while pending:
            left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            found = self._ensure_retryable(self._wait_for_any, list(pending), _shorter(left, interval if on_interval else None))
            news = {key: body for key, body in found.items() if unready.get(key) != body}
            for key, body in news.items():
                meta = self.decode_result(body)
                if meta["status"] in states.READY_STATES:
                    task_id = pending.pop(key)
                    self._cache[task_id] = meta
                    yield task_id, meta
                else:
                    unready[key] = body
            if not pending:
                return
            if on_interval:
                on_interval()
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError("The operation timed out.")
            if found:
                pause = _PAUSE if news else min(pause * 2, _LONGEST_PAUSE)
                time.sleep(_shorter(pause, None if deadline is None else max(deadline - time.monotonic(), 0.0)) or 0.0)

    def _wait_for_any(self, keys: Sequence[str], timeout: float | None) -> Mapping[str, Any]:
        """Those documents that are there, by key, once there is any; nothing after ``timeout`` seconds."""
        return self.results.wait(keys, timeout)

    # Chords.

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        """Say how many parts a chord waits for."""
        self._ensure_retryable(self.results.open_join, self.get_key_for_group(group_id), chord_size, self.chord_expires or None)

    def apply_chord(self, header_result_args: Any, body: Any, **kwargs: Any) -> None:  # noqa: ARG002 - as Backend
        """A header with groups in it is saved, so that the body gets lists in its list. Others need nothing."""
        if isinstance(header_result_args[1], _regen):
            return  # would use up the generator
        header_result = self.app.GroupResult(*header_result_args)
        if any(isinstance(member, GroupResult) for member in header_result.results):
            payload = self._document_form.encode({"result": header_result.as_tuple()})
            self._put(Document(self.get_key_for_group(header_result.id), payload, self.chord_expires or None))

    def on_chord_part_return(self, request: Any, state: str, result: Any, **kwargs: Any) -> None:  # noqa: ARG002 - as Backend
        """Count a task of a chord's header; the last one sends the body."""
        part = chord_part(self, request, state, result)
        if part is None:
            return
        collected = _collected.get()
        if collected is not None:
            collected.parts.append(part)
            return
        (bodies,) = self._ensure_retryable(self.results.add_parts, [part])
        if bodies is not None:
            run_body(self, request, bodies)
            self.results.close_join(part.join)

    def _revoke_body(self, result: Any) -> None:
        """Nothing to revoke: the messages of a group go out together or not at all."""

    def add_to_chord(self, chord_id: str, result: Any) -> None:
        """Let a chord that is under way wait for one more part.

        :raises NotImplementedError: only Redis can.
        """
        raise NotImplementedError(f"add_to_chord() needs a result backend on Redis; this one is {self.as_uri()}")

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> tuple[Any, ...]:
        return super().__reduce__(args, {**(kwargs or {}), "expires": self.expires, "url": self.url})


def _shorter(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)

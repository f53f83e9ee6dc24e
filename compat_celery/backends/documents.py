"""Results as documents, and the parts that tasks contribute to chords. Pure. Used by: the tracer (in workers), backends.

A document is what Celery stores under ``celery-task-meta-<id>``: ``status, result, traceback, children, date_done``, then
where known
``group_id`` and ``parent_id``, with ``result_extended`` also ``name, args, kwargs, worker, retries, queue`` and the stamps,
then ``task_id``.
A part is what Celery's Redis backend keeps of each task in a chord's header: ``[1, task id, state, result]``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from kombu.compression import compress, decompress

from compat_celery import _state, protocol, states
from compat_celery.result import ResultBase
from jumpstarter.jobs import Document, Part

__all__ = (
    "COMPRESSED_PAYLOAD_MAGIC",
    "DocumentFormat",
    "chain_failures",
    "children_of",
    "chord_part",
    "compress_payload",
    "decompress_payload",
    "failure_part",
    "later_steps",
    "result_meta",
    "step_request",
    "stores_documents",
    "task_document",
)

#: Begins a compressed document; then come the content type of the compression, a zero byte, and the compressed bytes. No
#: serializer begins
#: its output with a zero byte, so readers know compressed documents from plain ones whatever they are configured to write.
COMPRESSED_PAYLOAD_MAGIC = b"\x00celery-compressed\x00"


def compress_payload(payload: str | bytes, compression: str) -> bytes:
    """Compress an encoded document by a method of kombu's (``gzip``, ``zstd`` …), and mark it."""
    body, content_type = compress(payload, compression)
    return b"".join((COMPRESSED_PAYLOAD_MAGIC, content_type.encode(), b"\x00", body))


def decompress_payload(payload: Any) -> Any:
    """The opposite of :func:`compress_payload`; what is not marked is given back as it is."""
    if isinstance(payload, memoryview):
        payload = payload.tobytes()
    if not isinstance(payload, bytes | bytearray) or not payload.startswith(COMPRESSED_PAYLOAD_MAGIC):
        return payload
    content_type, _, body = payload[len(COMPRESSED_PAYLOAD_MAGIC) :].partition(b"\x00")
    return decompress(body, content_type.decode())


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentFormat:
    """How a backend writes its documents.

    :ivar task_prefix: the key of a task's document is this and the task's id.
    :ivar group_prefix: the key of a group's document, and of the join of its chord, is this and the group's id.
    :ivar serializer: a name that kombu knows.
    :ivar compression: likewise, or None.
    :ivar ttl: seconds for which a document is kept; None for ever.
    :ivar failure_ttl: the same for failures.
    :ivar chord_ttl: the same for the parts of a chord.
    :ivar extended: also store what the call was (``result_extended``).
    :ivar now: the time, aware, in the app's time zone.
    :ivar prepare: a result or exception as the serializer takes it: ``prepare(result, state)``.
    """

    task_prefix: str
    group_prefix: str
    serializer: str
    compression: str | None
    ttl: float | None
    failure_ttl: float | None
    chord_ttl: float | None
    extended: bool
    now: Callable[[], Any]
    prepare: Callable[[Any, str], Any]

    def encode(self, data: Any) -> bytes:
        """The bytes that are stored.

        :raises EncodeError: the serializer cannot take the data.
        """
        body = protocol.encode(data, self.serializer).body
        return compress_payload(body, self.compression) if self.compression else body

    def document(self, task_id: str, result: Any, state: str, traceback: str | None, request: Any) -> Document:
        """See :func:`task_document`."""
        if state in states.EXCEPTION_STATES or isinstance(result, ResultBase):
            result = self.prepare(result, state)
        done = self.now().isoformat() if state in states.READY_STATES else None
        # Most tasks have sent nothing, and then there is no list to make.
        children: list[Any] | None = [] if getattr(request, "_children", _UNKNOWN) is None else children_of(request)
        meta = result_meta(result, state, traceback, request, done=done, children=children, extended=self.extended)
        meta["task_id"] = task_id
        body = protocol.encode(meta, self.serializer).body
        if self.compression:
            body = compress_payload(body, self.compression)
        ttl = self.failure_ttl if state == states.FAILURE else self.ttl
        return Document(self.task_prefix + task_id, body, ttl, state == states.SUCCESS)


_UNKNOWN: Any = object()


def stores_documents(backend: Any) -> bool:
    """True when documents of the backend may be made here and stored by the worker, together with the ack.

    False for backends of third parties, and when somebody has overridden how one of ours stores: then its own methods must be
    called.
    """
    return getattr(backend, "document_format", None) is not None


def task_document(
    backend: Any, task_id: str, result: Any, state: str, traceback: str | None = None, request: Any = None
) -> Document:
    """What became of a task, ready to be stored.

    :param result: what it returned, or the exception that it raised.
    :param traceback: of the exception, as text.
    :param request: the task's request, or None.
    :raises EncodeError: the serializer cannot take the result.
    """
    form: DocumentFormat = backend.document_format
    return form.document(task_id, result, state, traceback, request)


def children_of(request: Any) -> list[Any] | None:
    """What the task (by default the one that runs here) has sent, as tuples; None when no task runs."""
    if request is None:
        request = getattr(_state.get_current_task(), "request", None)
        if request is None:
            return None
    return [child.as_tuple() for child in getattr(request, "children", None) or ()]


def result_meta(
    result: Any, state: str, traceback: Any, request: Any, *, done: Any, children: list[Any] | None, extended: bool
) -> dict[str, Any]:
    """A task's document, without its ``task_id``.

    :param done: when the task was done, or None.
    """
    meta = {"status": state, "result": result, "traceback": traceback, "children": children, "date_done": done}
    if request is None:
        return meta
    group, parent_id = getattr(request, "group", None), getattr(request, "parent_id", None)
    if group:
        meta["group_id"] = group
    if parent_id:
        meta["parent_id"] = parent_id
    if extended:
        meta.update(_call_meta(request))
    return meta


def _call_meta(request: Any) -> dict[str, Any]:
    delivery_info = getattr(request, "delivery_info", None)
    meta = {
        "name": getattr(request, "task", None),
        "args": getattr(request, "args", None),
        "kwargs": getattr(request, "kwargs", None),
        "worker": getattr(request, "hostname", None),
        "retries": getattr(request, "retries", None),
        "queue": delivery_info.get("routing_key") if delivery_info else None,
    }
    stamps = getattr(request, "stamps", None)
    if stamps:
        names = request.stamped_headers
        meta["stamped_headers"] = names
        meta.update((name, value) for name, value in stamps.items() if name in (names or ()))
    return meta


# Chords.


def chord_part(backend: Any, request: Any, state: str, result: Any) -> Part | None:
    """What a task contributes to the chord whose header it belongs to; None when it belongs to no group.

    When the part turns out to be the last one, ``complete(bodies)`` gives the messages to send and the documents to store: the
    body with the list of results, or the body's failure.

    :param request: the task's request; ``request.chord`` is the body.
    """
    if not request.group or not request.id:
        return None
    from compat_celery.backends.chords import complete_chord  # noqa: PLC0415 - canvases, which most tasks do without

    form: DocumentFormat = backend.document_format
    return Part(
        join=form.group_prefix + request.group,
        member=request.id,
        index=request.group_index,
        body=form.encode([1, request.id, state, form.prepare(result, state)]),
        ttl=form.chord_ttl,
        complete=partial(complete_chord, backend, request),
    )


def failure_part(backend: Any, request: Any, state: str, error: BaseException) -> Part | None:
    """As :func:`chord_part`, for a task that failed: when it is a step of a chain in a chord's header, the chain's last step
    reports to the chord, will never run, and so this part speaks for it."""
    if request.chord:
        return chord_part(backend, request, state, error)
    for step in later_steps(backend.app.shelf.later(request.chain)):
        if step.get("options", {}).get("chord"):
            return chord_part(backend, step_request(step), state, error)
    return None


def chain_failures(
    backend: Any, request: Any, error: BaseException, traceback: str | None, state: str = states.FAILURE
) -> list[Document]:
    """The failure of every later step of a failed task's chain: whoever waits for them waits for the chain."""
    if not request.chain:
        return []
    steps = (step_request(step) for step in later_steps(backend.app.shelf.later(request.chain)))
    return [task_document(backend, step.id, error, state, traceback, step) for step in steps if step.id]


def later_steps(chain: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """The steps of a chain that was to go on, as it travels in a message. Where a step is a chord, its body comes after it:
    that is what the steps behind it wait for."""
    pending = deque(chain)
    while pending:
        step = pending.popleft()
        yield step
        if step.get("subtask_type") == "chord":
            body = (step.get("kwargs") or {}).get("body")
            if body is not None:
                pending.append(body)


def step_request(step: dict[str, Any]) -> Any:
    """A request for a step that did not run, with what its signature knows."""
    from compat_celery.app.task import Context  # noqa: PLC0415 - the app imports this

    options = step.get("options") or {}
    request = Context(step)
    request.update(options)
    request.id = options.get("task_id")
    request.group = options.get("group_id")
    request.called_directly = False
    return request

"""A chord whose header is complete: send its body, or let the body fail. Called by: the worker's settle, through ``Part.complete``.

Everything that is to be done is collected and given back, so that the worker does it together with the ack of the last header task.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from compat_celery import _state, states
from compat_celery.canvas import maybe_signature
from compat_celery.exceptions import CanvasExpired, ChordError
from compat_celery.result import GroupResult
from jumpstarter.errors import ResultsUnavailable
from jumpstarter.jobs import Document, Envelope

logger = logging.getLogger("celery.backends.base")


def complete_chord(backend: Any, request: Any, bodies: Sequence[bytes]) -> tuple[list[Envelope], list[Document]]:
    """What there is to do now that all parts are there.

    :param request: the request of the task that brought the last part.
    :param bodies: the parts, in order of their index.
    :returns: the messages to send and the documents to store.
    """
    from compat_celery.app.publisher import capture  # noqa: PLC0415 - the publisher belongs to the app, which imports this

    with capture() as envelopes, backend.collect() as collected:
        run_body(backend, request, bodies)
    # A chord that failed may be a member of another one's header.
    for part in collected.parts:
        (outer,) = backend.results.add_parts([part])
        if outer is not None:
            messages, documents = part.complete(outer)
            envelopes.extend(messages)
            collected.documents.extend(documents)
    return envelopes, collected.documents


def run_body(backend: Any, request: Any, bodies: Sequence[bytes]) -> None:
    """Send the body with the header's results, or, when one of them is a failure, store the body's failure and tell its
    errbacks.

    :raises ResultsUnavailable: the store does not answer; nothing was sent or stored.
    """
    app = backend.app
    try:
        body = maybe_signature(request.chord, app=app)
    except CanvasExpired as expired:
        # Nothing but its id is known any more: whoever waits for it learns why it never comes.
        logger.error("Chord %r: %s", request.group, expired)
        backend.mark_as_failure(request.chord["options"]["task_id"], expired)
        return
    with _on_behalf_of(app, request):
        try:
            values = _in_shape(backend, request.group, _results(backend, bodies))
        except ResultsUnavailable:
            raise  # says nothing about the chord: whoever settles tries again
        except ChordError as exc:
            logger.exception("Chord %r raised: %r", request.group, exc)
            backend.chord_error_from_stack(body, exc)
            return
        except Exception as exc:
            logger.exception("Chord %r raised: %r", request.group, exc)
            backend.chord_error_from_stack(body, chord_error(f"Join error: {exc!r}", exc))
            return
        try:
            body.delay(values)
        except Exception as exc:
            logger.exception("Chord callback for %r raised: %r", request.group, exc)
            backend.chord_error_from_stack(body, chord_error(f"Callback error: {exc!r}", exc))


def chord_error(message: str, cause: Any = None) -> ChordError:
    """A ChordError with this cause, if that is an exception."""
    error = ChordError(message)
    if isinstance(cause, Exception):
        error.__cause__ = cause
    return error


def _results(backend: Any, bodies: Sequence[bytes]) -> list[tuple[str, Any]]:
    """The task ids with their results, in order.

    :raises ChordError: one of them is a failure; the first one is named.
    """
    results = []
    for body in bodies:
        _, task_id, state, value = backend.decode(body)
        if state in states.EXCEPTION_STATES:
            value = backend.exception_to_python(value)
        if state in states.PROPAGATE_STATES:
            raise chord_error(f"Dependency {task_id} raised {value!r}", value)
        results.append((task_id, value))
    return results


def _in_shape(backend: Any, group_id: str, results: list[tuple[str, Any]]) -> list[Any]:
    """The results as the body wants them: a header with groups in it was saved when the chord was sent, and gives nested lists."""
    saved = backend.restore_group(group_id, cache=False)
    if saved is None:
        return [value for _, value in results]
    by_id = dict(results)
    return [_value_of(backend, result, by_id) for result in saved]


def _value_of(backend: Any, result: Any, by_id: dict[str, Any]) -> Any:
    if isinstance(result, GroupResult):
        return [_value_of(backend, member, by_id) for member in result]
    # The last part's document is stored only after this, so what the parts bring comes first.
    return by_id[result.id] if result.id in by_id else backend.get_result(result.id)


@contextmanager
def _on_behalf_of(app: Any, request: Any) -> Iterator[None]:
    """Let the task that brought the last part be the current one, as it is in Celery: the body's parent and, unless it has
    one, root."""
    task = app.tasks.get(request.task) if getattr(request, "task", None) else None
    if task is None or _state.get_current_task() is not None:
        yield
        return
    _state._task_stack.push(task)
    task.request_stack.push(request)
    try:
        yield
    finally:
        task.request_stack.pop()
        _state._task_stack.pop()

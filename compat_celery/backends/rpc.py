"""Results as messages to whoever called: ``rpc://``. Between: results (above), replies and publisher (below).

A worker sends a result to the queue that the call's message names (``reply_to``), with the task's id as ``correlation_id``; in a
worker of ours it leaves together with the ack of the call. Nothing is stored: only the process that called can ask for the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, NoReturn
from weakref import WeakKeyDictionary

from compat_celery import protocol, states
from compat_celery._names import celery_named
from compat_celery._state import get_current_task, task_join_will_block
from compat_celery.app.effects import current
from compat_celery.backends.native import NativeBackend
from compat_celery.backends.replies import Replies
from jumpstarter.errors import BrokerUnavailable
from jumpstarter.jobs import Envelope

__all__ = ("RPCBackend",)

_NO_CHORDS = (
    "The 'rpc' result backend cannot count chords, and a group that is followed by a task is a chord: nothing is stored there. "
    "Use a result backend on Redis, in a database or in memcached."
)
_NO_GROUPS = "The 'rpc' result backend stores nothing, so groups cannot be {} in it: keep the GroupResult, or use another backend."

#: One mailbox for each app; Celery makes a backend for each thread.
_mailboxes: WeakKeyDictionary[Any, Replies] = WeakKeyDictionary()


@celery_named
class RPCBackend(NativeBackend):
    """Results as messages. See :class:`~compat_celery.backends.native.NativeBackend` for how they are waited for."""

    results: ClassVar[None] = None  # type: ignore[assignment]  # there is no store
    document_format = None
    task_keyprefix = ""
    persistent = False

    def __init__(self, app: Any, persistent: bool | None = None, serializer: str | None = None, **kwargs: Any) -> None:
        """Other options of Celery's are accepted: replies come by the app's own broker.

        :param persistent: replies outlive a restart of the server; None: the setting ``result_persistent``.
        """
        kwargs.pop("url", None)
        super().__init__(app, serializer=serializer, **kwargs)
        self.persistent = self.prepare_persistent(persistent)
        self.delivery_mode = 2 if self.persistent else 1

    @cached_property
    def replies(self) -> Replies:
        """The mailbox."""
        if self.app not in _mailboxes:
            _mailboxes[self.app] = Replies(self.app, expires=self.expires or None, accept=self.accept)
        return _mailboxes[self.app]

    @property
    def oid(self) -> str:
        """The queue that gets the replies to this thread's calls."""
        return str(self.app.thread_oid)

    def on_task_call(self, producer: Any, task_id: str) -> dict[str, Any]:  # noqa: ARG002 - a hook
        """Before a call is sent: there has to be a queue for its replies. Not in a task, which must not wait for them."""
        if not task_join_will_block():
            self.replies.listen(self.oid)
        return {}

    # In workers: sending.

    def store_result(self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **kwargs: Any) -> Any:  # noqa: ARG002
        """Send what became of a task to who called it; nothing when nobody wants to know."""
        reply_to, correlation_id = self.destination_for(task_id, request)
        if not reply_to:
            return None
        meta = self._get_result_meta(
            result=self.encode_result(result, state), state=state, traceback=traceback, request=request, format_date=True
        )
        meta["task_id"] = task_id
        payload = protocol.encode(meta, self.serializer)
        envelope = Envelope(
            queue=reply_to,
            body=payload.body,
            headers={},
            properties={"correlation_id": correlation_id, "delivery_mode": self.delivery_mode},
            content_type=payload.content_type,
            content_encoding=payload.content_encoding,
            mandatory=False,
        )
        outcome = current.get()
        if outcome is not None and (state in states.READY_STATES or state == states.RETRY):
            outcome.publish = [*outcome.publish, envelope]
        else:
            with self.app.producer_or_acquire() as producer:
                producer.send([envelope], self.retry_policy)
        return result

    def destination_for(self, task_id: str, request: Any) -> tuple[str | None, str]:
        """The queue of who called the task, and the id under which it knows the call.

        :raises RuntimeError: no task runs, and no request was given.
        """
        if not request:
            task = get_current_task()
            if task is None:
                raise RuntimeError(f"RPC backend missing task request for {task_id!r}")
            request = task.request
        return getattr(request, "reply_to", None), getattr(request, "correlation_id", None) or task_id

    # In clients: receiving.

    def get(self, key: str) -> Any:
        return self._ensure_retryable(self.replies.get, [key])[0]

    def mget(self, keys: Iterable[str]) -> list[Any]:
        return list(self._ensure_retryable(self.replies.get, list(keys)))

    def _wait_for_any(self, keys: Sequence[str], timeout: float | None) -> Mapping[str, Any]:
        return self.replies.wait(keys, timeout)

    def decode_result(self, payload: Any) -> dict[str, Any]:
        """A reply was decoded when it came, whatever its serializer."""
        return self.meta_from_decoded(dict(payload))

    def exception_safe_to_retry(self, exc: Exception) -> bool:
        """When the broker could not be reached."""
        return isinstance(exc, BrokerUnavailable)

    def delete(self, key: str) -> None:
        self.replies.forget(key)

    def reload_task_result(self, task_id: str) -> NoReturn:
        """:raises NotImplementedError: a reply comes once."""
        raise NotImplementedError("The 'rpc' result backend cannot fetch a result again: a reply comes once.")

    # What needs a store.

    def ensure_chords_allowed(self) -> NoReturn:
        """:raises NotImplementedError: always."""
        raise NotImplementedError(_NO_CHORDS)

    def apply_chord(self, header_result_args: Any, body: Any, **kwargs: Any) -> NoReturn:  # noqa: ARG002 - as Backend
        """Before anything of a chord is sent."""
        self.ensure_chords_allowed()

    def set_chord_size(self, group_id: str, chord_size: int) -> NoReturn:  # noqa: ARG002 - as Backend
        """The same."""
        self.ensure_chords_allowed()

    def on_chord_part_return(self, request: Any, state: str, result: Any, **kwargs: Any) -> None:
        """A chord that another app has sent: it counts elsewhere, or never."""

    def _save_group(self, group_id: str, result: Any) -> NoReturn:
        raise NotImplementedError(_NO_GROUPS.format("saved"))

    def _restore_group(self, group_id: str) -> NoReturn:
        raise NotImplementedError(_NO_GROUPS.format("found"))

    def _delete_group(self, group_id: str) -> NoReturn:
        raise NotImplementedError(_NO_GROUPS.format("deleted"))

    def as_uri(self, include_password: bool = True) -> str:  # noqa: ARG002 - as Backend
        """``rpc://``: the broker is the app's."""
        return "rpc://"

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> tuple[Any, ...]:
        more = {"persistent": self.persistent, "serializer": self.serializer}
        return super().__reduce__(args, {**(kwargs or {}), **more})

"""Messages and contexts for unit tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from numbers import Real
from typing import Any
from unittest.mock import Mock

from kombu.serialization import dumps

from compat_celery.utils.ids import uuid

__all__ = ("ContextMock", "TaskMessage", "TaskMessage1", "task_message_from_sig")


def TaskMessage(  # noqa: N802 - Celery's name
    name: str,
    id: str | None = None,  # noqa: A002 - Celery's keyword
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    callbacks: Sequence[Any] | None = None,
    errbacks: Sequence[Any] | None = None,
    chain: Sequence[Any] | None = None,
    shadow: str | None = None,
    utc: bool | None = None,  # noqa: ARG001 - Celery's signature
    **options: Any,
) -> Any:
    """A delivered message in protocol 2; ``options`` become headers."""
    task_id = id or uuid()
    message = Mock(name=f"TaskMessage-{task_id}")
    message.headers = {"id": task_id, "task": name, "shadow": shadow, **options}
    message.payload = (args, kwargs or {}, {"callbacks": callbacks, "errbacks": errbacks, "chain": chain})
    message.content_type, message.content_encoding, message.body = dumps(message.payload, serializer="json")
    return message


def TaskMessage1(  # noqa: N802 - Celery's name
    name: str,
    id: str | None = None,  # noqa: A002 - Celery's keyword
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    callbacks: Sequence[Any] | None = None,
    errbacks: Sequence[Any] | None = None,
    chain: Sequence[Any] | None = None,  # noqa: ARG001 - Celery's signature; protocol 1 has none
    **options: Any,
) -> Any:
    """A delivered message in protocol 1; ``options`` become fields of its body."""
    task_id = id or uuid()
    message = Mock(name=f"TaskMessage-{task_id}")
    message.headers = {}
    message.payload = {
        "task": name,
        "id": task_id,
        "args": args,
        "kwargs": kwargs or {},
        "callbacks": callbacks,
        "errbacks": errbacks,
        **options,
    }
    message.content_type, message.content_encoding, message.body = dumps(message.payload)
    return message


def task_message_from_sig(app: Any, sig: Any, utc: bool = True, TaskMessage: Callable[..., Any] = TaskMessage) -> Any:  # noqa: N803
    """The message that a signature would be delivered as."""
    sig.freeze()
    options = sig.options
    links, errlinks = options.pop("link", None), options.pop("link_error", None)
    countdown, eta = options.pop("countdown", None), options.pop("eta", None)
    expires = options.pop("expires", None)
    if countdown:
        eta = app.now() + timedelta(seconds=countdown)
    if isinstance(expires, Real):
        expires = app.now() + timedelta(seconds=float(expires))
    return TaskMessage(
        sig.task,
        id=sig.id,
        args=sig.args,
        kwargs=sig.kwargs,
        callbacks=[dict(link) for link in links] if links else None,
        errbacks=[dict(link) for link in errlinks] if errlinks else None,
        eta=eta.isoformat() if isinstance(eta, datetime) else eta,
        expires=expires.isoformat() if isinstance(expires, datetime) else expires,
        utc=utc,
        **options,
    )


class _ContextMock(Mock):
    """A mock that ``with`` takes: it looks for these two in the class."""

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass


def ContextMock(*args: Any, **kwargs: Any) -> Any:  # noqa: N802 - Celery's name
    """A mock of a context manager that yields itself and swallows nothing."""
    made: Any = _ContextMock(*args, **kwargs)
    made.attach_mock(_ContextMock(), "__enter__")
    made.attach_mock(_ContextMock(), "__exit__")
    made.__enter__.return_value = made
    made.__exit__.return_value = None
    return made

"""Celery's errors, by Celery's names: peers and pickles find them under ``celery.exceptions``.

::

    Exception
    ├── CeleryError
    │   ├── ImproperlyConfigured
    │   ├── SecurityError
    │   ├── TaskPredicate                 what a task raises to say what shall become of it
    │   │   ├── Ignore
    │   │   ├── Reject
    │   │   └── Retry
    │   └── TaskError
    │       ├── QueueNotFound, NotRegistered      (KeyErrors as well)
    │       ├── IncompleteStream, AlreadyRegistered, TimeoutError, MaxRetriesExceededError
    │       └── TaskRevokedError, InvalidTaskError, ChordError
    ├── BackendError
    │   ├── BackendGetMetaError
    │   └── BackendStoreError
    ├── OperationalError                  kombu's: the broker cannot be reached
    │   └── PublishError                  a call was not published, or nobody knows
    │       ├── NotPublished              nothing was sent
    │       └── PublishUnconfirmed        it was sent, and whether it arrived is unknown
    ├── SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError, Terminated      billiard's
    └── UserWarning
        └── CeleryWarning: AlwaysEagerIgnored, DuplicateNodenameWarning, DuplicateTaskNameWarning, FixupWarning,
            NotConfigured, SecurityWarning
    SystemExit
    └── WorkerTerminate, WorkerShutdown
"""

from __future__ import annotations

from importlib import import_module
from numbers import Number
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from compat_celery._later import kombu_encoding
from compat_celery._names import celery_named
from compat_celery.utils.serialization import get_pickleable_exception

if TYPE_CHECKING:
    from billiard.exceptions import SoftTimeLimitExceeded, Terminated, TimeLimitExceeded, WorkerLostError

    from compat_celery.app.publish_errors import NotPublished, OperationalError, PublishError, PublishUnconfirmed
    from compat_celery.bin._errors import CeleryCommandException

__all__ = (
    "AlreadyRegistered",
    "AlwaysEagerIgnored",
    "BackendError",
    "BackendGetMetaError",
    "BackendStoreError",
    "CDeprecationWarning",
    "CPendingDeprecationWarning",
    "CanvasExpired",
    "CeleryCommandException",
    "CeleryError",
    "CeleryWarning",
    "ChordError",
    "DuplicateNodenameWarning",
    "DuplicateTaskNameWarning",
    "FixupWarning",
    "Ignore",
    "ImproperlyConfigured",
    "IncompleteStream",
    "InvalidTaskError",
    "MaxRetriesExceededError",
    "NotConfigured",
    "NotPublished",
    "NotRegistered",
    "OperationalError",
    "PublishError",
    "PublishUnconfirmed",
    "QueueNotFound",
    "Reject",
    "Retry",
    "SecurityError",
    "SecurityWarning",
    "SoftTimeLimitExceeded",
    "TaskError",
    "TaskPredicate",
    "TaskRevokedError",
    "Terminated",
    "TimeLimitExceeded",
    "TimeoutError",
    "WorkerLostError",
    "WorkerShutdown",
    "WorkerTerminate",
    "reraise",
)

#: Names that are looked up when they are needed, and where: kombu, billiard and click take long to import.
_ORIGINS = {
    **dict.fromkeys(("SoftTimeLimitExceeded", "Terminated", "TimeLimitExceeded", "WorkerLostError"), "billiard.exceptions"),
    **dict.fromkeys(("NotPublished", "OperationalError", "PublishError", "PublishUnconfirmed"), "compat_celery.app.publish_errors"),
    "CeleryCommandException": "compat_celery.bin._errors",
}


def __getattr__(name: str) -> Any:
    if name not in _ORIGINS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_ORIGINS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_ORIGINS})


def reraise(tp: type[BaseException], value: BaseException, tb: TracebackType | None = None) -> NoReturn:  # noqa: ARG001 - Celery's signature
    """Raise ``value`` with this traceback."""
    raise value if value.__traceback__ is tb else value.with_traceback(tb)


@celery_named
class CeleryWarning(UserWarning):
    """Base of all warnings."""


@celery_named
class AlwaysEagerIgnored(CeleryWarning):
    """``send_task`` sends a message, whatever ``task_always_eager`` says."""


@celery_named
class DuplicateNodenameWarning(CeleryWarning):
    """Several workers use one node name."""


@celery_named
class DuplicateTaskNameWarning(CeleryWarning):
    """Several functions are registered under one task name."""


@celery_named
class FixupWarning(CeleryWarning):
    """Something about a fix-up for another framework."""


@celery_named
class NotConfigured(CeleryWarning):
    """There is no configuration module."""


@celery_named
class SecurityWarning(CeleryWarning):
    """Something that may be a security issue."""


@celery_named
class CeleryError(Exception):
    """Base of all errors."""


@celery_named
class TaskPredicate(CeleryError):
    """Base of what a task raises to say what shall become of it."""


@celery_named
class Retry(TaskPredicate):
    """The task runs again later.

    :ivar message: why, in words, or None.
    :ivar exc: the error behind the retry, or None.
    :ivar excs: that error as text, or None.
    :ivar when: seconds from now, or a datetime.
    :ivar is_eager: the task was called by ``apply``, and so must be its retry.
    :ivar sig: the signature that runs it again.
    """

    message: str | None = None
    exc: BaseException | None = None
    when: Any = None

    def __init__(
        self,
        message: str | None = None,
        exc: BaseException | str | None = None,
        when: Any = None,
        is_eager: bool = False,
        sig: Any = None,
        **kwargs: Any,
    ) -> None:
        self.message = message
        self.excs: str | None
        if isinstance(exc, str):
            self.exc, self.excs = None, exc
        else:
            self.exc = get_pickleable_exception(exc)
            self.excs = kombu_encoding.safe_repr(exc) if exc else None
        self.when = when
        self.is_eager = is_eager
        self.sig = sig
        super().__init__(self, exc, when, **kwargs)

    def humanize(self) -> str:
        """When, in words."""
        return f"in {self.when}s" if isinstance(self.when, Number) else f"at {self.when}"

    def __str__(self) -> str:
        if self.message:
            return self.message
        return f"Retry {self.humanize()}: {self.excs}" if self.excs else f"Retry {self.humanize()}"

    def __reduce__(self) -> Any:
        return type(self), (self.message, self.exc, self.when)


RetryTaskError = Retry


@celery_named
class Ignore(TaskPredicate):
    """The task's state stays as it is."""


@celery_named
class Reject(TaskPredicate):
    """The message is rejected; ``requeue`` puts it back to its queue."""

    def __init__(self, reason: Any = None, requeue: bool = False) -> None:
        self.reason = reason
        self.requeue = requeue
        super().__init__(reason, requeue)

    def __repr__(self) -> str:
        return f"reject requeue={self.requeue}: {self.reason}"


@celery_named
class ImproperlyConfigured(CeleryError):
    """A setting that cannot be used."""


@celery_named
class SecurityError(CeleryError):
    """Something that must not be done with what was received."""


@celery_named
class TaskError(CeleryError):
    """Base of errors about tasks."""


@celery_named
class QueueNotFound(KeyError, TaskError):
    """The task is routed to a queue that is not in ``task_queues``."""


@celery_named
class IncompleteStream(TaskError):
    """A stream of data ended before the data was complete."""


@celery_named
class NotRegistered(KeyError, TaskError):
    """There is no task of that name."""

    def __repr__(self) -> str:
        return f"Task of kind {self} never registered, please make sure it's imported."


@celery_named
class AlreadyRegistered(TaskError):
    """There is a task of that name already."""


@celery_named
class TimeoutError(TaskError):  # noqa: A001 - Celery's public name
    """It took too long."""


@celery_named
class MaxRetriesExceededError(TaskError):
    """The task was retried as often as it may be.

    :ivar task_args: the positional arguments it would have been retried with.
    :ivar task_kwargs: the keyword arguments.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.task_args = kwargs.pop("task_args", [])
        self.task_kwargs = kwargs.pop("task_kwargs", {})
        super().__init__(*args, **kwargs)


@celery_named
class TaskRevokedError(TaskError):
    """The task was revoked; there is no result."""


@celery_named
class InvalidTaskError(TaskError):
    """A task or its message is not put together as it must be."""


@celery_named
class ChordError(TaskError):
    """A task of a chord's header failed."""


@celery_named
class CPendingDeprecationWarning(PendingDeprecationWarning):
    """Something will be deprecated."""


@celery_named
class CDeprecationWarning(DeprecationWarning):
    """Something is deprecated."""


@celery_named
class WorkerTerminate(SystemExit):
    """The worker shall end at once."""


SystemTerminate = WorkerTerminate


@celery_named
class WorkerShutdown(SystemExit):
    """The worker shall end when its running tasks are done."""


@celery_named
class CanvasExpired(CeleryError):
    """The rest of a chain, or the body of a chord, is not stored any more, so that what it belongs to cannot go on."""


@celery_named
class BackendError(Exception):
    """Something about the store of results."""


@celery_named
class BackendGetMetaError(BackendError):
    """A result cannot be read."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args)
        self.task_id: str = kwargs.get("task_id", "")

    def __repr__(self) -> str:
        return f"{super().__repr__()} task_id:{self.task_id}"


@celery_named
class BackendStoreError(BackendError):
    """A result cannot be written."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args)
        self.state: str = kwargs.get("state", "")
        self.task_id: str = kwargs.get("task_id", "")

    def __repr__(self) -> str:
        return f"{super().__repr__()} state:{self.state} task_id:{self.task_id}"

"""What a worker knows in this process: which tasks are revoked, what it has run. Used by: worker.application, worker.control.

Celery's module of this name is the consumer's; here each process that runs jobs has one, and the node's own process has one for
what its remote control was told.
"""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

from kombu.utils.functional import maybe_list

from compat_celery.exceptions import ImproperlyConfigured, WorkerShutdown, WorkerTerminate
from compat_celery.utils.collections import LimitedSet

__all__ = (
    "SOFTWARE_INFO",
    "all_total_count",
    "is_revoked",
    "maybe_shutdown",
    "merge_revoked",
    "reset_state",
    "revoke_stamps",
    "revoked",
    "revoked_stamps",
    "successful_requests",
    "total_count",
)


def _number_in(variable: str, default: float) -> float:
    text = os.environ.get(variable)
    try:
        return default if text is None else float(text)
    except ValueError as error:
        raise ImproperlyConfigured(f"the environment variable {variable} must be a number, not {text!r}") from error


#: What workers say of themselves. The first is Celery's: monitors look for it.
SOFTWARE_INFO: Final = {"sw_ident": "py-celery", "sw_ver": "5.7.0", "sw_sys": platform.system()}
#: At most so many revoked ids are kept, the newest, and for so many seconds.
REVOKES_MAX: Final = int(_number_in("CELERY_WORKER_REVOKES_MAX", 50_000))
REVOKE_EXPIRES: Final = _number_in("CELERY_WORKER_REVOKE_EXPIRES", 10_800)
#: The same for the ids of tasks that succeeded.
SUCCESSFUL_MAX: Final = int(_number_in("CELERY_WORKER_SUCCESSFUL_MAX", 1000))
SUCCESSFUL_EXPIRES: Final = _number_in("CELERY_WORKER_SUCCESSFUL_EXPIRES", 10_800)

#: Tasks that have ended here, by name; and their number, in a list as Celery has it.
total_count: Counter[str] = Counter()
all_total_count: list[int] = [0]
#: The ids of tasks that succeeded, where somebody wants to know (workers in tests).
successful_requests = LimitedSet(maxlen=SUCCESSFUL_MAX, expires=SUCCESSFUL_EXPIRES)
#: The ids that must not start any more.
revoked = LimitedSet(maxlen=REVOKES_MAX, expires=REVOKE_EXPIRES)
#: By stamped header: the values whose tasks must not start any more.
revoked_stamps: dict[str, list[Any]] = {}

#: Set by those who want this worker to end: an exit code, or None.
should_stop: int | None = None
should_terminate: int | None = None


def merge_revoked(ids: Iterable[str] | None) -> None:
    """Add ids that were revoked elsewhere. What they say about the time is left aside: clocks differ."""
    if ids:
        revoked.update(list(ids))


def revoke_stamps(headers: Mapping[str, Any]) -> None:
    """Revoke every task that is stamped with one of these values (one or a list) under one of these headers."""
    for header, stamps in headers.items():
        revoked_stamps[header] = [*revoked_stamps.get(header, ()), *maybe_list(stamps)]


def is_revoked(task_id: str, stamps: Mapping[str, Any] | None) -> bool:
    """Whether a task with this id and these stamps must not start."""
    if task_id in revoked:
        return True
    return bool(stamps) and has_stamp(stamps or {}, revoked_stamps)


def has_stamp(stamps: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether one of the ``wanted`` values (one or a list) stands under its header. Pure."""
    for header, values in wanted.items():
        mine = maybe_list(stamps.get(header)) or []
        # Compared one by one: stamps may be of any JSON type, also of such that cannot be hashed.
        if any(stamp in (maybe_list(values) or []) for stamp in mine):
            return True
    return False


def reset_state() -> None:
    """Forget everything."""
    total_count.clear()
    all_total_count[:] = [0]
    successful_requests.clear()
    revoked.clear()
    revoked_stamps.clear()


def maybe_shutdown() -> None:
    """Raise what somebody asked for by :data:`should_stop` or :data:`should_terminate`.

    :raises WorkerTerminate: at once.
    :raises WorkerShutdown: when what runs is done.
    """
    if should_terminate is not None and should_terminate is not False:
        raise WorkerTerminate(should_terminate)
    if should_stop is not None and should_stop is not False:
        raise WorkerShutdown(should_stop)

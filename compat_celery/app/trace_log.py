"""How the end of a task is logged, and what its exception keeps alive afterwards. Used by: trace."""

from __future__ import annotations

import logging
import sys
import warnings
from contextlib import suppress
from typing import Any, NamedTuple

from billiard.einfo import ExceptionInfo

from compat_celery.exceptions import Ignore, Reject

__all__ = (
    "get_log_policy",
    "get_task_name",
    "log_policy_expected",
    "log_policy_ignore",
    "log_policy_internal",
    "log_policy_reject",
    "log_policy_t",
    "log_policy_unexpected",
    "report_internal_error",
    "traceback_clear",
)


class log_policy_t(NamedTuple):  # noqa: N801 - Celery's name
    """How one kind of end is logged: the format, in words, how severe, and whether with a traceback."""

    format: str
    description: str
    severity: int
    traceback: int
    mail: int


_FAILURE = "Task %(name)s[%(id)s] %(description)s: %(exc)s"

log_policy_reject = log_policy_t("Task %(name)s[%(id)s] %(exc)s", "rejected", logging.WARNING, 1, 1)
log_policy_ignore = log_policy_t("Task %(name)s[%(id)s] %(description)s", "ignored", logging.INFO, 0, 0)
log_policy_internal = log_policy_t(_FAILURE, "INTERNAL ERROR", logging.CRITICAL, 1, 1)
log_policy_expected = log_policy_t(_FAILURE, "raised expected", logging.INFO, 0, 0)
log_policy_unexpected = log_policy_t(_FAILURE, "raised unexpected", logging.ERROR, 1, 1)


def get_log_policy(task: Any, einfo: Any, exc: BaseException) -> log_policy_t:
    """How the end of a task by this exception is logged."""
    match exc:
        case Reject():
            return log_policy_reject
        case Ignore():
            return log_policy_ignore
    if getattr(einfo, "internal", False):
        return log_policy_internal
    return log_policy_expected if task.throws and isinstance(exc, task.throws) else log_policy_unexpected


def get_task_name(request: Any, default: str) -> str:
    """The name that logs show: the request's ``shadow``, if it has one."""
    return getattr(request, "shadow", None) or default


def traceback_clear(exc: Any = None) -> None:
    """Forget the local variables of the frames that an exception went through (default: the one being handled).

    An exception is kept longer than what it happened in (by results, by who waits), and would keep all of that alive.
    """
    trace = getattr(exc, "__traceback__", None) if isinstance(exc, BaseException) else sys.exc_info()[2]
    while trace is not None:
        with suppress(RuntimeError):  # a frame that still runs
            trace.tb_frame.clear()
        trace = trace.tb_next


def report_internal_error(task: Any, exc: Exception) -> ExceptionInfo:
    """What a tracer returns when not the task failed but what surrounds it; also warns about it."""
    kind, _, trace = sys.exc_info()
    try:
        error = task.backend.prepare_exception(exc, "pickle")
        info = ExceptionInfo((kind or type(exc), error, trace), internal=True)
        warnings.warn(f"Exception raised outside body: {exc!r}:\n{info.traceback}", RuntimeWarning, stacklevel=2)
        return info
    finally:
        del trace

"""Tasks that retry themselves on certain errors (``autoretry_for``). Comes from: app.base, registry. Goes to: ``Task.retry``."""

from __future__ import annotations

import functools
from typing import Any

from compat_celery.exceptions import Ignore, Retry
from compat_celery.utils.functional import is_coroutine_function
from compat_celery.utils.time import get_exponential_backoff_interval

__all__ = ("add_autoretry_behaviour",)


def add_autoretry_behaviour(task: Any, **options: Any) -> None:
    """Wrap the task's ``run`` so that errors in ``autoretry_for`` retry it. Options come before the task's own."""

    def option(name: str, default: Any) -> Any:
        return options.get(name, getattr(task, name, default))

    retries_on = tuple(option("autoretry_for", ()))
    if not retries_on or hasattr(task, "_orig_run"):
        return
    # Ignore and Retry say what shall become of the task; they are no errors, even for who retries on Exception.
    passes = (Ignore, Retry, *option("dont_autoretry_for", ()))
    again = functools.partial(
        _retry,
        task,
        option("retry_kwargs", {}),
        float(option("retry_backoff", False)),
        int(option("retry_backoff_max", 600)),
        option("retry_jitter", True),
    )
    original = task.run
    if is_coroutine_function(original):

        @functools.wraps(original)
        async def run(*args: Any, **kwargs: Any) -> Any:
            try:
                return await task._orig_run(*args, **kwargs)
            except passes:
                raise
            except retries_on as error:
                raise again(error) from error
    else:

        @functools.wraps(original)
        def run(*args: Any, **kwargs: Any) -> Any:
            try:
                return task._orig_run(*args, **kwargs)
            except passes:
                raise
            except retries_on as error:
                raise again(error) from error

    task._orig_run, task.run = original, run


def _retry(
    task: Any, retry_kwargs: dict[str, Any], backoff: float, longest: int, jitter: bool, error: BaseException
) -> BaseException:
    """Retry the task after the error, and give what is to be raised."""
    if getattr(error, "__jumpstarter_poisonous__", False):  # see compat_celery.sections
        raise error
    arguments = dict(retry_kwargs)
    if backoff:
        arguments["countdown"] = get_exponential_backoff_interval(
            factor=int(max(1.0, backoff)), retries=task.request.retries, maximum=longest, full_jitter=jitter
        )
    # A task may have said so in the attempt that failed just now: task.retry(max_retries=…) leaves it on the task.
    if hasattr(task, "override_max_retries"):
        arguments["max_retries"] = task.override_max_retries
    outcome: BaseException = task.retry(exc=error, **arguments)
    if hasattr(task, "override_max_retries"):
        del task.override_max_retries
    return outcome

"""More than Celery has: sections of a task with a rule of their own for failures, and canvases that are retried as a whole.

::

    @app.task
    def import_order(url):
        with retry(ConnectionError, times=5, delay=2):    # runs the task again, later
            raw = download(url)
        with poisonous():                                 # a broken order stays broken: fail, and never retry
            order = parse(raw)
        save(order)
        with optional(SMTPException):                     # nice to have: the task goes on without
            send_mail(order)

    retried(chain(fetch.s(url), parse.s(), save.s()), times=3, delay=60).delay()

What raises Retry, Ignore or Reject in a section has its way; time limits and revocations end the task in any of them. Comes from:
user code. Goes to: ``Task.retry``, canvas.
"""

from __future__ import annotations

import contextlib
import logging
import random
from types import TracebackType
from typing import Any, Literal, Self

from billiard.exceptions import SoftTimeLimitExceeded

from compat_celery._state import current_app, get_current_task
from compat_celery.app import shared_task
from compat_celery.canvas import _chain, _chord, group, maybe_signature
from compat_celery.exceptions import Ignore, Reject, Retry

__all__ = ("is_poisonous", "optional", "poisonous", "retried", "retry")

logger = logging.getLogger("celery.app.task")

#: These say what shall become of the task, or are not the section's fault.
_NO_FAILURES = (Ignore, Reject, Retry, SoftTimeLimitExceeded)
_MARK = "__jumpstarter_poisonous__"

ErrorType = type[Exception]


def is_poisonous(error: BaseException) -> bool:
    """Whether the error left a section that says that its task is not to be retried for it."""
    return getattr(error, _MARK, False) is True


class _Section:
    """A ``with`` block that does something about some errors. One object may guard many blocks, one after the other."""

    def __init__(self, *errors: ErrorType) -> None:
        wrong = [error for error in errors if not (isinstance(error, type) and issubclass(error, Exception))]
        if wrong:
            raise TypeError(f"{type(self).__name__}() takes classes of exceptions, not {wrong[0]!r}")
        self._errors = errors or (Exception,)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> bool:
        if not isinstance(error, self._errors) or isinstance(error, _NO_FAILURES):
            return False
        return self._failed(error)

    def _failed(self, error: Exception) -> bool:
        """What to do about the error; True when it is done with."""
        raise NotImplementedError


class poisonous(_Section):  # noqa: N801 - reads as a statement
    """``with poisonous(*errors):`` an error in the block fails the task for good: it is not retried, whatever ``autoretry_for`` and
    sections around it say.

    :param errors: classes of exceptions; by default all.
    """

    def _failed(self, error: Exception) -> bool:
        setattr(error, _MARK, True)
        return False


class optional(_Section):  # noqa: N801 - reads as a statement
    """``with optional(*errors):`` an error in the block is logged, and the task goes on behind the block.

    :param errors: classes of exceptions; by default all. What a ``poisonous`` block inside raised is not ignored.
    :ivar error: of ``with optional() as section:``, the error that was ignored, or None.
    """

    def __init__(self, *errors: ErrorType) -> None:
        super().__init__(*errors)
        self.error: Exception | None = None

    def __enter__(self) -> Self:
        self.error = None
        return self

    def _failed(self, error: Exception) -> bool:
        if is_poisonous(error):
            return False
        self.error = error
        task = get_current_task()
        about = f"{task.name}[{task.request.id}]" if task is not None else "(no task)"
        logger.warning("Task %s goes on without an optional section: %r", about, error, exc_info=error)
        return True


class retry(_Section):  # noqa: N801 - reads as a statement
    """``with retry(*errors, times=3, delay=1.0):`` an error in the block runs the task again, later, what came before the block
    included. Outside of a task, and when the task has been retried so often, the error is raised.

    :param errors: classes of exceptions; by default all.
    :param times: how often the task is retried at most, whatever its own ``max_retries`` and for whatever reason it was retried.
    :param delay: seconds before the first retry; each further one waits twice as long.
    :param longest: seconds that one waits at most.
    :param jitter: wait for a random part of that, so that tasks that failed together do not come back together.
    """

    def __init__(self, *errors: ErrorType, times: int = 3, delay: float = 1.0, longest: float = 600.0, jitter: bool = True) -> None:
        super().__init__(*errors)
        if not (isinstance(times, int) and times > 0 and delay >= 0 and longest >= 0):
            raise ValueError(f"retry() takes times > 0 and seconds >= 0, not {times=}, {delay=}, {longest=}")
        self._times = times
        self._delay = delay
        self._longest = longest
        self._jitter = jitter

    def wait_before(self, retries: int) -> float:
        """Seconds before the next attempt, when there were so many retries."""
        wait = min(self._longest, self._delay * 2.0 ** min(retries, 64))
        return random.uniform(0, wait) if self._jitter else wait  # noqa: S311 - spreads load

    def _failed(self, error: Exception) -> bool:
        task = get_current_task()
        if task is None or task.request.called_directly or is_poisonous(error):
            return False
        retries = task.request.retries
        if retries >= self._times:
            setattr(error, _MARK, True)  # enough: no autoretry_for begins anew
            return False
        before = vars(task).get("override_max_retries")
        try:
            raise task.retry(exc=error, countdown=self.wait_before(retries), max_retries=self._times, throw=False) from error
        finally:
            # Task.retry leaves its limit on the task for the next attempt; a section says its own.
            vars(task).pop("override_max_retries", None)
            if before is not None:
                task.override_max_retries = before


# Whole canvases.


def retried(canvas: Any, *, times: int = 3, delay: float = 0.0) -> Any:
    """A signature that runs a canvas, and all of it again when a task in it fails.

    It is one call like others: its result is the canvas's, it can be a step of a chain or a member of a group or chord, takes what
    comes from the step before, and has callbacks and errbacks. It fails, with the canvas's error, after the last attempt.

    :param canvas: a chain, group, chord or single call; the result of a group is the list of its results.
    :param times: how often it is run again at most.
    :param delay: seconds before it is.
    """
    if not (isinstance(times, int) and times > 0 and delay >= 0):
        raise ValueError(f"retried() takes times > 0 and delay >= 0 seconds, not {times=}, {delay=}")
    return _run_canvas.s(canvas=canvas, left=times, delay=delay)


Phase = Literal["start", "done", "failed"]


@shared_task(bind=True, name="jumpstarter.retried", max_retries=None)  # type: ignore[untyped-decorator] # gives any app's task
def _run_canvas(
    self: Any, *given: Any, canvas: Any, left: int, delay: float, phase: Phase = "start", failed: str | None = None
) -> Any:
    """Start a canvas; come back, with the same id and so in the same place, when it is done or has failed.

    :param given: what the canvas is called with; when it is done, its result.
    :param failed: the id of the task that has failed.
    """
    if self.request.is_eager:
        return _run_here(maybe_signature(canvas, app=self.app), given, left)
    match phase:
        case "done":
            return given[0]
        case "failed" if not left:
            raise _error_of(self.AsyncResult(failed))
        case "failed":
            _send(self, canvas, given, left - 1, delay, countdown=delay)
        case "start":
            _send(self, canvas, given, left, delay)
    raise Ignore("a canvas runs in its place")


@shared_task(name="jumpstarter.retried_failed", ignore_result=True)  # type: ignore[untyped-decorator] # as above
def _canvas_failed(task_id: str, *, home: Any) -> None:
    """Call the task that started a canvas back. A task of its own, since errbacks are sent as a group, which would give the other
    one a new place in its own group."""
    from compat_celery.app.effects import deferred  # noqa: PLC0415 - it imports the publisher, which clients may do without

    call = maybe_signature(home, app=current_app)
    call.kwargs["failed"] = task_id
    with deferred():
        call.apply_async()


def _error_of(result: Any) -> BaseException:
    """What a task failed with; where its result is not stored, that it did."""
    error = None
    with contextlib.suppress(NotImplementedError):  # results are disabled
        error = result.result
    return error if isinstance(error, BaseException) else RuntimeError(f"task {result.id} failed; its error was not stored")


def _run_here(canvas: Any, given: Any, left: int) -> Any:
    while True:
        try:
            return canvas.apply(given).get()
        except Exception:
            if not left:
                raise
            left -= 1


def _send(task: Any, canvas: Any, given: Any, left: int, delay: float, **options: Any) -> None:
    from compat_celery.app.effects import deferred  # noqa: PLC0415 - as above

    app = task.app
    # A copy: the canvas itself comes back for the next attempt, without what is linked to it here.
    one_end = _with_one_end(maybe_signature(canvas, app=app).clone(), app)

    def home(phase: Phase, args: Any, canvas: Any) -> Any:
        kwargs = {"canvas": canvas, "left": left, "delay": delay, "phase": phase}
        return task.signature_from_request(task.request, args, kwargs)

    # Each step carries the errback, and the errback all that a further attempt needs.
    copies = len(one_end.tasks) if isinstance(one_end, _chain) else 1
    _link_failure(one_end, _canvas_failed.s(home=app.shelf.body(home("failed", tuple(given), canvas), copies, {})))
    with deferred():
        one_end.apply_async(tuple(given), link=home("done", (), None), **options)


def _with_one_end(canvas: Any, app: Any) -> Any:
    """A group as a chord that collects its results: callbacks need one task to hang on."""
    collect = app.tasks["celery.accumulate"]
    ends_in_group = isinstance(canvas, group) or (isinstance(canvas, _chain) and isinstance(canvas.tasks[-1], group))
    return canvas | collect.s(index=0) if ends_in_group else canvas


def _link_failure(canvas: Any, errback: Any) -> None:
    """Call ``errback`` once when the canvas fails: by the step that does, or the body of a chord whose header does."""
    if isinstance(canvas, _chain):
        for step in canvas.tasks:
            _link_failure(step, errback)
    elif isinstance(canvas, _chord):
        _link_failure(canvas.body, errback)
    else:
        canvas.link_error(errback.clone())

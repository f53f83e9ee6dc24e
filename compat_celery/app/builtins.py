"""The tasks that every app has. Comes from: ``app.finalize``. Goes to: canvas, backends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from compat_celery._state import connect_on_app_finalize
from compat_celery.utils.log import get_logger

__all__ = ()

logger = get_logger(__name__)

F = TypeVar("F", bound=Callable[..., Any])


def _task(app: Any, **options: Any) -> Callable[[F], F]:
    """The decorator of the app; type checkers learn what it decorates."""
    return app.task(shared=False, lazy=False, **options)  # type: ignore[no-any-return] # any app's


@connect_on_app_finalize
def add_backend_cleanup_task(app: Any) -> Any:
    """``celery.backend_cleanup``: removes expired results, for backends that do not do so themselves. Beat calls it at four."""

    @_task(app, name="celery.backend_cleanup")
    def backend_cleanup() -> None:
        app.backend.cleanup()

    return backend_cleanup


@connect_on_app_finalize
def add_accumulate_task(app: Any) -> Any:
    """``celery.accumulate``: gives its arguments back; the body of a chord that ``Task.replace`` makes of a group."""

    @_task(app, bind=True, name="celery.accumulate")
    def accumulate(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ARG001 - bound, as Celery's is
        index = kwargs.get("index")
        return args if index is None else args[index]

    return accumulate


@connect_on_app_finalize
def add_unlock_chord_task(app: Any) -> Any:
    """``celery.chord_unlock``: looks again and again whether a chord's header is done. For backends that cannot count its parts."""

    @_task(
        app,
        name="celery.chord_unlock",
        max_retries=None,
        default_retry_delay=app.conf.result_chord_retry_interval,
        ignore_result=True,
        bind=True,
    )
    def unlock_chord(
        self: Any,
        group_id: str,
        callback: Any,
        interval: float | None = None,
        max_retries: int | None = None,
        result: Any = None,
        _chord_unlock_exchange_type: str | None = None,
        GroupResult: Any = None,  # noqa: N803 - as in Celery: the class, for tests and programs with their own
        result_from_tuple: Any = None,
        **_: Any,
    ) -> None:
        from compat_celery import result as results  # noqa: PLC0415 - it imports the app

        read = result_from_tuple or results.result_from_tuple
        parts = (GroupResult or app.GroupResult)(group_id, [read(item, app=app) for item in result], app=app)
        body = app.signature(callback)
        # delivery_info does not know the type of the exchange.
        options: dict[str, Any] = {"exchange_type": _chord_unlock_exchange_type} if _chord_unlock_exchange_type else {}
        options["max_retries"] = max_retries
        options["countdown"] = self.default_retry_delay if interval is None else interval
        if _all_ready(self, parts, body, group_id, options):
            _run_body(app, parts, body, group_id)

    return unlock_chord


def _all_ready(task: Any, parts: Any, body: Any, group_id: str, options: dict[str, Any]) -> bool:
    """Whether the header is done; retries the task if not. When that is not possible, the chord fails."""
    from compat_celery.exceptions import Retry  # noqa: PLC0415 - the app imports this module early

    failure = None
    try:
        try:
            if parts.ready():
                return True
        except Exception as error:
            failure = error
            raise task.retry(exc=error, **options) from error
        raise task.retry(**options)
    except Retry:
        raise
    except Exception as error:
        logger.exception("Chord %r: chord_unlock could not be retried: %r", group_id, error)
        cause = getattr(error, "reason", None) or error
        reason = f"chord_unlock could not be retried: {cause!r}"
        if failure is not None and failure is not cause:
            reason += f" (after deps.ready() raised {failure!r})"
        _fail_chord(task.app, body, reason, cause)
        raise


def _run_body(app: Any, parts: Any, body: Any, group_id: str) -> None:
    from compat_celery.result import allow_join_result  # noqa: PLC0415 - it imports the app

    join = parts.join_native if parts.supports_native_join else parts.join
    try:
        with allow_join_result():
            values = join(timeout=app.conf.result_chord_join_timeout, propagate=True)
    except Exception as error:
        culprit = next(parts._failed_join_report(), None)
        logger.exception("Chord %r raised: %r", group_id, error)
        _fail_chord(app, body, repr(error) if culprit is None else f"Dependency {culprit.id} raised {error!r}", error)
        return
    try:
        body.delay(values)
    except Exception as error:
        logger.exception("Chord %r raised: %r", group_id, error)
        _fail_chord(app, body, f"Callback error: {error!r}", error)


def _fail_chord(app: Any, body: Any, reason: str, cause: BaseException) -> None:
    from compat_celery.exceptions import ChordError  # noqa: PLC0415 - as above

    failure = ChordError(reason)
    failure.__cause__ = cause
    app.backend.chord_error_from_stack(callback=body, exc=failure)


@connect_on_app_finalize
def add_map_task(app: Any) -> Any:
    """``celery.map``: calls a task with each item of a list."""

    @_task(app, name="celery.map")
    def xmap(task: Any, it: Any) -> Any:
        call = app.signature(task).type
        return [call(item) for item in it]

    return xmap


@connect_on_app_finalize
def add_starmap_task(app: Any) -> Any:
    """``celery.starmap``: calls a task with the arguments in each item of a list."""

    @_task(app, name="celery.starmap")
    def xstarmap(task: Any, it: Any) -> Any:
        call = app.signature(task).type
        return [call(*item) for item in it]

    return xstarmap


@connect_on_app_finalize
def add_chunk_task(app: Any) -> Any:
    """``celery.chunks``: a starmap for each part of a list."""

    @_task(app, name="celery.chunks")
    def chunks(task: Any, it: Any, n: int) -> Any:
        from compat_celery.canvas import chunks as canvas_chunks  # noqa: PLC0415 - it imports the app

        return canvas_chunks.apply_chunks(task, it, n)

    return chunks


@connect_on_app_finalize
def add_group_task(app: Any) -> Any:
    """``celery.group``: a group that an old client sent as a task."""

    @_task(app, name="celery.group", bind=True)
    def group(self: Any, tasks: Any, result: Any, group_id: str, partial_args: Any, add_to_parent: bool = True) -> Any:  # noqa: ARG001 - bound
        from compat_celery.result import result_from_tuple  # noqa: PLC0415 - it imports the app

        found = result_from_tuple(result, app)
        with app.bulk_publish():
            for task in tasks:
                app.signature(task).clone(partial_args).apply_async(group_id=group_id, add_to_parent=False)
        parent = app.current_worker_task
        if add_to_parent and parent:
            parent.add_trail(found)
        return found

    return group


@connect_on_app_finalize
def add_chain_task(app: Any) -> Any:
    """``celery.chain``: the name that chains have; never a message's task."""

    @_task(app, name="celery.chain")
    def chain(*_: Any, **__: Any) -> None:
        raise NotImplementedError("chain is not a real task")

    return chain


@connect_on_app_finalize
def add_chord_task(app: Any) -> Any:
    """``celery.chord``: a chord that an old client sent as a task."""

    @_task(app, name="celery.chord", bind=True, ignore_result=False)
    def chord(
        self: Any,  # noqa: ARG001 - bound, as Celery's is
        header: Any,
        body: Any,
        partial_args: Any = (),
        interval: float | None = None,
        countdown: float = 1,
        max_retries: int | None = None,
        eager: bool = False,  # noqa: ARG001 - old clients send it
        **kwargs: Any,
    ) -> Any:
        from compat_celery.canvas import chord as canvas_chord  # noqa: PLC0415 - it imports the app
        from compat_celery.canvas import group  # noqa: PLC0415 - as above

        tasks = header.tasks if isinstance(header, group) else header
        found = group([app.signature(task) for task in tasks], app=app)
        callback = app.signature(body)
        made = canvas_chord(found, callback, app=app)
        return made.run(found, callback, partial_args, app, interval, countdown, max_retries, **kwargs)

    return chord

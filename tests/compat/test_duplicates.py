"""The setting worker_deduplicate_successful_tasks, and what agents and pools find in app.trace."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from compat_celery import Celery, signals, states
from compat_celery.app import trace
from compat_celery.exceptions import Ignore, Reject
from compat_celery.worker.state import successful_requests


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery(
        "duplicates",
        broker="memory://duplicates",
        backend="cache+memory://duplicates",
        set_as_current=False,
        worker_deduplicate_successful_tasks=True,
        task_store_eager_result=True,
    )
    successful_requests.clear()
    yield app
    successful_requests.clear()
    app.close()


#: The message's id, a new one for each test: results in memory live as long as the process.
ID = ""


@pytest.fixture(autouse=True)
def new_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.ID", uuid4().hex)


def run(task: Any, **request: Any) -> Any:
    tracer = trace.build_tracer(task.name, task, app=task.app, eager=True)
    return tracer(ID, (), {}, {"id": ID, "delivery_info": {"redelivered": True}, **request})


@pytest.mark.parametrize(("acks_late", "times"), [(True, 1), (False, 2)])
def test_a_message_that_comes_again_does_not_run_again_once_it_has_succeeded(app: Celery, acks_late: bool, times: int) -> None:
    runs = []
    task = app.task(lambda: runs.append(1), name="count", acks_late=acks_late, shared=False)
    run(task)
    run(task)
    successful_requests.clear()  # as after a restart: the backend knows
    run(task)
    assert len(runs) == (1 if times == 1 else 3)


def test_what_failed_runs_again(app: Celery) -> None:
    runs = []

    @app.task(acks_late=True, shared=False)
    def fail() -> None:
        runs.append(1)
        raise ValueError("no")

    assert [run(fail).info.state for _ in range(2)] == [states.FAILURE] * 2
    assert len(runs) == 2


def test_follow_ups_that_were_never_sent_are_sent_now(app: Celery) -> None:
    follow = app.task(lambda x: x, name="follow", shared=False)
    task = app.task(lambda: 7, name="seven", acks_late=True, shared=False)
    run(task)
    sent: list[Any] = []
    follow.apply_async = lambda args, kwargs=None, **options: sent.append((tuple(args), options["parent_id"]))
    run(task, chain=[follow.s()])
    assert sent == [((7,), ID)]


def test_follow_ups_that_cannot_be_sent_bring_the_message_back(app: Celery) -> None:
    follow = app.task(lambda x: x, name="follow", shared=False)
    task = app.task(lambda: 7, name="seven", acks_late=True, shared=False)
    run(task)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no broker")

    follow.apply_async = refuse
    with pytest.raises(Reject):
        run(task, chain=[follow.s()])
    assert ID not in successful_requests


def test_success_is_told_with_the_seconds_it_took(app: Celery) -> None:
    told: list[Any] = []

    def receive(result: Any, runtime: float, **_: Any) -> None:
        told.append((result, runtime >= 0))

    signals.task_success.connect(receive)
    try:
        app.task(lambda: 3, name="three", shared=False).apply()
    finally:
        signals.task_success.disconnect(receive)
    assert told == [(3, True)]


def test_an_exception_keeps_nothing_of_its_frames_alive(app: Celery) -> None:
    @app.task(shared=False)
    def fail() -> None:
        heavy = bytearray(10)
        raise ValueError(len(heavy))

    error = fail.apply().result
    frames = []
    step = error.__traceback__
    while step is not None:
        frames.append(step.tb_frame)
        step = step.tb_next
    assert not any("heavy" in frame.f_locals for frame in frames)


@pytest.mark.parametrize(
    ("error", "policy"),
    [
        (Reject(), trace.log_policy_reject),
        (Ignore(), trace.log_policy_ignore),
        (KeyError(), trace.log_policy_expected),
        (ValueError(), trace.log_policy_unexpected),
    ],
)
def test_how_an_end_is_logged_depends_on_its_kind(app: Celery, error: Exception, policy: Any) -> None:
    task = app.task(lambda: None, name="none", throws=(KeyError,), shared=False)
    assert trace.get_log_policy(task, None, error) is policy


def test_pools_may_run_tasks_by_celerys_functions(app: Celery) -> None:
    app.task(lambda x, y: x + y, name="add", shared=False)
    body = ((1, 2), {}, {})
    with pytest.raises(RuntimeError, match="setup_worker_optimizations"):
        trace.fast_trace_task("add", "1", {}, body, None, None)
    assert trace.trace_task_ret("add", "1", {}, body, None, None, app=app)[0] == 0
    trace.setup_worker_optimizations(app, "w1")
    try:
        assert trace.fast_trace_task("add", "1", {}, body, None, None)[0] == 0
    finally:
        trace.reset_worker_optimizations(app)


def test_what_fails_around_a_task_is_reported(app: Celery) -> None:
    task = app.task(lambda: None, name="none", shared=False)

    def broken(*_: Any) -> None:
        raise OSError("not the task")

    task.__trace__ = broken
    with pytest.warns(RuntimeWarning, match="outside body"):
        done = trace.trace_task(task, "1", (), {}, app=app)
    assert done.info.state == states.FAILURE
    assert isinstance(done.info.retval, OSError)

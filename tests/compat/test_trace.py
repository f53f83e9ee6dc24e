"""How a task is run in a worker: hooks and signals in Celery's order, what is stored and sent, and what happens to the message."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from compat_celery import Celery, Task, current_task, signals
from compat_celery.app import trace
from compat_celery.app.publisher import broker_for
from compat_celery.exceptions import Ignore, NotRegistered, Reject
from compat_celery.worker.application import CeleryApplication
from jumpstarter.errors import UnknownTask
from jumpstarter.jobs import ACK, Quarantine
from tests.compat.inline_worker import InlineWorker, make_app


@pytest.fixture
def app() -> Celery:
    return make_app()


@pytest.fixture
def story() -> Iterator[list[str]]:
    """Filled with the names of the signals that are sent."""
    told: list[str] = []
    receivers: list[tuple[Any, Callable[..., None]]] = []
    names = ("prerun", "postrun", "success", "failure", "retry", "revoked", "unknown", "internal_error")
    for name in (f"task_{name}" for name in names):

        def receive(_name: str = name, **_: Any) -> None:
            told.append(_name)

        signal = getattr(signals, name)
        signal.connect(receive)
        receivers.append((signal, receive))
    yield told
    for signal, receive in receivers:
        signal.disconnect(receive)


class Telling(Task):  # type: ignore[type-arg] # Celery's class takes no parameters at run time
    """Tells of its hooks."""

    abstract = True
    story: list[str]

    def before_start(self, *_: Any) -> None:
        self.story.append("before_start")

    def on_success(self, *_: Any) -> None:
        self.story.append("on_success")

    def on_failure(self, *_: Any) -> None:
        self.story.append("on_failure")

    def on_retry(self, *_: Any) -> None:
        self.story.append("on_retry")

    def after_return(self, *_: Any) -> None:
        self.story.append("after_return")


def run(app: Celery, task: Any, *args: Any, **options: Any) -> tuple[Any, InlineWorker]:
    """Send the task, let a worker run what there is, and give the result and the worker."""
    worker = InlineWorker(app)
    result = task.apply_async(args, **options)
    worker.run()
    return result, worker


def test_a_success_goes_through_its_hooks_in_celerys_order(app: Celery, story: list[str]) -> None:
    task = app.task(base=Telling)(lambda: story.append("run"))
    task.story = story
    run(app, task)
    assert story == [
        "task_prerun",
        "before_start",
        "run",
        "on_success",
        "task_success",
        "after_return",
        "task_postrun",
    ]


def test_a_failure_goes_through_its_hooks_in_celerys_order(app: Celery, story: list[str]) -> None:
    @app.task(base=Telling)
    def fail() -> None:
        raise ValueError("no")

    fail.story = story
    result, _ = run(app, fail)
    assert story == ["task_prerun", "before_start", "on_failure", "task_failure", "after_return", "task_postrun"]
    assert (result.state, repr(result.result)) == ("FAILURE", "ValueError('no')")
    assert "raise ValueError" in result.traceback


def test_a_retry_has_no_return(app: Celery, story: list[str]) -> None:
    @app.task(base=Telling, bind=True)
    def again(self: Any) -> int:
        if not self.request.retries:
            raise self.retry(countdown=0)
        return int(self.request.retries)

    again.story = story
    result, worker = run(app, again)
    assert story[:5] == ["task_prerun", "before_start", "on_retry", "task_retry", "task_postrun"]
    assert result.get(timeout=1) == 1
    assert [outcome.status for outcome in worker.outcomes] == ["RETRY", "SUCCESS"]


def test_a_retry_is_sent_with_the_ack_and_not_before(app: Celery) -> None:
    depths: list[int] = []

    @app.task(bind=True)
    def again(self: Any) -> None:
        try:
            self.retry(countdown=0, throw=False)
        finally:
            depths.append(broker_for(app).depth("celery"))
        raise Ignore

    again.apply_async()
    worker = InlineWorker(app)
    worker.run(limit=1)
    assert depths == [0]
    assert broker_for(app).depth("celery") == 1


@pytest.mark.parametrize("hook", ["on_success", "after_return"])
def test_a_hook_that_fails_does_not_change_what_the_task_came_to(app: Celery, hook: str, caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("a broken hook")

    task = app.task(name="sound")(lambda: 3)
    setattr(task, hook, broken)
    with caplog.at_level(logging.ERROR):
        result, worker = run(app, task)
    assert result.get(timeout=1) == 3
    assert worker.outcomes[0].status == "SUCCESS"
    assert worker.outcomes[0].action == ACK
    assert "a broken hook" in caplog.text


def test_whoever_measures_tasks_is_told_of_the_end_though_the_tasks_hooks_fail(app: Celery, story: list[str]) -> None:
    class Broken(Telling):
        def on_success(self, *_: Any) -> None:
            super().on_success()
            raise RuntimeError("a broken hook")

        def after_return(self, *_: Any) -> None:
            super().after_return()
            raise Reject("too late")

    task = app.task(base=Broken)(lambda: 3)
    task.story = story
    result, worker = run(app, task)
    assert story == ["task_prerun", "before_start", "on_success", "task_success", "after_return", "task_postrun"]
    assert (result.get(timeout=1), worker.outcomes[0].action) == (3, ACK)


def test_a_result_that_cannot_be_encoded_is_a_failure(app: Celery) -> None:
    task = app.task(name="unspeakable")(lambda: object())  # noqa: PLW0108 - a class is no function
    result, _ = run(app, task)
    assert result.state == "FAILURE"
    assert "EncodeError" in type(result.result).__name__ or "not JSON serializable" in str(result.result)


def test_an_ignored_task_stays_pending(app: Celery) -> None:
    @app.task
    def ignored() -> None:
        raise Ignore

    result, worker = run(app, ignored)
    assert result.state == "PENDING"
    assert worker.outcomes[0].action == ACK


def test_reject_with_requeue_puts_the_message_behind_the_others(app: Celery) -> None:
    order: list[str] = []

    @app.task(name="reluctant", bind=True)
    def reluctant(self: Any) -> None:
        is_redelivered = self.request.delivery_info["redelivered"]
        order.append("reluctant redelivered" if is_redelivered else "reluctant")
        if not is_redelivered:
            raise Reject("not yet", requeue=True)

    other = app.task(name="other")(lambda: order.append("other"))
    reluctant.apply_async()
    other.apply_async()
    worker = InlineWorker(app)
    worker.run()
    assert order == ["reluctant", "other", "reluctant redelivered"]


def test_reject_without_requeue_is_a_failure(app: Celery) -> None:
    failed: list[BaseException] = []
    signals.task_failure.connect(lambda exception, **_: failed.append(exception), weak=False)

    @app.task
    def rejected() -> None:
        raise Reject("never", requeue=False)

    result, worker = run(app, rejected)
    assert result.state == "FAILURE"
    assert isinstance(result.result, Reject)
    assert worker.outcomes[0].action == ACK
    assert [str(error) for error in failed] == [str(result.result)]


def test_an_errback_that_is_called_here_finds_the_failure_stored(app: Celery) -> None:
    seen: list[str] = []

    @app.task
    def errback(request: Any, error: Any, traceback: Any) -> None:
        seen.append(app.AsyncResult(request.id).state)

    @app.task
    def fail() -> None:
        raise ValueError("no")

    fail.apply_async(link_error=errback.s())
    InlineWorker(app).run()
    assert seen == ["FAILURE"]


def test_a_failure_that_is_not_to_be_acked_is_kept(app: Celery) -> None:
    @app.task(acks_late=True, acks_on_failure_or_timeout=False)
    def fail() -> None:
        raise ValueError("no")

    result, worker = run(app, fail)
    assert result.state == "FAILURE"
    assert isinstance(worker.outcomes[0].action, Quarantine)


def test_an_unknown_task_fails_for_its_caller_and_is_kept(app: Celery, story: list[str]) -> None:
    application = CeleryApplication(app, "celery@test")
    result = app.send_task("nobody.knows")
    (delivery,) = broker_for(app).claim(["celery"], 1, incarnation="one", lease=60)
    with pytest.raises(UnknownTask, match=r"nobody\.knows") as caught:
        application.decode(delivery)
    outcome = application.refuse(delivery, caught.value)
    app.backend.results.put(outcome.documents)
    assert isinstance(outcome.action, Quarantine)
    assert isinstance(result.result, NotRegistered)
    assert story == ["task_unknown"]


def test_an_expired_job_is_revoked(app: Celery, story: list[str]) -> None:
    task = app.task(name="late")(lambda: None)
    application = CeleryApplication(app, "celery@test")
    result = task.apply_async(expires=60)
    (delivery,) = broker_for(app).claim(["celery"], 1, incarnation="one", lease=60)
    outcome = application.expire(application.decode(delivery))
    app.backend.results.put(outcome.documents)
    assert result.state == "REVOKED"
    assert story == ["task_revoked"]


def test_monitoring_agents_may_replace_the_tracer(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Sentry's and New Relic's do, by the module's attribute."""
    seen: list[str] = []
    original = trace.build_tracer

    def replaced(name: str, task: Any, *args: Any, **kwargs: Any) -> Any:
        tracer = original(name, task, *args, **kwargs)

        def traced(uuid: str, *call: Any) -> Any:
            seen.append(name)
            return tracer(uuid, *call)

        return traced

    monkeypatch.setattr(trace, "build_tracer", replaced)
    task = app.task(name="watched")(lambda: 3)
    result, _ = run(app, task)
    assert result.get(timeout=1) == 3
    assert seen == ["watched"]


def test_hooks_that_do_nothing_are_not_called_for_each_task(app: Celery) -> None:
    task = app.task(lambda: 1)
    run(app, task)
    tracer = task.__trace__
    assert (tracer._prepares, tracer._cleans_up) == (False, False)
    assert (tracer._on_success, tracer._after_return) == (None, None)


@pytest.mark.parametrize("hook", ["on_task_init", "on_process_cleanup"])
def test_a_loader_of_ones_own_is_told_of_each_task(app: Celery, hook: str) -> None:
    told: list[str] = []
    setattr(app.loader, hook, lambda *_: told.append(hook))
    task = app.task(lambda: 1)
    run(app, task)
    run(app, task)
    assert told == [hook, hook]


def test_a_task_leaves_nothing_of_itself_behind(app: Celery) -> None:
    @app.task(bind=True)
    def look(self: Any) -> str:
        assert current_task.name == self.name
        self.push_request(id="pushed and forgotten")
        return str(self.request.id)

    result, _ = run(app, look)
    assert result.get(timeout=1) == "pushed and forgotten"
    assert look.request.id is None
    assert not current_task

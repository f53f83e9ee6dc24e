"""Tasks: direct and eager calls, retries, options, the request."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import anyio
import pytest

from compat_celery import Celery, Task, chain, current_task
from compat_celery._state import _task_stack, get_current_task, get_current_worker_task
from compat_celery.app.publisher import capture
from compat_celery.app.task import Context
from compat_celery.exceptions import ImproperlyConfigured, MaxRetriesExceededError, Reject, Retry
from compat_celery.utils.threads import LocalStack


def test_a_direct_call_has_a_request_and_is_the_current_task(app: Celery) -> None:
    seen = []

    @app.task(bind=True)
    def look(self: Any, x: int, y: int = 2) -> int:
        seen.append(
            (self.request.args, self.request.kwargs, self.request.called_directly, current_task.name, get_current_worker_task())
        )
        return x + y

    assert look(1, y=3) == 4
    assert seen == [((1,), {"y": 3}, True, look.name, None)]
    assert get_current_task() is None


def test_threads_have_requests_of_their_own(app: Celery) -> None:
    inside, release, seen = threading.Event(), threading.Event(), []

    @app.task(bind=True)
    def wait(self: Any, number: int) -> None:
        inside.set()
        release.wait(10)
        seen.append(self.request.args)

    thread = threading.Thread(target=wait, args=(1,))
    thread.start()
    inside.wait(10)
    assert wait.request.args is None
    release.set()
    thread.join()
    assert seen == [(1,)]


@pytest.mark.anyio
async def test_coroutine_tasks_on_one_loop_have_requests_of_their_own(app: Celery) -> None:
    @app.task(bind=True)
    async def nap(self: Any, number: int) -> tuple[Any, str]:
        await anyio.sleep(0.001 * (5 - number))
        return self.request.args, current_task.name

    assert nap.is_coroutine
    found = []

    async def call(number: int) -> None:
        found.append(await nap(number))

    async with anyio.create_task_group() as group:
        for number in range(5):
            group.start_soon(call, number)
    assert sorted(found) == [((number,), nap.name) for number in range(5)]
    assert nap.request.args is None


def test_a_coroutine_task_runs_eagerly_too(app: Celery) -> None:
    @app.task
    async def double(x: int) -> int:
        await asyncio.sleep(0)
        return 2 * x

    assert double.apply((4,)).get() == 8


def test_a_coroutine_that_inherits_a_stack_does_not_change_its_parents() -> None:
    stack: LocalStack[str] = LocalStack()
    stack.push("parent")

    async def child() -> None:
        stack.push("child")
        stack.pop()
        stack.pop()

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(child)
        assert stack.stack == ["parent"]

    anyio.run(main)
    assert (stack.top, len(stack), stack().upper()) == ("parent", 1, "PARENT")
    stack.pop()
    assert stack.pop() is None


def test_eager_mode_passes_arguments_through_the_serializer(app: Celery) -> None:
    @app.task
    def kinds(*args: Any) -> list[str]:
        return [type(arg).__name__ for arg in args]

    assert kinds.apply(((1,),)).get() == ["tuple"]
    app.conf.task_always_eager = True
    assert kinds.delay((1,)).get() == ["list"]


def test_eager_errors_are_results_unless_they_propagate(app: Celery) -> None:
    @app.task
    def fail() -> None:
        raise ValueError("no")

    result = fail.apply()
    assert (result.state, str(result.result)) == ("FAILURE", "no")
    with pytest.raises(ValueError, match="no"):
        fail.apply(throw=True)
    app.conf.task_eager_propagates = True
    with pytest.raises(ValueError, match="no"):
        fail.apply()


def test_an_eager_call_knows_its_family(app: Celery) -> None:
    @app.task(bind=True)
    def child(self: Any) -> tuple[Any, Any, bool]:
        return self.request.root_id, self.request.parent_id, self.request.is_eager

    @app.task(bind=True)
    def parent(self: Any) -> Any:
        return child.apply().result

    assert parent.apply(task_id="root").get() == ("root", "root", True)


# Retries.


@pytest.fixture
def flaky(app: Celery) -> Any:
    @app.task(name="flaky", bind=True, max_retries=3, default_retry_delay=0)
    def flaky(self: Any, successes_after: int, **_: Any) -> int:
        if self.request.retries < successes_after:
            raise self.retry(exc=KeyError("not yet"))
        return self.request.retries

    return flaky


def as_in_a_worker(task: Any, **fields: Any) -> Context:
    request = Context(
        {"id": "id-1", "retries": 0, "args": [1], "kwargs": {}, "called_directly": False, "root_id": "root", **fields},
        delivery_info=fields.get("delivery_info", {"exchange": "", "routing_key": "origin", "priority": 4}),
    )
    task.push_request(request)
    return request


def test_an_eager_retry_runs_at_once(flaky: Any) -> None:
    assert flaky.apply((2,)).get() == 2


def test_an_eager_retry_gives_up_with_the_error(flaky: Any) -> None:
    assert isinstance(flaky.apply((9,)).result, KeyError)


def test_a_retry_of_a_direct_call_raises_the_error_itself(flaky: Any) -> None:
    with pytest.raises(KeyError, match="not yet"):
        flaky(1)


def test_a_retry_is_the_same_call_once_more(flaky: Any) -> None:
    as_in_a_worker(
        flaky, group="g", group_index=2, chord={"task": "c"}, chain=[{"task": "next"}], callbacks=[{"task": "cb"}], headers={"x": 1}
    )
    try:
        with capture() as envelopes, pytest.raises(Retry) as caught:
            flaky.retry(countdown=30)
    finally:
        flaky.pop_request()
    (envelope,) = envelopes
    headers = envelope.headers
    assert (headers["id"], headers["retries"], headers["root_id"], headers["group"], headers["group_index"]) == (
        "id-1",
        1,
        "root",
        "g",
        2,
    )
    assert (envelope.queue, envelope.priority, headers["x"]) == ("origin", 4, 1)
    assert b'"callbacks": [{"task": "cb"}]' in envelope.body
    assert b'"chain": [{"task": "next"}]' in envelope.body
    assert caught.value.when == 30


def test_a_retry_may_have_other_arguments(flaky: Any) -> None:
    as_in_a_worker(flaky, args=[1], kwargs={"keep": 1, "change": 2})
    try:
        with capture() as envelopes, pytest.raises(Retry):
            flaky.retry(args=[7])
    finally:
        flaky.pop_request()
    assert envelopes[0].body.startswith(b'[[7], {"keep": 1, "change": 2},')


def test_keywords_of_a_retry_replace_positional_arguments(app: Celery) -> None:
    @app.task(bind=True)
    def two(self: Any, x: int, y: int) -> None:
        pass

    as_in_a_worker(two, args=[1, 2])
    try:
        with capture() as envelopes, pytest.raises(Retry):
            two.retry(kwargs={"y": 9})
    finally:
        two.pop_request()
    assert envelopes[0].body.startswith(b"[[1, 9], {}")


def test_too_many_retries_raise_the_error_or_say_so(flaky: Any) -> None:
    as_in_a_worker(flaky, retries=3)
    try:
        with capture() as envelopes:
            with pytest.raises(MaxRetriesExceededError, match="id-1"):
                flaky.retry()
            with pytest.raises(ZeroDivisionError):
                flaky.retry(exc=ZeroDivisionError())
    finally:
        flaky.pop_request()
    assert envelopes == []


def test_no_limit_of_retries_is_none(flaky: Any) -> None:
    flaky.max_retries = None
    as_in_a_worker(flaky, retries=10_000)
    try:
        with capture() as envelopes, pytest.raises(Retry):
            flaky.retry()
    finally:
        flaky.pop_request()
    assert envelopes[0].headers["retries"] == 10_001


def test_a_retry_that_cannot_be_published_rejects_the_message(flaky: Any) -> None:
    as_in_a_worker(flaky)
    try:
        with pytest.raises(Reject) as caught:
            flaky.retry(args=[object()])
    finally:
        flaky.pop_request()
    assert caught.value.requeue is False


def test_a_retry_may_not_throw(flaky: Any) -> None:
    as_in_a_worker(flaky)
    try:
        with capture() as envelopes:
            assert isinstance(flaky.retry(throw=False), Retry)
    finally:
        flaky.pop_request()
    assert len(envelopes) == 1


def test_errors_that_are_listed_are_retried_by_themselves(app: Celery) -> None:
    runs = []

    @app.task(
        autoretry_for=(OSError,), dont_autoretry_for=(FileNotFoundError,), max_retries=2, retry_backoff=True, retry_jitter=False
    )
    def fragile(error: str) -> None:
        runs.append(error)
        raise {"os": OSError, "missing": FileNotFoundError, "value": ValueError}[error]

    assert isinstance(fragile.apply(("os",)).result, OSError)
    assert runs == ["os"] * 3
    runs.clear()
    assert isinstance(fragile.apply(("missing",)).result, FileNotFoundError)
    assert isinstance(fragile.apply(("value",)).result, ValueError)
    assert runs == ["missing", "value"]


def test_a_coroutine_is_retried_by_itself_too(app: Celery) -> None:
    runs = []

    @app.task(autoretry_for=(OSError,), max_retries=2, default_retry_delay=0)
    async def fragile() -> None:
        runs.append(1)
        raise OSError

    assert isinstance(fragile.apply().result, OSError)
    assert len(runs) == 3


@pytest.mark.parametrize(("retries", "countdown"), [(0, 1), (1, 2), (5, 32), (20, 600), (1_000_000, 600)])
def test_the_wait_before_a_retry_doubles_up_to_a_limit(app: Celery, retries: int, countdown: int) -> None:
    @app.task(autoretry_for=(OSError,), max_retries=None, retry_backoff=True, retry_jitter=False)
    def fragile(_: int) -> None:
        raise OSError

    as_in_a_worker(fragile, retries=retries)
    try:
        with capture(), pytest.raises(Retry) as caught:
            fragile.run(1)
    finally:
        fragile.pop_request()
    assert caught.value.when == countdown


# Options and attributes.


def test_attributes_that_a_task_does_not_have_come_from_the_settings(app: Celery) -> None:
    app.conf.update(task_acks_late=True, task_time_limit=9, task_acks_on_failure_or_timeout=False)

    @app.task
    def plain() -> None:
        pass

    @app.task(acks_late=False)
    def decided() -> None:
        pass

    assert (plain.acks_late, plain.time_limit, plain.acks_on_failure, plain.acks_on_timeout) == (True, 9, False, False)
    assert decided.acks_late is False


def test_annotations_change_tasks_by_name(app: Celery) -> None:
    app.conf.task_annotations = {"annotated": {"rate_limit": "3/m"}, "*": {"max_retries": 7}}

    @app.task(name="annotated")
    def annotated() -> None:
        pass

    assert (annotated.rate_limit, annotated.max_retries) == ("3/m", 7)


def test_an_override_of_apply_async_may_pass_everything_on_by_position(app: Celery) -> None:
    class Base(Task):
        def apply_async(
            self, args: Any = None, kwargs: Any = None, task_id: Any = None, producer: Any = None, **options: Any
        ) -> Any:
            return super().apply_async(args, kwargs, task_id, producer, **options)

    @app.task(base=Base)
    def custom(x: int) -> None:
        pass

    with capture() as envelopes:
        custom.apply_async((1,), task_id="mine")
    assert envelopes[0].headers["id"] == "mine"


def test_a_soft_limit_above_the_hard_one_is_refused(app: Celery) -> None:
    @app.task(time_limit=5, soft_time_limit=9)
    def limited() -> None:
        pass

    with pytest.raises(ValueError, match="soft_time_limit"):
        limited.delay()


def test_signatures_belong_to_the_tasks_app(app: Celery) -> None:
    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    Celery("other")
    signature = add.s(1, 2)
    assert (signature.task, signature.args, signature.app) == ("add", (1, 2), app)
    assert add.si(1).immutable is True
    assert add.subtask((1, 2), queue="q").options == {"queue": "q"}
    assert add.map([1, 2]).task == "celery.map"
    assert add.starmap([(1, 2)]).task == "celery.starmap"
    assert add.chunks([(1, 2)], 1).task == "celery.chunks"


def test_replacing_a_task_by_nothing_is_refused(app: Celery) -> None:
    @app.task(bind=True)
    def host(self: Any) -> Any:
        return self.replace(chain(app=app))

    assert isinstance(host.apply().result, ImproperlyConfigured)


def test_adding_to_a_chord_needs_a_chord(app: Celery) -> None:
    @app.task(bind=True)
    def alone(self: Any) -> None:
        self.add_to_chord(self.s())

    with pytest.raises(ValueError, match="not member of any chord"):
        alone()


def test_states_are_stored_while_the_task_runs(app: Celery) -> None:
    @app.task(bind=True)
    def progress(self: Any) -> None:
        pass

    as_in_a_worker(progress)
    try:
        progress.update_state(state="PROGRESS", meta={"done": 3})
    finally:
        progress.pop_request()
    result = app.AsyncResult("id-1")
    assert (result.state, result.info) == ("PROGRESS", {"done": 3})


def test_results_are_children_of_the_task_that_called(app: Celery) -> None:
    @app.task(name="child")
    def child() -> None:
        pass

    @app.task(name="parent")
    def parent() -> None:
        pass

    request = as_in_a_worker(parent)
    _task_stack.push(parent)
    try:
        with capture() as envelopes:
            result = child.delay()
            child.apply_async(add_to_parent=False)
    finally:
        _task_stack.pop()
        parent.pop_request()
    assert [kept.id for kept in request.children] == [result.id]
    assert (envelopes[0].headers["parent_id"], envelopes[0].headers["root_id"]) == ("id-1", "root")


# The request.


def test_a_request_has_defaults_and_any_attribute() -> None:
    request = Context({"id": "x", "timelimit": [9, 5], "own": 1})
    assert (request.id, request.own, request.get("missing", 3), request.retries, request.children) == ("x", 1, 3, 0, [])
    assert (request.time_limit, request.soft_time_limit) == (9, 5)
    request.update(timelimit=None)
    assert (request.time_limit, request.soft_time_limit) == (None, None)
    with pytest.raises(AttributeError):
        request.missing  # noqa: B018 - the look-up is the test


def test_headers_of_the_caller_are_told_from_celerys() -> None:
    assert Context({"id": "x", "lang": "py", "tenant": "acme"}).headers == {"tenant": "acme"}
    assert Context({"id": "x"}).headers is None


def test_dead_letters_are_not_sent_on_with_what_the_broker_added() -> None:
    request = Context({"id": "x", "headers": {"x-death": [1], "x-first-death-queue": "q", "mine": 1}})
    assert request.as_execution_options()["headers"] == {"mine": 1}


# Pydantic.


def test_models_are_validated_and_dumped(app: Celery) -> None:
    pydantic = pytest.importorskip("pydantic")

    class Order(pydantic.BaseModel):
        number: int

    class Receipt(pydantic.BaseModel):
        total: int

    def sell(order: Order, times: int = 1) -> Receipt:
        return Receipt(total=order.number * times)

    sell.__annotations__ = {"order": Order, "times": int, "return": Receipt}
    task = app.task(pydantic=True, name="sell")(sell)
    assert task({"number": 3}, times=2) == {"total": 6}
    with pytest.raises(pydantic.ValidationError):
        task({"number": "three"})
    with capture() as envelopes:
        task.delay(Order(number=3))
    assert envelopes[0].body.startswith(b'[[{"number": 3}], {}')

"""Results: waiting for them, what they say about each other, and how stored errors come back."""

import copy
import sys
import threading
import time
import uuid

import anyio
import pytest

from compat_celery import states
from compat_celery.exceptions import ChordError, IncompleteStream, SecurityError
from compat_celery.exceptions import TimeoutError as CeleryTimeoutError
from compat_celery.result import AsyncResult, EagerResult, GroupResult, ResultSet, denied_join_result, result_from_tuple
from tests.compat.inline_worker import make_app
from tests.redis_server import redis_server, shared_redis  # noqa: F401 - fixtures


@pytest.fixture(params=["memory", "sqlite", "redis"])
def app(request, tmp_path):
    urls = {
        "memory": lambda: None,
        "sqlite": lambda: f"sqlite:///{tmp_path}/db",
        "redis": lambda: request.getfixturevalue("redis_server").url,
    }
    url = urls[request.param]()
    return make_app(url, url)


@pytest.fixture
def backend(app):
    return app.backend


def new(app):
    return app.AsyncResult(uuid.uuid4().hex)


def later(action, *args, seconds=0.1):
    """Do it in another thread, in a moment; joined by whoever waits for what it does."""
    timer = threading.Timer(seconds, action, args)
    timer.daemon = True
    timer.start()
    return timer


# Waiting for one.


def test_an_id_is_required(app):
    with pytest.raises(ValueError, match="requires valid id"):
        app.AsyncResult(None)


def test_nothing_known_is_pending(app):
    result = new(app)
    assert (result.state, result.result, result.ready(), result.exists()) == ("PENDING", None, False, False)


def test_get_returns_what_is_stored_already(app, backend):
    result = new(app)
    backend.store_result(result.id, {"a": [1, None]}, states.SUCCESS)
    assert result.get(timeout=1) == {"a": [1, None]}
    assert (result.successful(), result.failed(), result.exists()) == (True, False, True)


def test_get_waits_until_it_is_stored(app, backend):
    result = new(app)
    later(backend.store_result, result.id, 42, states.SUCCESS)
    assert result.get(timeout=10) == 42


def test_get_is_not_satisfied_by_a_state_that_is_not_final(app, backend):
    result = new(app)
    backend.store_result(result.id, {"done": 10}, "PROGRESS")
    later(backend.store_result, result.id, 42, states.SUCCESS)
    assert result.info == {"done": 10}
    assert result.get(timeout=10) == 42


def test_waiting_beside_a_state_that_is_not_final_costs_little(app, backend):
    result = new(app)
    backend.store_result(result.id, {}, states.STARTED)
    before = time.process_time()
    with pytest.raises(CeleryTimeoutError):
        result.get(timeout=0.5)
    assert time.process_time() - before < 0.25


def test_get_gives_up_after_its_timeout(app):
    started = time.monotonic()
    with pytest.raises(CeleryTimeoutError):
        new(app).get(timeout=0.2)
    assert 0.2 <= time.monotonic() - started < 1


def test_get_with_timeout_zero_looks_once(app, backend):
    result = new(app)
    with pytest.raises(CeleryTimeoutError):
        result.get(timeout=0)
    backend.store_result(result.id, 1, states.SUCCESS)
    assert result.get(timeout=0) == 1


def test_get_on_an_ignored_result_returns_none_at_once(app):
    result = new(app)
    result.ignored = True
    assert result.get() is None


def test_get_inside_a_task_fails(app):
    with denied_join_result():
        with pytest.raises(RuntimeError, match=r"Never call result\.get\(\) within a task"):
            new(app).get()
        with pytest.raises(RuntimeError):
            app.ResultSet([new(app)]).get()


def test_get_calls_back_with_id_and_value(app, backend):
    result, calls = new(app), []
    backend.store_result(result.id, 5, states.SUCCESS)
    result.get(timeout=1, callback=lambda *args: calls.append(args))
    assert calls == [(result.id, 5)]


def test_on_interval_is_called_while_waiting(app):
    calls = []
    with pytest.raises(CeleryTimeoutError):
        new(app).get(timeout=0.3, interval=0.05, on_interval=lambda: calls.append(1))
    assert len(calls) >= 3


def test_a_failed_parent_ends_the_wait(app, backend):
    parent = new(app)
    child = app.AsyncResult(uuid.uuid4().hex, parent=parent)
    later(backend.store_result, parent.id, ValueError("parent"), states.FAILURE)
    with pytest.raises(ValueError, match="parent"):
        child.get(timeout=10, interval=0.05)


def test_a_success_is_never_overwritten(app, backend):
    result = new(app)
    backend.store_result(result.id, 1, states.SUCCESS)
    backend.store_result(result.id, ValueError("late"), states.FAILURE)
    assert backend.get_task_meta(result.id, cache=False)["result"] == 1


def test_forget_deletes_it_and_its_parents(app, backend):
    parent = new(app)
    result = app.AsyncResult(uuid.uuid4().hex, parent=parent)
    for each in (parent, result):
        backend.store_result(each.id, 1, states.SUCCESS)
    result.forget()
    assert [app.AsyncResult(each.id).state for each in (parent, result)] == ["PENDING", "PENDING"]


# Errors.


def test_a_failure_is_raised_as_it_was(app, backend):
    result = new(app)
    backend.store_result(result.id, KeyError("a", 1), states.FAILURE, traceback="Traceback: …")
    with pytest.raises(KeyError) as caught:
        result.get(timeout=1)
    assert caught.value.args == ("a", 1)
    assert result.traceback == "Traceback: …"


def test_a_failure_is_returned_without_propagate(app, backend):
    result = new(app)
    backend.store_result(result.id, KeyError("a"), states.FAILURE)
    assert isinstance(result.get(timeout=1, propagate=False), KeyError)


def test_an_error_of_a_class_that_is_not_imported_here_gets_a_class_of_that_name(backend):
    error = backend.exception_to_python({"exc_type": "Lost", "exc_message": ["a"], "exc_module": "not.imported.here"})
    assert (type(error).__name__, type(error).__module__, error.args) == ("Lost", "celery.exceptions", ("a",))


def test_no_module_is_imported_for_a_stored_error(backend):
    assert "this" not in sys.modules
    backend.exception_to_python({"exc_type": "X", "exc_message": [], "exc_module": "this"})
    assert "this" not in sys.modules


def test_a_class_that_is_no_exception_is_a_security_error(backend):
    with pytest.raises(SecurityError, match=r"Expected an exception class, got os\.system"):
        backend.exception_to_python({"exc_type": "system", "exc_message": "rm", "exc_module": "os"})


def test_an_error_that_cannot_be_made_again_is_told_as_text(backend):
    error = backend.exception_to_python({"exc_type": "UnicodeDecodeError", "exc_message": ["too few"], "exc_module": "builtins"})
    assert type(error) is Exception
    assert "too few" in str(error)


def test_errors_are_stored_by_name_and_arguments(backend):
    assert backend.prepare_exception(ChordError("a", {1})) == {
        "exc_type": "ChordError",
        "exc_message": ("a", "{1}"),
        "exc_module": "celery.exceptions",
    }


# Several.


def test_a_group_gives_its_values_in_order(app, backend):
    results = [new(app) for _ in range(20)]
    for index in reversed(range(20)):
        later(backend.store_result, results[index].id, index, states.SUCCESS, seconds=0.002 * (20 - index))
    assert app.GroupResult("group", results).get(timeout=10) == list(range(20))


def test_a_group_raises_as_soon_as_one_has_failed(app, backend):
    results = [new(app), new(app)]
    backend.store_result(results[1].id, ValueError("second"), states.FAILURE)
    with pytest.raises(ValueError, match="second"):
        app.GroupResult("group", results).get(timeout=5)


def test_a_group_in_a_group_gives_a_list_in_the_list(app, backend):
    inner = [new(app), new(app)]
    outer = [new(app), app.GroupResult("inner", inner)]
    for value, result in enumerate([outer[0], *inner]):
        backend.store_result(result.id, value, states.SUCCESS)
    assert app.GroupResult("outer", outer).get(timeout=1) == [0, [1, 2]]


def test_many_results_are_waited_for_by_one_call_of_the_store_at_a_time(app, backend):
    results = [new(app) for _ in range(100)]
    for result in results:
        backend.store_result(result.id, 1, states.SUCCESS)
    calls = []
    store = backend.results
    wait = store.wait
    try:
        store.wait = lambda keys, timeout: (calls.append(len(keys)), wait(keys, timeout))[1]
        app.ResultSet([app.AsyncResult(result.id) for result in results]).get(timeout=5)
    finally:
        store.wait = wait
    assert calls == [100]


def test_join_waits_one_by_one(app, backend):
    results = [new(app), new(app)]
    for value, result in enumerate(results):
        backend.store_result(result.id, value, states.SUCCESS)
    assert app.ResultSet(results).join(timeout=1) == [0, 1]


def test_counting_and_asking_a_set(app, backend):
    results = [new(app), new(app), new(app)]
    backend.store_result(results[0].id, 1, states.SUCCESS)
    backend.store_result(results[1].id, ValueError(), states.FAILURE)
    group = app.ResultSet(results)
    assert (group.completed_count(), group.failed(), group.successful(), group.ready(), group.waiting()) == (
        1,
        True,
        False,
        False,
        True,
    )


def test_members_come_and_go(app):
    first, second = new(app), new(app)
    group = app.ResultSet([first])
    group.add(second)
    group.add(second)
    assert len(group) == 2
    group.remove(first.id)
    group.discard(first)
    with pytest.raises(KeyError):
        group.remove(first)
    group.update([first, second])
    assert group.results == [second, first]
    group.clear()
    assert list(group) == []


def test_a_group_can_be_saved_and_restored(app):
    group = app.GroupResult(uuid.uuid4().hex, [new(app), app.GroupResult("inner", [new(app)])])
    group.save()
    restored = GroupResult.restore(group.id, app=app)
    assert restored == group
    assert isinstance(restored[1], GroupResult)
    group.delete()
    app.backend._cache.clear()
    assert app.GroupResult.restore(group.id, app=app) is None


def test_then_is_called_when_the_result_is_seen(app, backend):
    result, seen = new(app), []
    result.then(lambda each: seen.append(each.get()))
    backend.store_result(result.id, 3, states.SUCCESS)
    assert seen == []
    assert result.get(timeout=1) == 3
    assert seen == [3]


# What they say about each other.


def test_results_are_stored_as_tuples(app):
    parent = app.AsyncResult("parent")
    result = app.AsyncResult("child", parent=parent)
    assert result.as_tuple() == (("child", (("parent", None), None)), None)
    assert result.as_list() == ["child", "parent"]
    group = app.GroupResult("group", [result], parent=parent)
    for each in (result, group):
        again = result_from_tuple(each.as_tuple(), app)
        assert again == each
        assert again.parent == parent


def test_children_are_results(app, backend):
    child, result = new(app), new(app)
    backend.store_result(child.id, 2, states.SUCCESS)

    class Request:
        group = parent_id = None
        children = (child,)

    backend.store_result(result.id, 1, states.SUCCESS, request=Request())
    assert result.children == [child]
    assert [value for _, value in result.collect()] == [1, 2]
    assert result.get_leaf() == 2
    assert dict(result.graph.items()) == {result: [child], child: []}


def test_the_tree_of_what_is_not_ready_is_an_incomplete_stream(app):
    with pytest.raises(IncompleteStream):
        list(new(app).iterdeps())


def test_results_are_equal_by_id_and_can_be_copied(app):
    result = app.AsyncResult("same")
    assert result == app.AsyncResult("same") == "same"
    assert result != app.AsyncResult("other")
    assert copy.copy(result) == result
    assert len({result, app.AsyncResult("same")}) == 1
    assert repr(result) == "<AsyncResult: same>"
    assert repr(app.GroupResult("g", [result])) == "<GroupResult: g [same]>"


def test_an_eager_result_can_be_copied():
    result = EagerResult("id", 1, states.SUCCESS)
    assert copy.copy(result).get() == 1


# Without blocking the loop.


@pytest.mark.anyio
async def test_aget_waits_without_blocking_the_loop(app, backend):
    results = [new(app) for _ in range(10)]
    values = {}

    async def fetch(result):
        values[result.id] = await result.aget(timeout=10)

    started = time.monotonic()
    async with anyio.create_task_group() as tasks:
        for result in results:
            tasks.start_soon(fetch, result)
        await anyio.sleep(0.05)
        assert time.monotonic() - started < 1
        for index, result in enumerate(results):
            await anyio.to_thread.run_sync(backend.store_result, result.id, index, states.SUCCESS)
    assert values == {result.id: index for index, result in enumerate(results)}


@pytest.mark.anyio
async def test_aget_raises_what_the_task_raised_also_a_timeout_error(app, backend):
    result = new(app)
    backend.store_result(result.id, CeleryTimeoutError("of the task"), states.FAILURE)
    with pytest.raises(CeleryTimeoutError, match="of the task"):
        await result.aget(timeout=5)
    assert isinstance(await app.AsyncResult(result.id).aget(propagate=False), CeleryTimeoutError)


@pytest.mark.anyio
async def test_aget_gives_up_after_its_timeout(app):
    with pytest.raises(CeleryTimeoutError, match=r"0\.1 s"):
        await new(app).aget(timeout=0.1)


@pytest.mark.anyio
async def test_a_cancelled_aget_ends_at_once(app):
    started = time.monotonic()
    with anyio.move_on_after(0.05):
        await new(app).aget()
    assert time.monotonic() - started < 0.5


@pytest.mark.anyio
async def test_aget_of_a_set(app, backend):
    results = [new(app), new(app)]
    for value, result in enumerate(results):
        later(backend.store_result, result.id, value, states.SUCCESS, seconds=0.05)
    assert await app.ResultSet(results).aget(timeout=10) == [0, 1]
    failing = [new(app), new(app)]
    backend.store_result(failing[1].id, ValueError("second"), states.FAILURE)
    with pytest.raises(ValueError, match="second"):
        await app.ResultSet(failing).aget(timeout=10)


def test_the_classes_bear_celerys_names():
    assert {cls.__module__ for cls in (AsyncResult, ResultSet, GroupResult, EagerResult)} == {"celery.result"}

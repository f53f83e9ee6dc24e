"""Canvases that are run on the spot: ``apply()`` and ``task_always_eager``."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compat_celery.canvas import chain, chord, group
from compat_celery.exceptions import Ignore
from compat_celery.result import EagerResult, GroupResult, allow_join_result, denied_join_result
from tests.compat.inline_worker import make_app, sent


def build(**settings):
    app = make_app(**settings)

    @app.task(shared=False, name="add")
    def add(*numbers):
        return sum(numbers)

    @app.task(shared=False, name="total")
    def total(numbers):
        return sum(numbers)

    @app.task(shared=False, name="collect")
    def collect(values):
        return values

    @app.task(shared=False, name="fail")
    def fail(*_):
        raise ValueError("no")

    @app.task(shared=False, name="skip")
    def skip(*_):
        raise Ignore

    app.notes = []

    @app.task(shared=False, name="note")
    def note(value):
        app.notes.append(value)

    app.finalize()
    return app


@pytest.fixture(scope="module")
def app():
    return build()


@pytest.fixture(scope="module")
def eager():
    return build(task_always_eager=True)


@pytest.fixture
def tasks(app):
    return app.tasks


def test_a_chain_gives_each_result_to_the_next_step(tasks):
    add = tasks["add"]
    result = chain(add.s(1, 2), add.s(3), add.si(4, 5), add.s(6)).apply()
    assert result.get() == 15
    assert [node.get() for node in (result.parent, result.parent.parent, result.parent.parent.parent)] == [9, 6, 3]


def test_a_group_gives_a_list(tasks):
    result = group(tasks["add"].s(i, i) for i in range(4)).apply()
    assert isinstance(result, GroupResult)
    assert result.get() == [0, 2, 4, 6]


def test_a_chord_gives_the_list_to_its_body(tasks):
    assert chord([tasks["add"].s(i) for i in range(4)], tasks["total"].s()).apply().get() == 6


def test_a_one_member_group_unrolls_so_the_body_gets_the_value_itself(tasks):
    assert (tasks["add"].s(1, 1) | group(tasks["collect"].s()) | tasks["collect"].s()).apply().get() == 2


def test_a_chord_of_nested_groups(tasks):
    canvas = chord([tasks["add"].s(2), group(tasks["add"].s(3), tasks["add"].s(7))], tasks["collect"].s())
    assert canvas.apply().get() == [2, 3, 7]


def test_single_task_and_group_swallow_errors(tasks):
    assert tasks["fail"].s().apply().state == "FAILURE"
    assert group(tasks["add"].s(1), tasks["fail"].s()).apply().results[1].state == "FAILURE"


def test_chain_and_chord_raise(tasks):
    with pytest.raises(ValueError, match="no"):
        chain(tasks["fail"].s(), tasks["add"].s()).apply()
    with pytest.raises(ValueError, match="no"):
        chord([tasks["fail"].s()], tasks["collect"].s()).apply()


def test_a_chain_ends_at_an_ignored_step(tasks):
    result = chain(tasks["skip"].s(), tasks["add"].s(1)).apply()
    assert isinstance(result, EagerResult)
    assert result.state == "IGNORED"


def test_an_empty_group_in_a_chain_is_passed_over(tasks):
    assert chain(tasks["add"].s(1), group([]), tasks["add"].s(2)).apply().get() == 3


def test_a_link_of_a_chain_is_called_once_with_the_last_result(eager):
    eager.notes.clear()
    chain(eager.tasks["add"].s(1), eager.tasks["add"].s(2)).apply_async(link=eager.tasks["note"].s())
    assert eager.notes == [3]


def test_applying_a_chord_does_not_change_it(eager):
    add, total = eager.tasks["add"], eager.tasks["total"]
    eager.notes.clear()
    canvas = chain(add.s(1), chord([add.s(1), add.s(2)], total.s()))
    canvas.apply_async(link=eager.tasks["note"].s())
    canvas.apply_async()
    assert eager.notes == [5]


def test_an_eager_app_runs_canvases_where_they_are_sent(eager):
    tasks = eager.tasks
    with sent() as messages:
        assert chain(tasks["add"].s(1), tasks["add"].s(2)).apply_async().get() == 3
        assert group(tasks["add"].s(1), tasks["add"].s(2)).apply_async().get() == [1, 2]
        assert chord([tasks["add"].s(1), tasks["add"].s(2)], tasks["total"].s()).apply_async().get() == 3
    assert messages == []


def test_get_inside_a_task_fails_also_when_eager(tasks):
    result = tasks["add"].s(1).apply()
    with denied_join_result():
        with pytest.raises(RuntimeError, match=r"Never call result\.get"):
            result.get()
        with allow_join_result():
            assert result.get() == 1


def test_an_eager_result_that_is_revoked_raises_that(tasks):
    result = tasks["add"].s(1).apply()
    result.revoke()
    assert result.state == "REVOKED"
    with pytest.raises(Exception, match="revoked"):
        result.get()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=6))
def test_a_chain_of_sums_is_the_sum(app, numbers):
    add = app.tasks["add"]
    canvas = chain([add.s(number) for number in numbers]) if len(numbers) > 1 else add.s(numbers[0])
    assert canvas.apply().get() == sum(numbers)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.integers(-5, 5), min_size=1, max_size=3), min_size=2, max_size=4))
def test_a_chord_over_chains_is_the_sum_of_their_sums(app, rows):
    add, total = app.tasks["add"], app.tasks["total"]
    header = [chain([add.s(number) for number in row]) if len(row) > 1 else add.s(row[0]) for row in rows]
    assert (group(header) | total.s()).apply().get() == sum(map(sum, rows))

"""Chords and chains, run: by a worker in this thread, over a broker and a results store that are the real ones."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compat_celery.app import shelf
from compat_celery.app.publisher import broker_for
from compat_celery.canvas import chain, chord, group
from compat_celery.exceptions import ChordError, CPendingDeprecationWarning
from jumpstarter.errors import ResultsUnavailable
from tests.compat.inline_worker import InlineWorker, make_app
from tests.redis_server import redis_server, shared_redis  # noqa: F401 - fixtures

#: Every later step and every body goes by a ticket for the shelf, however small it is.
SHELVE_ALL = {"task_canvas_inline_limit": 0, "broker_transport_options": {"exclusive": True}}


@pytest.fixture(params=["memory", "sqlite", "redis", "shelved"])
def app(request, tmp_path, monkeypatch):
    urls = {
        "memory": lambda: None,
        "sqlite": lambda: f"sqlite:///{tmp_path}/db",
        "redis": lambda: request.getfixturevalue("redis_server").url,
        "shelved": lambda: request.getfixturevalue("redis_server").url,
    }
    url = urls[request.param]()
    if request.param != "shelved":
        return build(make_app(url, url))
    monkeypatch.setattr(shelf, "FEW", 0)
    return build(make_app(url, url, **SHELVE_ALL))


def build(app):
    app.calls = []

    @app.task(shared=False, name="add")
    def add(*numbers):
        return sum(numbers)

    @app.task(shared=False, name="total")
    def total(numbers):
        return sum(numbers)

    @app.task(shared=False, name="collect")
    def collect(values):
        app.calls.append(values)
        return values

    @app.task(shared=False, name="fail")
    def fail(*_):
        raise ValueError("b")

    @app.task(shared=False, name="quiet", ignore_result=True)
    def quiet(value):
        return value

    @app.task(shared=False, name="inline_errback")
    def inline_errback(request, exc, traceback):
        app.calls.append(("inline", request.id, type(exc).__name__))

    @app.task(shared=False, name="sent_errback")
    def sent_errback(task_id):
        app.calls.append(("sent", task_id))

    @app.task(shared=False, name="become", bind=True)
    def become(self, names):
        sub = [self.app.tasks["add"].s(number) for number in names]
        return self.replace(group(sub) if len(sub) > 1 else sub[0])

    @app.task(shared=False, name="invite", bind=True)
    def invite(self, number):
        self.add_to_chord(self.app.tasks["add"].s(number, 100))
        return number

    app.finalize()
    return app


@pytest.fixture
def worker(app):
    return InlineWorker(app)


@pytest.fixture
def tasks(app):
    return app.tasks


# What works.


def test_a_body_gets_the_results_in_order(app, worker, tasks):
    result = chord([tasks["add"].s(i) for i in range(10)], tasks["collect"].s()).apply_async()
    worker.run()
    assert result.get(timeout=1) == list(range(10))
    assert len(worker.ran("collect")) == 1


def test_a_store_that_is_away_when_a_chord_is_complete_delays_its_body_and_fails_nothing(app, worker, tasks, monkeypatch):
    result = chord([tasks["add"].s(i) for i in range(3)], tasks["collect"].s()).apply_async()
    store = app.backend.results
    real, away = store.get, [True]

    def get(keys):
        if away:
            away.clear()
            raise ResultsUnavailable(store.url, "away for a moment")
        return real(keys)

    monkeypatch.setattr(store, "get", get)
    with pytest.raises(ResultsUnavailable):
        worker.run()
    worker.give_back()
    worker.run()
    assert result.get(timeout=1) == [0, 1, 2]
    assert len(worker.ran("collect")) == 1


def test_a_chain_through_chords(worker, tasks):
    add, total = tasks["add"], tasks["total"]
    result = (add.s(1) | group(add.s(1), add.s(2)) | total.s() | group(add.s(1), add.s(2)) | total.s()).apply_async()
    worker.run()
    assert result.get(timeout=1) == 13


def test_two_groups_in_a_row(worker, tasks):
    add = tasks["add"]
    result = chain(group(add.s(1), add.s(2)), group(tasks["total"].s(), tasks["total"].s())).apply_async()
    worker.run()
    assert result.get(timeout=1) == [3, 3]


def test_a_one_member_group_gives_the_body_the_value_itself(app, worker, tasks):
    (tasks["add"].s(1, 1) | group(tasks["add"].s(0)) | tasks["collect"].s()).apply_async()
    worker.run()
    assert app.calls == [2]


def test_a_nested_group_in_a_header_comes_out_in_reverse(app, worker, tasks):
    add = tasks["add"]
    chord([add.s(2), group(add.s(3), add.s(7))], tasks["collect"].s()).apply_async()
    worker.run()
    assert app.calls == [[2, 7, 3]]


def test_chains_in_a_header_report_by_their_last_step(app, worker, tasks):
    add = tasks["add"]
    chord([chain(add.s(1), add.s(1)), add.s(5)], tasks["collect"].s()).apply_async()
    worker.run()
    assert app.calls == [[2, 5]]


def test_chords_in_a_header_report_by_their_body(app, worker, tasks):
    add, total = tasks["add"], tasks["total"]
    chord([chord([add.s(1), add.s(2)], total.s()), add.s(9)], tasks["collect"].s()).apply_async()
    worker.run()
    assert app.calls == [[3, 9]]


def test_a_chain_that_ends_in_a_group_gives_a_list_in_the_list(app, worker, tasks):
    add = tasks["add"]
    chord([chain(add.s(1), group(add.s(1), add.s(2))), add.s(9)], tasks["collect"].s()).apply_async()
    worker.run()
    assert app.calls == [[[2, 3], 9]]


def test_an_ignore_result_header_task_works(app, worker, tasks):
    chord([tasks["quiet"].s(1), tasks["quiet"].s(2)], tasks["collect"].s()).apply_async()
    worker.run()
    assert app.calls == [[1, 2]]


def test_an_empty_header_runs_the_body_with_an_empty_list(worker, tasks):
    result = chord([], tasks["total"].s()).apply_async()
    worker.run()
    assert result.get(timeout=1) == 0


def test_a_group_as_body(worker, tasks):
    result = chord([tasks["add"].s(1), tasks["add"].s(2)], group(tasks["total"].s(), tasks["total"].s())).apply_async()
    worker.run()
    assert result.get(timeout=1) == [3, 3]


def test_the_body_is_a_child_of_the_task_that_completed_the_header(app, worker, tasks):
    chord([tasks["add"].s(1), tasks["add"].s(2)], tasks["collect"].s()).apply_async()
    worker.run()
    (body,) = worker.ran("collect")
    last = worker.ran("add")[-1]
    headers = body.delivery.envelope.headers
    assert headers["parent_id"] == last.job.id
    assert headers["root_id"] == last.delivery.envelope.headers["root_id"]


def test_replacing_a_task_keeps_its_id_and_gives_a_list(worker, tasks):
    result = tasks["become"].delay([3, 4])
    worker.run()
    assert result.get(timeout=1) == [3, 4]


def test_replacing_a_task_in_a_chain_gives_the_list_to_the_next_step(worker, tasks):
    result = chain(tasks["become"].s([3, 4]), tasks["total"].s()).apply_async()
    worker.run()
    assert result.get(timeout=1) == 7


def test_replacing_a_task_in_a_chord_gives_a_list_in_the_list(app, worker, tasks):
    chord([tasks["add"].s(2), tasks["become"].s([6, 7])], tasks["collect"].s()).apply_async()
    worker.run()
    assert app.calls == [[2, [6, 7]]]


def test_a_task_can_add_another_one_to_its_chord_on_redis_only(app, worker, tasks):
    result = chord([tasks["add"].s(1), tasks["invite"].s(2)], tasks["total"].s()).apply_async()
    worker.run()
    if app.backend.as_uri().startswith("redis"):
        assert result.get(timeout=1) == 105
    else:
        with pytest.raises(Exception, match="needs a result backend on Redis"):
            result.get(timeout=1)


# What fails.


def test_chord_failure_the_body_never_runs_and_names_the_dependency(app, worker, tasks):
    result = chord([tasks["add"].s(1), tasks["fail"].s()], tasks["collect"].s()).apply_async()
    failed = result.parent.results[1].id
    worker.run()
    meta = app.backend.get_task_meta(result.id)
    assert app.calls == []
    assert meta["status"] == "FAILURE"
    assert isinstance(meta["result"], ChordError)
    assert str(meta["result"]) == f"Dependency {failed} raised ValueError('b')"


def test_chord_failure_get_raises_the_original_error_by_way_of_the_parents(worker, tasks):
    result = chord([tasks["add"].s(1), tasks["fail"].s()], tasks["collect"].s()).apply_async()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(result.get, timeout=10)
        worker.run()
        with pytest.raises(ValueError, match="b"):
            waiting.result()


def test_chord_failure_body_errbacks_run_once(app, worker, tasks):
    body = tasks["collect"].s()
    body.link_error(tasks["inline_errback"].s())
    body.link_error(tasks["sent_errback"].s())
    result = chord([tasks["fail"].s(), tasks["fail"].s(), tasks["add"].s(1)], body).apply_async()
    worker.run()
    assert app.calls == [("inline", result.id, "ChordError"), ("sent", result.id)]


def test_errbacks_by_arity_are_called_here_or_sent_as_tasks(app, worker, tasks):
    sig = tasks["fail"].s()
    sig.link_error(tasks["inline_errback"].s())
    sig.link_error(tasks["sent_errback"].s())
    result = sig.apply_async()
    worker.run()
    assert app.calls == [("inline", result.id, "ValueError"), ("sent", result.id)]
    assert [outcome.job.name for outcome in worker.outcomes] == ["fail", "sent_errback"]


def test_a_failing_step_marks_every_later_chain_id_failure(app, worker, tasks):
    result = chain(tasks["fail"].s(), tasks["add"].s(1), tasks["add"].s(2)).apply_async()
    worker.run()
    states = [app.AsyncResult(task_id).state for task_id in result.as_list()]
    assert states == ["FAILURE", "FAILURE", "FAILURE"]
    with pytest.raises(ValueError, match="b"):
        result.get(timeout=1)


def test_a_chain_in_a_header_that_fails_early_fails_the_chord_instead_of_leaving_it_waiting(app, worker, tasks):
    result = chord([chain(tasks["fail"].s(), tasks["add"].s(1)), tasks["add"].s(1)], tasks["collect"].s()).apply_async()
    worker.run()
    assert result.state == "FAILURE"
    assert app.calls == []


def test_a_failing_inner_chord_fails_the_outer_one(app, worker, tasks):
    inner = chord([tasks["fail"].s(), tasks["add"].s(1)], tasks["total"].s())
    result = chord([inner, tasks["add"].s(1)], tasks["collect"].s()).apply_async()
    worker.run()
    assert result.state == "FAILURE"
    assert app.calls == []


def test_a_chain_behind_a_failing_chord_fails_to_its_end(app, worker, tasks):
    result = chain(group(tasks["fail"].s(), tasks["add"].s(1)), tasks["total"].s(), tasks["add"].s(1)).apply_async()
    worker.run()
    assert result.state == "FAILURE"


def test_every_task_of_a_group_body_fails_when_the_header_does(app, worker, tasks):
    result = chord([tasks["fail"].s(), tasks["add"].s(1)], group(tasks["total"].s(), tasks["collect"].s())).apply_async()
    worker.run()
    assert [member.state for member in result.results] == ["FAILURE", "FAILURE"]
    assert app.calls == []


def test_a_result_that_cannot_be_stored_fails_the_task(app, worker, tasks):
    @app.task(shared=False, name="unstorable")
    def unstorable():
        return {1, 2}

    worker = InlineWorker(app)
    result = unstorable.delay()
    worker.run()
    assert result.state == "FAILURE"
    assert "set" in str(result.result)


def test_a_header_task_that_is_delivered_twice_counts_once(app, worker, tasks):
    result = chord([tasks["add"].s(1), tasks["add"].s(2)], tasks["collect"].s()).apply_async()
    broker = broker_for(app)
    (first,) = broker.claim(["celery"], 1, incarnation="other", lease=60)
    broker.publish([first.envelope])
    broker.release("other")
    worker.run()
    assert len(worker.ran("add")) == 3
    assert (result.get(timeout=1), app.calls) == ([1, 2], [[1, 2]])


# The whole, for any canvas.


@st.composite
def sums(draw, depth=2):
    """A canvas of which every task adds up, and the sum that comes out; its steps take what comes before and add it."""
    kind = draw(st.sampled_from(["task", "chain", "chord"] if depth else ["task"]))
    if kind == "task":
        number = draw(st.integers(0, 9))
        return ["add", number], number
    if kind == "chain":
        parts = draw(st.lists(sums(depth - 1), min_size=1, max_size=3))
        return ["chain", *(part for part, _ in parts)], None
    return ["chord", *(part for part, _ in draw(st.lists(sums(depth - 1), min_size=2, max_size=3)))], None


def canvas_of(tasks, tree):
    kind, *parts = tree
    if kind == "add":
        return tasks["add"].s(parts[0])
    members = [canvas_of(tasks, part) for part in parts]
    if kind == "chain":
        return chain(members) if len(members) > 1 else members[0]
    return group(members) | tasks["total"].s()


def value_of(tree, given):
    kind, *parts = tree
    if kind == "add":
        return given + parts[0]
    if kind == "chain":
        for part in parts:
            given = value_of(part, given)
        return given
    return sum(value_of(part, given) for part in parts)


@settings(deadline=None, max_examples=60)
@given(sums(depth=3), st.booleans())
def test_any_canvas_of_chains_and_chords_comes_to_its_sum(drawn, shelved):
    tree, _ = drawn
    app = build(make_app(**(SHELVE_ALL if shelved else {})))
    worker = InlineWorker(app)
    result = canvas_of(app.tasks, tree).apply_async((0,))
    worker.run()
    assert result.get(timeout=1) == value_of(tree, 0), json.dumps(tree)


def test_a_header_that_takes_its_time_is_sent_as_it_comes(app):
    """Its first task is on its way before the generator has brought the last; one that is quick goes out at once."""
    add, total = app.tasks["add"], app.tasks["total"]
    waiting = []

    def header(seconds):
        for number in range(3):
            time.sleep(seconds)
            waiting.append(broker_for(app).depth("celery"))
            yield add.s(number)

    result = chord(header(0.15), total.s())()
    assert waiting == [0, 0, 1]  # one more is drawn before each is sent, to know which is the last
    InlineWorker(app).run()
    assert result.get(timeout=5) == 3
    waiting.clear()
    chord(header(0), total.s())()
    assert waiting == [0, 0, 0]


def test_an_errback_of_nested_chords_is_told_once(app):
    told = []
    add, fail = app.tasks["add"], app.tasks["fail"]

    @app.task(shared=False, name="errback")
    def errback(request, error, traceback):
        told.append(request.id)

    app.conf.task_allow_error_cb_on_chord_header = False
    inner = chord([add.si(1), fail.si()], add.si(2))
    outer = chord([add.si(3), inner], add.si(4))
    with pytest.warns(CPendingDeprecationWarning):
        outer.link_error(errback.s())
    result = outer.delay()
    InlineWorker(app).run()
    assert result.state == "FAILURE"
    assert len(told) == 1

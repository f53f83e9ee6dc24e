"""Large canvases: what is published stays in proportion to their size, and nothing is lost or done twice on the way."""

import json
import pickle
import time
from types import SimpleNamespace

import pytest

from compat_celery import chain, chord, group
from compat_celery.app import shelf, tickets
from compat_celery.app.tickets import Ticket
from compat_celery.exceptions import CanvasExpired, ImproperlyConfigured, NotPublished
from jumpstarter.brokers.memory import MemoryBroker
from jumpstarter.brokers.redis import layout
from jumpstarter.errors import ResultsUnavailable
from jumpstarter.jobs import RETURN, Quarantine
from jumpstarter.results.memory import MemoryResults
from tests.compat.inline_worker import InlineWorker, make_app, sent

MIB = 1 << 20


def build(**settings):
    app = make_app(**settings)
    app.seen = []

    @app.task(shared=False, name="canvases.add")
    def add(*numbers):
        return sum(numbers)

    @app.task(shared=False, name="canvases.total")
    def total(numbers):
        return sum(numbers)

    @app.task(shared=False, name="canvases.fail")
    def fail(*_):
        raise ValueError("b")

    @app.task(shared=False, name="canvases.look", bind=True)
    def look(self, number):
        app.seen.append(self.request.chain)
        return number

    @app.task(shared=False, name="canvases.become", bind=True)
    def become(self, number):
        return self.replace(self.app.tasks["canvases.add"].s(number, 1))

    @app.task(shared=False, name="canvases.again", bind=True)
    def again(self, number):
        if not self.request.retries:
            raise self.retry(countdown=0)
        return number

    app.finalize()
    return app


@pytest.fixture
def app():
    return build()


@pytest.fixture
def tasks(app):
    return SimpleNamespace(
        **{name.removeprefix("canvases."): app.tasks[name] for name in app.tasks if name.startswith("canvases.")}
    )


@pytest.fixture
def worker(app):
    return InlineWorker(app)


@pytest.fixture
def published(monkeypatch):
    """Bytes: of messages as they would lie in Redis, and of what is stored for them."""
    count = {"messages": 0, "stored": 0, "number": 0}
    publish, settle, put = MemoryBroker.publish, MemoryBroker.settle, MemoryResults.put

    def add(envelopes):
        count["number"] += len(envelopes)
        count["messages"] += sum(len(layout.encode(envelope)) for envelope in envelopes)

    def publishing(self, envelopes, **options):
        add(envelopes)
        return publish(self, envelopes, **options)

    def settling(self, settlements, **options):
        done = settle(self, settlements, **options)
        for settlement, answer in zip(settlements, done, strict=True):
            add(settlement.publish if answer is True else ())
        return done

    def putting(self, documents, **options):
        count["stored"] += sum(len(document.key) + len(document.body) for document in documents if "canvas" in document.key)
        return put(self, documents, **options)

    monkeypatch.setattr(MemoryBroker, "publish", publishing)
    monkeypatch.setattr(MemoryBroker, "settle", settling)
    monkeypatch.setattr(MemoryResults, "put", putting)
    return count


def stored(app):
    """The blocks that are on the shelf, and in how many seconds each expires."""
    documents = app.shelf._store._space.documents
    return {key: found.expires - time.time() for key, found in documents.items() if key.startswith("jumpstarter.canvas.")}


def long_chain(tasks, steps, *more):
    return chain(tasks.add.s(0, 0), *(tasks.add.s(1) for _ in range(steps - 1)), *more)


# How much is published.


def test_a_chain_of_1000_steps_publishes_less_than_a_mebibyte(tasks, worker, published):
    result = long_chain(tasks, 1000).apply_async()
    worker.run(2000)
    assert result.get(timeout=1) == 999
    assert published["number"] == 1000
    assert published["messages"] + published["stored"] < MIB


def test_three_levels_of_chords_of_ten_publish_less_than_two_mebibytes(tasks, worker, published):
    def nested(levels):
        return chord([nested(levels - 1) if levels else tasks.add.s(1, 1) for _ in range(10)], tasks.total.s())

    result = nested(2).apply_async()
    worker.run(2000)
    assert result.get(timeout=1) == 2000
    assert published["number"] == 1111
    assert published["messages"] + published["stored"] < 2 * MIB


@pytest.mark.parametrize("depth", [1, 4, 8])
def test_bytes_grow_with_the_number_of_tasks_however_deep_the_canvas(tasks, worker, published, depth):
    canvas = tasks.add.s(0, 1)
    for _ in range(depth):
        canvas = canvas | group(tasks.add.s(1) for _ in range(20)) | tasks.total.s() | tasks.add.s(1)
    canvas.apply_async()
    worker.run()
    assert published["number"] == 1 + depth * 22
    assert (published["messages"] + published["stored"]) / published["number"] < 1600


def test_a_chain_that_replaces_each_of_its_steps_stays_small(tasks, worker, published):
    result = chain(tasks.add.s(0, 0), *(tasks.become.s() for _ in range(150))).apply_async()
    worker.run(2000)
    assert result.get(timeout=1) == 150
    assert published["messages"] + published["stored"] < 301 * 1100


# When the shelf is used.


def test_short_canvases_travel_whole(app, tasks):
    with sent() as messages:
        long_chain(tasks, 5).apply_async()
        chord([tasks.add.s(1) for _ in range(5)], tasks.total.s()).apply_async()
    assert [step["task"] for step in messages[0].chain] == ["canvases.add"] * 4
    assert messages[1].embed["chord"]["task"] == "canvases.total"
    assert stored(app) == {}


def test_where_genuine_workers_may_read_canvases_travel_whole():
    app = build(url="redis://127.0.0.1:1/0")
    with sent() as messages:
        chain(app.tasks["canvases.add"].s(1) for _ in range(50)).apply_async()
    assert len(messages[0].chain) == 49
    assert all(isinstance(step, dict) for step in messages[0].chain)
    assert messages[0].embed.keys() == {"callbacks", "errbacks", "chain", "chord"}


def test_a_queue_that_is_said_to_be_exclusive_gets_tickets(monkeypatch):
    app = build(url="redis://127.0.0.1:1/0", broker_transport_options={"exclusive": True})
    monkeypatch.setattr(type(app.shelf._store), "put", lambda *_: [])
    with sent() as messages:
        chain(app.tasks["canvases.add"].s(1) for _ in range(50)).apply_async()
    assert len(messages[0].chain) == 1
    assert Ticket.read(messages[0].chain[0]).steps == 49


def test_where_the_broker_stores_nothing_the_shelf_is_with_the_results():
    app = build(url="amqp://127.0.0.1:1//", results="redis://127.0.0.1:1/3", task_canvas_shelf="always")
    assert app.shelf._store is app.backend.results
    assert app.shelf.is_open({})
    app = build(url="amqp://127.0.0.1:1//", results="disabled", task_canvas_shelf="always")
    assert not app.shelf.is_open({})


def test_with_several_brokers_nobody_knows_where_a_message_is_read():
    urls = "redis://127.0.0.1:1/0;redis://127.0.0.1:2/0"
    app = build(url=urls, results="redis://127.0.0.1:1/0", broker_transport_options={"exclusive": True})
    assert not app.shelf.is_open({})


def test_protocol_1_hides_nothing():
    app = build(task_protocol=1, task_canvas_inline_limit=0)
    assert not app.shelf.is_open({})


@pytest.mark.parametrize(
    ("settings", "is_whole"),
    [
        ({"task_canvas_shelf": "never"}, True),
        ({"task_canvas_inline_limit": 10 * MIB}, True),
        ({"task_canvas_inline_limit": 0}, False),
        ({"task_protocol": 1}, None),
    ],
)
def test_settings_say_what_goes_on_the_shelf(settings, is_whole):
    app = build(**settings)
    canvas = chain(app.tasks["canvases.add"].s(1) for _ in range(8))
    result = canvas.apply_async()
    assert (stored(app) == {}) is (is_whole is not False)
    InlineWorker(app).run()
    assert result.get(timeout=1) == 8


def test_a_setting_that_means_nothing_is_an_error_that_says_what_does():
    app = build(task_canvas_shelf="sometimes")
    with pytest.raises(ImproperlyConfigured, match="'auto', 'always' or 'never', not 'sometimes'"):
        chain(app.tasks["canvases.add"].s(1) for _ in range(8)).apply_async()


def test_a_step_that_the_default_serializer_cannot_take_travels_with_its_message(app, tasks):
    steps = [tasks.add.si(complex(1, 1)) for _ in range(40)]
    assert app.shelf.steps(steps, {}) is steps
    body = tasks.add.s(complex(1, 1))
    assert app.shelf.body(body, 40, {}) is body


def test_a_message_to_another_broker_carries_its_canvas(app, tasks):
    steps = [tasks.add.s(1) for _ in range(40)]
    assert app.shelf.steps(steps, {"connection": object()}) is steps


# What a task sees.


def test_the_rest_of_the_chain_looks_like_a_list(app, tasks, worker):
    chain(tasks.add.s(0, 0), tasks.look.s(), *(tasks.add.s(number) for number in range(100))).apply_async()
    worker.run()
    (rest,) = app.seen
    assert len(rest) == 100
    assert rest[-1]["args"] == [0]
    assert rest[0]["args"] == [99]
    assert [step["args"][0] for step in rest[:2]] == [99, 98]
    assert [step["args"][0] for step in reversed(rest)] == list(range(100))
    assert rest == list(rest)
    assert pickle.loads(pickle.dumps(rest)) == rest.wire() == json.loads(json.dumps(rest.wire()))
    with pytest.raises(IndexError):
        rest[100]


def test_the_rest_can_be_changed_as_a_list_can(app, tasks, worker):
    chain(tasks.add.s(0, 0), tasks.look.s(), *(tasks.add.s(number) for number in range(100))).apply_async()
    worker.run()
    (rest,) = app.seen
    added = {"task": "canvases.add"}
    rest.append(added)
    assert rest.pop() is added
    assert rest.pop()["args"] == [0]
    assert rest.pop(0)["args"] == [99]
    del rest[0]
    rest[0] = added
    rest.insert(1, added)
    assert [step.get("args") for step in rest[:3]] == [None, None, [96]]
    assert len(rest) == 98


def test_a_task_may_end_the_chain(app, tasks):
    @app.task(shared=False, name="canvases.stop", bind=True)
    def stop(self, number):
        self.request.chain = None
        return number

    worker = InlineWorker(app)
    long_chain(tasks, 3, stop.s(), *(tasks.add.s(1) for _ in range(50))).apply_async()
    assert worker.run() == 4


def test_a_step_may_be_put_before_the_others(app, tasks):
    @app.task(shared=False, name="canvases.push", bind=True)
    def push(self, number):
        self.request.chain.append(tasks.add.s(1000))
        return number

    worker = InlineWorker(app)
    result = chain(push.s(0), *(tasks.add.s(1) for _ in range(50))).apply_async()
    worker.run()
    assert result.get(timeout=1) == 1050


def test_retries_and_replacements_go_on_with_the_same_rest(tasks, worker):
    steps = [tasks.add.s(1), tasks.again.s(), tasks.become.s()] * 40
    result = chain(tasks.add.s(0, 0), *steps).apply_async()
    worker.run()
    assert result.get(timeout=1) == 80


def test_a_chord_within_the_chain_hands_the_rest_to_its_body(tasks, worker):
    canvas = long_chain(tasks, 40) | group(tasks.add.s(1) for _ in range(30)) | tasks.total.s() | long_chain(tasks, 40)
    result = canvas.apply_async()
    worker.run()
    assert result.get(timeout=1) == 40 * 30 + 39


@pytest.mark.parametrize("kind", ["chain", "group", "chord"])
def test_any_kind_of_body_comes_from_the_shelf(app, tasks, worker, kind):
    total = tasks.total
    body = {
        "chain": lambda: total.s() | tasks.add.s(1),
        "group": lambda: group(total.s(), total.s()),
        "chord": lambda: chord([total.s(), total.s()], total.s()),
    }[kind]()
    result = chord([tasks.add.s(number) for number in range(30)], body).apply_async()
    assert stored(app)
    worker.run()
    assert result.get(timeout=1) == {"chain": 436, "group": [435, 435], "chord": 870}[kind]


def test_stamps_and_errbacks_of_shelved_steps_are_theirs(app, tasks, worker):
    errors = []

    @app.task(shared=False, name="canvases.errback")
    def errback(task_id):
        errors.append(task_id)

    worker = InlineWorker(app)
    canvas = long_chain(tasks, 30, tasks.fail.s(), *(tasks.add.s(1) for _ in range(10)))
    canvas.on_error(errback.s())
    canvas.stamp(batch="b-1")
    result = canvas.apply_async()
    worker.run()
    failed = worker.ran("canvases.fail")[0]
    assert errors == [failed.job.id]
    assert failed.delivery.envelope.headers["stamps"] == {"batch": ["b-1"]} or failed.delivery.envelope.headers["stamps"] == {
        "batch": "b-1"
    }
    assert result.state == "FAILURE"


# What fails.


def test_a_failing_step_fails_every_later_one(app, tasks, worker):
    result = long_chain(tasks, 100, tasks.fail.s(), *(tasks.add.s(1) for _ in range(100))).apply_async()
    worker.run()
    states = [app.AsyncResult(task_id).state for task_id in result.as_list()]
    assert states == ["FAILURE"] * 101 + ["SUCCESS"] * 100


def test_a_long_chain_in_a_header_fails_the_chord_from_its_middle(tasks, worker):
    member = long_chain(tasks, 30, tasks.fail.s(), *(tasks.add.s(1) for _ in range(30)))
    result = chord([member, *(tasks.add.s(1) for _ in range(30))], tasks.total.s()).apply_async()
    worker.run()
    assert result.state == "FAILURE"
    assert worker.ran("canvases.total") == []


def test_a_process_that_dies_before_it_settles_loses_nothing(app, tasks):
    result = long_chain(tasks, 130).apply_async()
    for _ in range(130):
        dying = InlineWorker(app)
        (delivery,) = dying._broker.claim(["celery"], 1, incarnation=dying._incarnation, lease=60)
        job = dying._application.decode(delivery)
        job.handler.run(job)  # it has run, has asked for the next step, and is gone before anything of that was settled
        dying.give_back()
        app.shelf._block.cache_clear()  # what it remembered died with it
        time.sleep(0.002)
        InlineWorker(app).run(1)
    assert result.get(timeout=1) == 129


def test_what_nobody_needs_any_more_is_kept_for_a_day_and_the_rest_for_a_month(app, tasks, worker):
    long_chain(tasks, 130).apply_async()
    assert [round(left / 86400) for left in stored(app).values()] == [30, 30, 30]
    worker.run(70)
    assert [round(left / 86400) for left in stored(app).values()] == [30, 1, 1]
    worker.run()
    assert [round(left / 86400) for left in stored(app).values()] == [1, 1, 1]


def test_a_body_that_was_sent_is_kept_for_a_day(app, tasks, worker):
    chord([tasks.add.s(number) for number in range(30)], tasks.total.s()).apply_async()
    worker.run()
    assert [round(left / 86400) for left in stored(app).values()] == [1]


def test_half_of_the_time_later_the_content_is_kept_for_the_whole_of_it_again(app, tasks, worker, monkeypatch):
    result = long_chain(tasks, 40).apply_async()
    later = time.time() + 16 * 86400
    monkeypatch.setattr(shelf.time, "time", lambda: later)
    worker.run(1)
    (left,) = stored(app).values()
    assert round((left + time.time() - later) / 86400) >= 14
    deliveries = worker._broker.claim(["celery"], 1, incarnation="look", lease=60)
    ticket = Ticket.read(json.loads(deliveries[0].envelope.body)[2]["chain"][0])
    assert ticket.until == int(later + shelf.EXPIRES)
    worker._broker.release("look")
    worker.run()
    assert result.get(timeout=1) == 39


def test_a_canvas_that_is_to_run_next_year_is_there_then(app, tasks):
    day = 86400
    long_chain(tasks, 40).apply_async(countdown=365 * day)
    chord([tasks.add.s(number) for number in range(30)], tasks.total.s()).apply_async(countdown=365 * day)
    assert all(left > 390 * day for left in stored(app).values())


def test_a_rest_that_has_expired_stops_the_chain_and_says_why(app, tasks, worker):
    result = long_chain(tasks, 40).apply_async()
    app.shelf._store._space.documents.clear()
    worker.run()
    (outcome,) = worker.outcomes
    assert isinstance(outcome.action, Quarantine)
    first = app.AsyncResult(outcome.job.id)
    assert first.state == "FAILURE"
    assert "task_canvas_expires" in str(first.result)
    assert result.state == "PENDING"


def test_a_body_that_has_expired_fails(app, tasks, worker):
    result = chord([tasks.add.s(number) for number in range(30)], tasks.total.s()).apply_async()
    documents = app.shelf._store._space.documents
    for key in stored(app):
        del documents[key]
    worker.run()
    assert result.state == "FAILURE"
    assert isinstance(result.result, CanvasExpired)


async def run_on_the_loop(worker):
    """The next job, by the way of coroutine tasks."""
    (delivery,) = worker._broker.claim(["celery"], 1, incarnation=worker._incarnation, lease=60)
    job = worker._application.decode(delivery)
    outcome = await job.handler.arun(job)
    worker._settler.settle([outcome])
    return outcome


@pytest.mark.anyio
async def test_a_coroutine_task_goes_on_from_the_shelf_as_well(app, tasks, monkeypatch):
    @app.task(shared=False, name="canvases.aadd")
    async def aadd(*numbers):
        return sum(numbers)

    worker = InlineWorker(app)
    result = chain(aadd.s(0, 0), *(aadd.s(1) for _ in range(39))).apply_async()
    with monkeypatch.context() as patch:
        patch.setattr(app.shelf._store, "get", lambda _: (_ for _ in ()).throw(ResultsUnavailable("memory://", "away")))
        assert (await run_on_the_loop(worker)).action is RETURN
    for _ in range(40):
        assert (await run_on_the_loop(worker)).status == "SUCCESS"
    assert result.get(timeout=1) == 39


def test_a_store_that_is_away_makes_the_task_wait(app, tasks, worker, monkeypatch):
    result = long_chain(tasks, 40).apply_async()

    def away(*_):
        raise ResultsUnavailable("memory://", "away for a moment")

    with monkeypatch.context() as patch:
        patch.setattr(app.shelf._store, "get", away)
        worker.run(1)
    assert worker.outcomes[0].action is RETURN
    worker.run()
    assert result.get(timeout=1) == 39


def test_nothing_is_sent_while_the_store_is_away(app, tasks, monkeypatch):
    def away(*_):
        raise ResultsUnavailable("memory://", "away")

    monkeypatch.setattr(app.shelf._store, "put", away)
    with pytest.raises(NotPublished, match="nothing was sent"):
        long_chain(tasks, 40).apply_async()
    assert InlineWorker(app).run() == 0


def test_in_a_bulk_content_is_stored_in_one_step_before_the_messages(app, tasks, monkeypatch):
    steps = []
    put, publish = MemoryResults.put, MemoryBroker.publish
    monkeypatch.setattr(MemoryResults, "put", lambda self, documents, **_: (steps.append(len(documents)), put(self, documents))[1])
    monkeypatch.setattr(
        MemoryBroker, "publish", lambda self, sent, **_: (steps.append(f"{len(sent)} sent"), publish(self, sent))[1]
    )
    with app.bulk_publish():
        for _ in range(3):
            long_chain(tasks, 40).apply_async()
    assert steps == [3, "3 sent"]


# The pure part.


def test_tickets_are_read_as_they_are_written():
    for ticket in (Ticket("k", 10, 64, 1790000000), Ticket("k", 0, 64, 1790000000, 0)):
        assert Ticket.read(str(ticket)) == ticket
    assert Ticket.read({"task": "add"}) == {"task": "add"}
    assert Ticket.read("shelfish") == "shelfish"


def test_taking_a_step_notes_the_block_that_it_was_the_last_of():
    ticket = Ticket("k", 130, 64, 0)
    notes = []
    while ticket.steps:
        ticket = ticket.taken()
        if ticket.spent >= 0:
            notes.append((ticket.steps, ticket.spent))
            ticket = ticket._replace(spent=-1)
    assert notes == [(128, 2), (64, 1), (0, 0)]


@pytest.mark.parametrize(("count", "size"), [(1, 10), (64, 10), (65, 10), (3, 100_000), (7, 30_000)])
def test_blocks_give_back_what_was_packed(count, size):
    payloads = tickets.encode_all([{"task": f"{number}".rjust(size)} for number in range(count)], "json")
    by, blocks = tickets.pack(payloads)
    steps = [step for block in blocks for step in tickets.unpack(block).steps]
    assert steps == [payload.body for payload in payloads]
    assert [len(tickets.unpack(block).steps) for block in blocks[:-1]] == [by] * (len(blocks) - 1)

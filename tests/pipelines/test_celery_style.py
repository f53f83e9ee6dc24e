"""Pipelines among Celery's things: a queue as a source, a task as a step, a task that starts a pipeline."""

import json
import uuid

import pytest

from compat_celery import Celery
from jumpstarter.actors import run
from jumpstarter.brokers import open_broker
from jumpstarter.jobs import Envelope
from jumpstarter.pipelines import Budget, Join, MemoryRows, Pipeline, QueueRows, day, open_store, sink, step

app = Celery("pipelines", broker="memory://", set_as_current=False)
app.conf.task_always_eager = True


@app.task
def double(rows):
    return [row * 2 for row in rows]


def message(number):
    headers = {"id": f"id-{number}", "task": "geocode"}
    return Envelope(queue="addresses", body=json.dumps([[number], {"lang": "hr"}, {}]).encode(), headers=headers)


@pytest.mark.anyio
async def test_the_messages_of_a_celery_queue_are_rows_once(virtual_clock):
    broker = open_broker(f"memory://{uuid.uuid4().hex}")
    broker.publish([message(number) for number in range(5)])
    seen = []

    class Geocode(Pipeline):
        rows = QueueRows("addresses", broker, store=open_store(f"memory://{uuid.uuid4().hex}"), batch=2)

        @sink
        async def geocode(self, rows):
            seen.extend(rows)

    await run(Geocode(until="empty"))
    assert [row["args"] for row in seen] == [[number] for number in range(5)]
    assert seen[0] == {"id": "id-0", "task": "geocode", "args": [0], "kwargs": {"lang": "hr"}}
    assert broker.depth("addresses") == 0
    # A crash between the put and the ack: the messages come again, and are known.
    broker.publish([message(3), message(7)])
    await run(Geocode(until="empty"))
    assert [row["args"] for row in seen[5:]] == [[7]]


@pytest.mark.anyio
async def test_a_message_that_is_no_row_goes_to_quarantine(virtual_clock):
    broker = open_broker(f"memory://{uuid.uuid4().hex}")
    broker.publish([Envelope(queue="addresses", body=b"?", headers={}), message(1)])

    class Geocode(Pipeline):
        rows = QueueRows("addresses", broker, store=open_store(f"memory://{uuid.uuid4().hex}"))

        @sink
        async def geocode(self, rows):
            pass

    pipeline = Geocode(until="empty")
    await run(pipeline)
    assert pipeline.report.done == 1
    assert "no row for a pipeline" in broker.quarantined()[0].reason


@pytest.mark.anyio
async def test_a_celery_task_is_a_step(virtual_clock):
    stored = []

    class Doubled(Pipeline):
        rows = MemoryRows([1, 2, 3])
        budget = Budget("doubled", requests=1 / day)

        double = step(cost=1)(double)

        @sink
        async def store(self, results):
            stored.extend(results)

    await run(Doubled(until="empty"))
    assert stored == [2, 4, 6]


def test_a_celery_task_runs_a_pipeline_and_answers_its_report():
    class Nightly(Pipeline):
        rows = MemoryRows(range(10), batch=5)

        @sink
        async def store(self, results):
            pass

    @app.task
    def nightly():
        return Nightly.run_sync().done

    assert nightly.delay().get() == 10


def test_three_celery_tasks_start_one_thing_when_all_are_done(store):
    join = Join("day", expect=3, store=store)

    @app.task(name=f"part-{uuid.uuid4()}")
    def part(name, number):
        join.arrive_nowait("2030-01-01", name, number)

    for name in ("orders", "prices", "stock", "stock"):
        part.delay(name, len(name))
    (row,) = store.claim("day", 10, 60, 5).rows
    assert row.value["parts"] == {"orders": 6, "prices": 6, "stock": 5}

"""A pipeline goes round: within its budget, losing nothing, at rest when there is nothing to do. In virtual time."""

import sqlite3
from collections import Counter

import anyio
import pytest

from jumpstarter.actors import hosted, resource, run
from jumpstarter.errors import DefinitionError
from jumpstarter.pipelines import (
    BatchFailed,
    BatchSettled,
    Budget,
    Gather,
    Join,
    MemoryRows,
    NextRun,
    Pipeline,
    RequestFailed,
    Room,
    Source,
    SqlQuery,
    Throttled,
    backoff,
    current_batch,
    day,
    hours,
    minute,
    minutes,
    next_run,
    on_failed,
    second,
    seconds,
    shared_clock,
    side,
    sink,
    step,
)
from jumpstarter.telemetry.bus import bus
from jumpstarter.testing.clock import ManualClock
from jumpstarter.testing.pipelines import FakeApi, run_batch

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("virtual_clock")]


def source(store, rows=(), name="rows", **options):
    found = Source(name, store=store, **options)
    found.put_nowait(rows)
    return found


async def test_rows_go_through_steps_and_sinks_in_batches(store):
    seen = []

    class Double(Pipeline):
        rows = source(store, range(25), batch=10)

        @step
        async def add(self, rows):
            seen.append(rows)
            return [row + 1 for row in rows]

        @step
        def double(self, rows):
            return [row * 2 for row in rows]

        @sink
        async def keep(self, results):
            seen.append(results)

    pipeline = Double(until="empty")
    await run(pipeline)
    assert seen[0::2] == [list(range(10)), list(range(10, 20)), list(range(20, 25))]
    assert seen[1::2] == [[(row + 1) * 2 for row in batch] for batch in seen[0::2]]
    assert (pipeline.report.done, pipeline.report.batches, pipeline.report.requests) == (25, 3, 6)
    assert (await pipeline.rows.counts()).open == 0
    assert store.progress("Double") == {"done": 25, "batches": 3, "requests": 6}


async def test_the_loop_is_its_chart(store):
    class Small(Pipeline):
        rows = source(store, range(2), batch=1)
        budget = Budget("small", requests=1 / minute)

        @step(cost=1)
        async def call(self, rows):
            await anyio.sleep(1)

    seen = []
    unsubscribe = bus.subscribe(lambda event: event.region == "started.work" and seen.append(event.target.rpartition(".")[2]))
    async with hosted(Small()) as small:
        await small.wait("processing")
        await small.wait("work.waiting_for_budget")
        assert small.state.matches("started.work.waiting_for_budget")
        await anyio.sleep(125)
        assert small.state.matches("idle")
    unsubscribe()
    once = ["waiting_for_budget", "polling", "processing", "settling"]
    assert seen[1:12] == [*once, *once, "waiting_for_budget", "polling", "idle"]
    assert seen[-1] in ("idle", "suspended")


async def test_a_days_budget_is_used_to_the_last_row_and_not_a_row_more(store, virtual_clock):
    api = FakeApi.limited(requests=10 / day, rows=1000 / day, tz="Europe/Zagreb", latency=2)

    class Geocode(Pipeline):
        rows = source(store, range(2500), batch=105)
        budget = Budget("geocoder", requests=10 / day, rows=1000 / day, tz="Europe/Zagreb")

        @step(cost=dict(requests=1, rows=len), timeout=30)
        async def geocode(self, rows):
            return await api(rows)

    began = virtual_clock.now()
    geocode = Geocode(until="settled")
    await run(geocode)
    assert geocode.report.put_back == 0  # it claims no more than there is room for
    assert list(api.per_day().values()) == [(10, 1000), (10, 1000), (5, 500)]
    assert api.refused == []
    assert virtual_clock.now() - began < 2 * 86_400


async def test_next_run_spreads_the_rows_of_a_day_over_its_requests(store):
    api = FakeApi.limited(requests=10 / day, rows=1000 / day)

    class Spread(Pipeline):
        rows = source(store, range(1500), batch=1000)
        budget = Budget("spread", requests=10 / day, rows=1000 / day)

        @next_run
        async def size(self, room: Room):
            return NextRun(rows=-(-room.rows // room.requests), params={"left": room.rows})

        @step(cost=dict(requests=1, rows=len))
        async def call(self, rows):
            assert current_batch().params["left"] is not None
            return await api(rows)

    await run(Spread(until="settled"))
    assert [rows for _, rows in api.calls] == [100] * 15


async def test_next_run_ends_the_loop_and_delays_it(store, virtual_clock):
    answers = [NextRun(after=hours(1)), 3, None]

    class Thrice(Pipeline):
        rows = source(store, range(10), batch=5)

        @next_run
        async def again(self):
            return answers.pop(0)

        @step
        async def call(self, rows):
            pass

    began = virtual_clock.now()
    thrice = Thrice()
    await run(thrice)
    assert thrice.report.done == 8
    assert virtual_clock.now() - began == pytest.approx(3600, abs=1)


async def test_several_pipelines_share_a_budget_and_nobody_holds_a_lease_through_a_long_wait(store):
    api = FakeApi.limited(requests=6 / minute, latency=0.5)
    held = []

    class Shared(Pipeline):
        rows = source(store, range(60), batch=2, lease=seconds(40))
        budget = Budget("shared", requests=6 / minute)

        @step(cost=1)
        async def call(self, rows):
            return await api(rows)

    async with anyio.create_task_group() as group:
        pipelines = [Shared(until="settled") for _ in range(3)]
        for pipeline in pipelines:
            group.start_soon(run, pipeline)
        for _ in range(20):
            await anyio.sleep(15)
            held.append((await Shared.rows.counts()).leased)
    assert (len(api.calls), api.rows, api.refused) == (30, 60, [])
    assert sum(pipeline.report.done for pipeline in pipelines) == 60
    assert sum(1 for leased in held if leased) <= 2


async def test_a_failing_step_is_tried_again_and_its_rows_come_back_later_until_they_are_dead(store):
    calls = []

    class Flaky(Pipeline):
        rows = source(store, ["good", "bad"], batch=1, attempts=3)

        @step(retry=backoff(0.1, tries=2))
        async def call(self, rows):
            calls.append(rows[0])
            if rows == ["bad"]:
                raise ValueError("no")

    flaky = Flaky(until="settled")
    await run(flaky)
    assert Counter(calls) == {"good": 1, "bad": 6}
    (dead,) = await flaky.rows.dead()
    assert (dead.value, dead.reason, dead.attempts) == ("bad", "ValueError: no", 3)
    assert (flaky.report.done, flaky.report.failed) == (1, 3)
    assert flaky.report.reasons == {"ValueError: no": 3}


async def test_on_failed_decides_about_the_rows(store, virtual_clock):
    calls = []

    class Decides(Pipeline):
        rows = source(store, ["later", "never"], batch=2)

        @step
        async def call(self, rows):
            calls.append((virtual_clock.now(), list(rows)))
            if len(calls) == 1:
                raise TimeoutError

        @on_failed
        async def decide(self, rows, error):
            assert isinstance(error, TimeoutError)
            await self.rows.put_back([row for row in rows if row == "later"], after=hours(1))

    decides = Decides(until="settled")
    await run(decides)
    assert [rows for _, rows in calls] == [["later", "never"], ["later"]]
    assert calls[1][0] - calls[0][0] == pytest.approx(3600, abs=6)
    assert [(dead.value, dead.reason) for dead in await decides.rows.dead()] == [("never", "TimeoutError")]


async def test_some_rows_of_a_batch_may_fail_alone(store):
    class Some(Pipeline):
        rows = source(store, range(4), batch=4, attempts=1)

        @step
        async def call(self, rows):
            current_batch().fail([row for row in rows if row % 2], "odd")

    some = Some(until="settled")
    await run(some)
    assert sorted(dead.value for dead in await some.rows.dead()) == [1, 3]
    assert some.report.done == 2


@pytest.mark.parametrize("after", [5, 600])
async def test_an_api_that_wants_to_be_left_alone_is_left_alone_by_all(store, virtual_clock, after):
    calls = []

    class Polite(Pipeline):
        rows = source(store, range(6), batch=1, attempts=2)
        budget = Budget("polite", requests=100 / second)

        @step(cost=1)
        async def call(self, rows):
            calls.append(virtual_clock.now())
            if len(calls) == 1:
                raise Throttled(after)

    pipelines = [Polite(until="settled"), Polite(until="settled")]
    async with anyio.create_task_group() as group:
        for pipeline in pipelines:
            group.start_soon(run, pipeline)
    first, *others = calls
    assert all(later - first >= after for later in others[1:])
    assert len(calls) == 7
    assert sum(pipeline.report.done for pipeline in pipelines) == 6


async def test_a_lease_is_renewed_while_a_step_takes_longer_than_it(store):
    calls = []

    class Slow(Pipeline):
        rows = source(store, [1], lease=10)

        @step
        async def call(self, rows):
            calls.append(rows)
            await anyio.sleep(100)

    async with anyio.create_task_group() as group:
        group.start_soon(run, Slow(until="settled"))
        group.start_soon(run, Slow(until="settled"))
    assert calls == [[1]]


async def test_a_batch_whose_lease_was_lost_settles_nothing_and_somebody_else_does(store, virtual_clock):
    calls, stored = [], []

    class Frozen(Pipeline):
        rows = source(store, [1], lease=10)

        @step
        async def call(self, rows):
            calls.append(rows)
            if len(calls) == 1:
                # What another process does when this one was stopped for a minute.
                with shared_clock(ManualClock(virtual_clock.now() + 60)):
                    (row,) = store.claim("rows", 1, 1, 5).rows
                assert row.attempt == 2
            await anyio.sleep(30)
            return rows

        @sink
        async def keep(self, results):
            stored.append(current_batch().attempt)

    frozen = Frozen(until="settled")
    await run(frozen)
    assert frozen.report.lost == 1
    assert stored == [3]
    assert (await frozen.rows.counts()).open == 0


async def test_pausing_lets_a_batch_finish_and_resuming_goes_on(store):
    done = []

    class Paused(Pipeline):
        rows = source(store, range(3), batch=1)

        @step
        async def call(self, rows):
            await anyio.sleep(10)
            done.append(rows[0])

    async with hosted(Paused()) as paused:
        await paused.wait("processing")
        await paused.pause()
        assert done == [0]
        assert paused.state.matches("work.suspended")
        await anyio.sleep(60)
        assert done == [0]
        await paused.resume()
        await paused.drain()
        assert done == [0, 1, 2]


async def test_a_pause_wakes_a_lane_that_waits_for_a_day(store):
    class Waiting(Pipeline):
        rows = source(store, range(2), batch=1)
        budget = Budget("waiting", requests=1 / day)

        @step(cost=1)
        async def call(self, rows):
            pass

    async with hosted(Waiting()) as waiting:
        await anyio.sleep(5)
        assert waiting.state.matches("waiting_for_budget")
        began = anyio.current_time()
        await waiting.pause()
        assert anyio.current_time() - began < 1
        await waiting.resume()
        await anyio.sleep(5)
        assert waiting.state.matches("waiting_for_budget")
        await waiting.stop()
        assert anyio.current_time() - began < 10


async def test_a_stop_within_its_grace_cancels_a_step_and_gives_its_rows_back_untried(store):
    class Endless(Pipeline):
        rows = source(store, range(3), batch=3)
        stop_grace = 2

        @step
        async def call(self, rows):
            await anyio.sleep_forever()

    async with hosted(Endless()) as endless:
        await endless.wait("processing")
        await endless.stop()
    assert (await endless.rows.counts()).waiting == 3
    assert [row.attempt for row in store.claim("rows", 5, 10, 5).rows] == [1, 1, 1]


async def test_lanes_work_side_by_side_as_wide_as_the_step_says(store):
    inside = Counter()
    most = Counter()

    class Wide(Pipeline):
        rows = source(store, range(12), batch=1)

        @step(concurrency=4)
        async def wide(self, rows):
            await self.around("wide")

        @step
        async def narrow(self, rows):
            await self.around("narrow")

        async def around(self, name):
            inside[name] += 1
            most[name] = max(most[name], inside[name])
            await anyio.sleep(1)
            inside[name] -= 1

    wide = Wide(until="settled")
    assert "started.work_4.processing" in wide.chart.states
    await run(wide)
    assert most == {"wide": 4, "narrow": 1}
    assert wide.report.done == 12


async def test_batches_by_key_and_by_time(store, virtual_clock):
    batches = []

    class Grouped(Pipeline):
        rows = source(store, [{"who": "ab"[number % 2], "n": number} for number in range(4)], batch=Gather(10, within=30, by="who"))

        @step
        async def call(self, rows):
            batches.append((round(virtual_clock.now() - began), [row["n"] for row in rows]))

    began = virtual_clock.now()
    async with hosted(Grouped()) as grouped:
        await anyio.sleep(29)
        assert batches == []
        await anyio.sleep(5)
        await grouped.rows.put([{"who": "c", "n": number} for number in range(10)])
        grouped.ring()
        await anyio.sleep(0.1)
    assert batches == [(30, [0, 2]), (30, [1, 3]), (34, list(range(10)))]
    assert (await grouped.rows.counts()).open == 0


async def test_one_feeds_the_next_without_a_schedule(store):
    texts = []

    class Upload(Pipeline):
        rows = source(store, name="texts", batch=10)

        @sink
        async def upload(self, rows):
            texts.extend(rows)

    class Answer(Pipeline):
        rows = source(store, range(5), name="prompts", batch=1)
        budget = Budget("llm", requests=1 / minute)

        @step(cost=1)
        async def ask(self, rows):
            return [f"text {row}" for row in rows]

    flow = Answer >> Upload
    assert flow.pipelines == (Answer, Upload)
    async with hosted(Upload()), hosted(Answer()) as answer:
        await answer.drain("settled")
        await anyio.sleep(0.1)
    assert texts == [f"text {row}" for row in range(5)]


async def test_three_pipelines_join_into_one(store):
    reports = []

    class Report(Pipeline):
        rows = Join("report", expect=3, by="day", store=store)

        @sink
        async def write(self, rows):
            reports.extend(rows)

    def part(name):
        class Part(Pipeline):
            rows = source(store, [{"day": number} for number in range(4)], name=name, batch=2)

            @step
            async def work(self, rows):
                return [{"day": row["day"], "from": name} for row in rows]

        Part.__name__ = name
        return Part

    parts = [part(name) for name in ("Orders", "Prices", "Stock")]
    (parts[0] & parts[1] & parts[2]) >> Report
    async with hosted(Report()), anyio.create_task_group() as group:
        for each in parts:
            group.start_soon(run, each(until="empty"))
        await anyio.sleep(60)
    assert sorted(report["key"] for report in reports) == ["0", "1", "2", "3"]
    assert all(report["complete"] and set(report["parts"]) == {"Orders", "Prices", "Stock"} for report in reports)


async def test_a_side_that_crashes_or_stalls_does_not_hurt_the_loop(store):
    told = []

    class Audited(Pipeline):
        rows = source(store, range(30), batch=1)

        @step(retry=backoff(0.1, tries=2))
        async def call(self, rows):
            if rows == [3] and len(current_batch().requests) == 0:
                raise OSError("refused")
            return rows

        @side(on_full="drop_oldest", capacity=5)
        async def stalls(self, event: BatchSettled):
            await anyio.sleep_forever()

        @side
        async def crashes(self, event: BatchSettled):
            raise ValueError("audit")

        @side
        async def failures(self, event: RequestFailed | BatchFailed):
            told.append((event.step, event.error, event.number))

        @side
        def plain(self, event: BatchSettled):
            told.append(event.keys)

    audited = Audited(until="empty")
    async with hosted(audited):
        await audited.wait("idle")
        assert audited.concerns.keys() == {"side.crashes"}
        assert audited.mailbox_depth == 0
    assert audited.report.done == 30
    assert ("call", "OSError: refused", 1) in told
    assert len(told) == 31


async def test_a_durable_side_is_told_everything_at_last(store):
    told = []

    class Kept(Pipeline):
        rows = source(store, range(5), batch=1)

        @step
        async def call(self, rows):
            return [row * 2 for row in rows]

        @side(durable=True)
        async def keep(self, event: BatchSettled):
            if len(told) < 3:
                told.append("crash")
                raise ValueError
            told.append((event.rows, event.results))

    async with hosted(Kept()):
        await anyio.sleep(600)
    assert sorted(each for each in told if each != "crash") == [((row,), [row * 2]) for row in range(5)]
    assert store.counts("Kept/keep").open == 0


async def test_a_query_is_read_page_by_page_and_goes_on_where_it_was(store, tmp_path):
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as connection:
        connection.execute("create table words (id integer primary key, text)")
        connection.executemany("insert into words (text) values (?)", [(f"w{number}",) for number in range(230)])
    connection.close()
    seen = []

    class Words(Pipeline):
        rows = SqlQuery(
            "words",
            lambda: sqlite3.connect(path),
            "select id, text from words where id > ? order by id limit ?",
            cursor="id",
            store=store,
            batch=20,
        )

        @sink
        async def note(self, rows):
            seen.append([row["id"] for row in rows])

    await run(Words(until="empty"))
    assert [number for batch in seen for number in batch] == list(range(1, 231))
    assert {len(batch) for batch in seen[:-1]} == {20}
    with sqlite3.connect(path) as connection:
        connection.execute("insert into words (text) values ('more')")
    connection.close()
    await run(Words(until="empty"))
    assert seen[-1] == [231]


async def test_rows_of_memory_may_be_endless_and_asynchronous():
    async def endless():
        number = 0
        while True:
            yield number
            number += 1

    class Endless(Pipeline):
        rows = MemoryRows(endless(), batch=10)
        runs = 0

        @next_run
        async def ten(self):
            self.runs += 1
            return None if self.runs > 10 else 10

        @step
        async def call(self, rows):
            pass

    pipeline = Endless()
    await run(pipeline)
    assert pipeline.report.done == 100


async def test_resources_are_there_for_steps_and_a_lost_store_is_waited_for(store):
    class Held(Pipeline):
        rows = source(store, range(3), batch=1)

        @resource
        def api(self):
            return anyio.CancelScope()

        @step
        async def call(self, rows):
            assert isinstance(self.api, anyio.CancelScope)

    pipeline = Held(until="empty")
    await run(pipeline)
    assert pipeline.report.done == 3


async def test_one_batch_is_rehearsed_without_servers():
    class Geocode(Pipeline):
        rows = Source("addresses", store="redis://nobody.invalid", batch=100, key="id")
        budget = Budget("geocoder", requests=10 / day, rows=1000 / day)
        api = None

        @step(cost=dict(requests=1, rows=len), retry=backoff(tries=2))
        async def geocode(self, rows):
            return await self.api(rows)

    api = FakeApi.limited(requests=10 / day)
    api.answer = lambda row: row["id"] * 10
    api.failing = lambda rows, number: ValueError("bad row") if {"id": 2} in rows else None
    good = await run_batch(Geocode, [{"id": 1}, {"id": 3}], api=api)
    assert (good.results, good.report.done) == ([10, 30], 2)
    bad = await run_batch(Geocode, [{"id": 2}], api=api)
    assert (bad.results, bad.delayed, len(bad.events)) == ([], 1, 3)


def definition(**attributes):
    return type("Wrong", (Pipeline,), attributes)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: definition(rows=[1, 2]), "takes its rows from a source"),
        (lambda: definition(rows=MemoryRows(), call=step(cost=1)(_step)), "write budget = Budget"),
        (lambda: definition(rows=MemoryRows(), budget=Budget("b", rows=1 / day), call=step(_step)), "limits no step"),
        (lambda: definition(rows=MemoryRows(), budget=Budget("b", rows=1 / day), call=step(cost=1)(_step)), "does not limit: rows"),
        (
            lambda: definition(rows=MemoryRows(), budget=Budget("b", requests=1 / day), call=step(cost=2)(_step)),
            "never be called: it costs 2",
        ),
        (lambda: definition(rows=MemoryRows(), told=side(_told)), "is none of these"),
        (lambda: definition(rows=MemoryRows(), one=on_failed(_step), two=on_failed(_told)), "declared twice"),
    ],
)
async def test_contradictions_are_told_when_the_class_is_created(make, says):
    with pytest.raises(DefinitionError, match=says):
        make()


async def _step(self, rows):
    """Does nothing."""


async def _told(self, event: int):
    """Is told of numbers."""


async def test_durations_are_numbers_of_seconds():
    assert minutes(10) == 600
    assert MemoryRows(lease=minutes(2)).lease == 120


async def test_groups_that_are_left_when_it_pauses_go_back_unbegun(store):
    done = []

    class Grouped(Pipeline):
        rows = source(store, [{"who": who} for who in "abc"], batch=Gather(10, by="who"), lease=30)

        @step
        async def call(self, rows):
            await anyio.sleep(5)
            done.append(rows[0]["who"])

    async with hosted(Grouped()) as grouped:
        await grouped.wait("processing")
        await grouped.pause()
        counts = await grouped.rows.counts()
        assert (done, counts.waiting, counts.leased) == (["a"], 2, 0)
        await anyio.sleep(300)
        await grouped.resume()
        await grouped.drain()
    assert done == ["a", "b", "c"]


async def test_a_cost_that_cannot_be_computed_fails_its_rows_and_not_the_loop(store):
    class Costly(Pipeline):
        rows = source(store, [1, "x", 2], batch=1, attempts=1)
        budget = Budget("costly", tokens=100 / minute)

        @step(cost=dict(tokens=lambda rows: rows[0] * 10))
        async def call(self, rows):
            pass

    costly = Costly(until="settled")
    await run(costly)
    assert costly.report.done == 2
    assert len(await costly.rows.dead()) == 1


async def test_rows_that_cost_what_is_in_them_are_taken_as_far_as_the_budget_goes(store):
    api, left = [], []

    class Tokens(Pipeline):
        rows = source(store, [30, 40, 50, 10], batch=4)
        budget = Budget("tokens", tokens=100 / minute)

        @step(cost=dict(tokens=sum))
        async def call(self, rows):
            api.append(list(rows))
            left.append((await self.budget.peek()).left("tokens"))

    await run(Tokens(until="settled"))
    assert sorted(map(sorted, api)) == [[10, 50], [30, 40]]
    assert left == [30, 40]


async def test_a_row_that_costs_more_than_a_whole_limit_fails_alone_with_the_reason(store):
    calls, heard = [], []

    class Llm(Pipeline):
        rows = source(store, [{"tokens": tokens} for tokens in (40, 700, 30, 501)], batch=Gather(3, by=lambda row: "one"))
        budget = Budget("llm", requests=100 / day, tokens=500 / day)

        @step(cost=dict(requests=1, tokens=lambda rows: sum(row["tokens"] for row in rows)))
        async def ask(self, rows):
            calls.append([row["tokens"] for row in rows])
            return rows

        @sink
        async def keep(self, results):
            calls.append(len(results))

        @side
        async def audit(self, event: BatchFailed):
            heard.append([row["tokens"] for row in event.rows])

    llm = Llm(until="settled")
    await run(llm)
    assert calls == [[40, 30], 2]
    # They died at the same moment of the test's clock, so that no order is promised.
    dead = {row.value["tokens"]: row for row in await llm.rows.dead()}
    assert {tokens: row.attempts for tokens, row in dead.items()} == {700: 1, 501: 1}
    assert dead[700].reason == "it costs 700 tokens, and budget 'llm' never grants more than 500 / day"
    assert heard == [[700], [501]]
    assert (llm.report.done, llm.report.failed, llm.report.dead, llm.report.requests) == (2, 2, 2, 1)
    assert (await llm.rows.counts()).open == 0


async def test_on_failed_may_save_a_row_that_costs_too_much(store):
    seen = []

    class Llm(Pipeline):
        rows = source(store, [[1, 2], [1, 2, 3, 4]], batch=10, attempts=2)
        budget = Budget("short", words=3 / day)

        @step(cost=dict(words=lambda rows: sum(map(len, rows))))
        async def ask(self, rows):
            return rows

        @on_failed
        async def later(self, rows, error):
            seen.append((rows, error))
            await self.rows.put_back(rows, after=1, reason="perhaps when the limit is higher")

    llm = Llm(until="settled")
    await run(llm)
    assert seen == [([[1, 2, 3, 4]], None)] * 2
    assert [(row.value, row.reason) for row in await llm.rows.dead()] == [([1, 2, 3, 4], "perhaps when the limit is higher")]


async def test_it_may_be_started_again_when_it_has_drained(store):
    class Again(Pipeline):
        rows = source(store, range(3), batch=1)

        @step
        async def call(self, rows):
            pass

    again = Again()
    async with hosted(again):
        assert (await again.drain()).done == 3
        await again.rows.put(range(2))
        await again.start()
        assert (await again.drain()).done == 5
    again.rows.put_nowait([1])
    await run(again)
    assert again.report.done == 6

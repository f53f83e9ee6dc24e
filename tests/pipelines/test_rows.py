"""Queues of rows do the same in every store: what happens in memory is what happens in SQLite and on Redis."""

import uuid

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from jumpstarter.pipelines.clocks import shared_clock
from jumpstarter.pipelines.stores import open_store
from jumpstarter.pipelines.stores.memory import MemoryStore
from jumpstarter.pipelines.stores.port import Back, JoinSpec, Part, Put, Settlement
from jumpstarter.testing.clock import ManualClock

KEYS = st.sampled_from([f"k{number}" for number in range(12)])
MOST = 3


class SameAsInMemory(RuleBasedStateMachine):
    """Every call is made on both; every answer must be the same. Invariants: no row is lost, and none is in two places."""

    store = None

    def __init__(self):
        super().__init__()
        self.clock = ManualClock()
        self.shared = shared_clock(self.clock)
        self.shared.__enter__()
        self.model = MemoryStore()
        self.queue = uuid.uuid4().hex
        self.fences = []  # pairs: the model's and the store's
        self.known = set()
        self.done = set()

    def teardown(self):
        counts = self.store.counts(self.queue)
        assert counts == self.model.counts(self.queue)
        assert {row.key for row in self.store.dead(self.queue, 100)} == {row.key for row in self.model.dead(self.queue, 100)}
        assert counts.open + counts.dead == len(self.known - self.done)
        self.shared.__exit__(None, None, None)

    def both(self, call):
        expected, found = call(self.model), call(self.store)
        assert found == expected
        return found

    @rule(keys=st.lists(KEYS, max_size=6), after=st.sampled_from([0.0, 0.0, 20.0]))
    def put(self, keys, after):
        rows = [(key, {"key": key, "text": 'č"\n'}) for key in keys]
        self.both(lambda store: store.put(Put(self.queue, rows, after)))
        seen = self.model._queues[self.queue].values
        self.known |= set(seen)
        self.done -= set(seen)

    # All that wait: in which order rows come again that were given back is a store's own business.
    @rule(least=st.integers(1, 3))
    def claim(self, least):
        expected = self.model.claim(self.queue, 50, 60.0, MOST, least)
        found = self.store.claim(self.queue, 50, 60.0, MOST, least)
        assert by_key(found.rows) == by_key(expected.rows)
        assert found.next_due == pytest.approx(expected.next_due, abs=1e-4)
        if found.rows:
            self.fences.append((expected.fence, found.fence, [row.key for row in found.rows]))

    @precondition(lambda self: self.fences)
    @rule(data=st.data())
    def settle(self, data):
        model_fence, fence, keys = data.draw(st.sampled_from(self.fences))
        keys = sorted(keys)
        some = data.draw(st.sampled_from([None, keys[:1], keys]))
        fates = {key: data.draw(st.sampled_from(["done", "done", "back", "later", "unbegun", "dead"])) for key in (some or keys)}
        backs = [
            Back(key, 25.0 if fate == "later" else 0.0, fate != "unbegun")
            for key, fate in fates.items()
            if fate in ("back", "later", "unbegun")
        ]

        def call(store):
            return store.settle(
                Settlement(
                    queue=self.queue,
                    fence=model_fence if store is self.model else fence,
                    keys=some,
                    back=backs,
                    dead=[(key, "no good") for key, fate in fates.items() if fate == "dead"],
                    max_attempts=MOST,
                    remember=30.0,
                    pipeline=self.queue,
                    counts={"done": 1},
                )
            )

        self.both(call)
        self.done = self.known - set(self.model._queues[self.queue].values)

    @precondition(lambda self: self.fences)
    @rule(data=st.data())
    def renew(self, data):
        model_fence, fence, _ = data.draw(st.sampled_from(self.fences))
        self.both(lambda store: store.renew(self.queue, model_fence if store is self.model else fence, 60.0))

    @rule(seconds=st.sampled_from([1.0, 20.0, 61.0]))
    def pass_time(self, seconds):
        self.clock.advance(seconds)

    @rule()
    def revive(self):
        self.both(lambda store: store.revive(self.queue, None))

    @rule()
    def look(self):
        self.both(lambda store: store.counts(self.queue))
        self.both(lambda store: store.progress(self.queue))


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_a_queue_does_what_a_queue_in_memory_does(kind, tmp_path, request):
    SameAsInMemory.store = open_store(
        f"sqlite:///{tmp_path}/rows.db" if kind == "sqlite" else request.getfixturevalue("redis_server").url
    )
    options = settings(max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(SameAsInMemory, settings=options)


def by_key(rows):
    return sorted(rows, key=lambda row: row.key)


def claimed(store, queue="q", lease=60.0, most=3, limit=10):
    return store.claim(queue, limit, lease, most)


def test_a_claim_whose_lease_ran_out_cannot_settle_any_more(store):
    with shared_clock(ManualClock()) as clock:
        store.put(Put("q", [("a", 1), ("b", 2)]))
        late = claimed(store)
        clock.advance(61)
        again = claimed(store)
        assert [(row.key, row.attempt) for row in again.rows] == [("a", 2), ("b", 2)]
        assert not store.settle(Settlement(queue="q", fence=late.fence, puts=[Put("other", [("x", 1)])]))
        assert not store.renew("q", late.fence, 60)
        assert store.counts("other").waiting == 0
        assert store.settle(Settlement(queue="q", fence=again.fence, puts=[Put("other", [("x", 1)])]))
        assert store.counts("other").waiting == 1
        assert store.counts("q").open == 0


def test_a_row_whose_lease_runs_out_again_and_again_is_dead_with_the_reason(store):
    with shared_clock(ManualClock()) as clock:
        store.put(Put("q", [("poison", {"n": 1})]))
        for _ in range(3):
            assert claimed(store).rows
            clock.advance(61)
        assert not claimed(store).rows
        (dead,) = store.dead("q", 10)
        assert (dead.key, dead.value, dead.reason, dead.attempts) == ("poison", {"n": 1}, "its lease ran out", 3)
        assert store.revive("q", ["poison"]) == 1
        assert claimed(store).rows[0].attempt == 1


def test_a_key_is_taken_once_while_it_waits_and_while_it_is_remembered(store):
    with shared_clock(ManualClock()) as clock:
        assert store.put(Put("q", [("a", 1), ("a", 2), ("b", 3)])) == 2
        claim = claimed(store)
        assert store.put(Put("q", [("a", 9)])) == 0
        store.settle(Settlement(queue="q", fence=claim.fence, remember=100))
        assert store.put(Put("q", [("a", 9), ("c", 1)])) == 1
        clock.advance(101)
        claimed(store)
        assert store.put(Put("q", [("a", 9)])) == 1


def test_a_large_claim_keeps_its_order_and_loses_nothing(store):
    store.put(Put("q", [(str(number), number) for number in range(7_003)]))
    claim = claimed(store, limit=6_000)
    assert [row.value for row in claim.rows] == list(range(6_000))
    assert store.settle(Settlement(queue="q", fence=claim.fence, back=[Back("3", 0, False)]))
    assert [row.value for row in claimed(store, limit=2_000).rows] == [3, *range(6_000, 7_003)]


def test_a_cursor_moves_only_from_where_it_was_seen(store):
    assert store.cursor("q") is None
    assert store.feed(Put("q", [("a", 1)]), None, "1")
    assert not store.feed(Put("q", [("b", 1)]), None, "2")
    assert store.feed(Put("q", [("b", 1)]), "1", "2")
    assert store.cursor("q") == "2"
    assert store.counts("q").waiting == 2


def join(**options):
    return JoinSpec(**{"queue": "j", "expect": 3, "timeout": 100.0, "timed_out": "j", "late": "late", "remember": 1000.0} | options)


def test_a_join_fires_once_when_its_last_part_arrives_and_late_parts_go_their_way(store):
    with shared_clock(ManualClock()):
        arrived = [store.arrive(Part(join(), "k", name, {"from": name})) for name in ("a", "b", "a", "c", "c", "d")]
        assert arrived == ["waiting", "waiting", "again", "fired", "late", "late"]
        (row,) = claimed(store, "j").rows
        assert row.value == {"key": "k", "parts": {name: {"from": name} for name in "abc"}, "complete": True}
        assert sorted(row.key for row in claimed(store, "late").rows) == ["k/c", "k/d"]


def test_a_join_times_out_with_what_it_has_on_its_own_route(store):
    spec = join(timed_out="incomplete")
    with shared_clock(ManualClock()) as clock:
        store.arrive(Part(spec, "k", "a", 1))
        clock.advance(60)
        store.arrive(Part(spec, "k", "b", 2))
        assert store.expire(spec) == 0
        clock.advance(41)
        assert store.expire(spec) == 1
        assert store.expire(spec) == 0
        assert store.arrive(Part(spec, "k", "c", 3)) == "late"
        (row,) = claimed(store, "incomplete").rows
        assert row.value == {"key": "k", "parts": {"a": 1, "b": 2}, "complete": False}
        assert claimed(store, "late").rows[0].value == {"key": "k", "part": "c", "value": 3}
        assert not claimed(store, "j").rows

"""Who owns a message on Redis, beyond the kit: joins and results in other databases, holds, the quarantine, and lease bugs that
others have shipped."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from importlib.resources import files

import pytest
import redis

from jumpstarter.abc.results import Fence
from jumpstarter.brokers.redis import RedisBroker, layout
from jumpstarter.errors import BrokerError, BrokerUnavailable, QueueNotFound
from jumpstarter.jobs import ACK, ACKED, REQUEUE, Completed, Delivery, Document, Park, Quarantine, Settlement
from jumpstarter.results.redis import RedisResults
from jumpstarter.testing.broker_kit import LEASE, PATIENCE, Forked, background, bodies, envelope, part, settlement
from tests.peers import eventually
from tests.redis_server import FaultyProxy, RedisServer, ServerClock, redis_server, shared_redis

__all__ = ["redis_server", "shared_redis"]

COMMON = (files("jumpstarter.brokers.redis") / "lua" / "common.lua").read_text("utf-8")


@pytest.fixture
def client(redis_server):
    with redis.Redis(port=redis_server.port) as client:
        yield client


@pytest.fixture
def broker(redis_server):
    with RedisBroker(redis_server.url) as broker:
        yield broker


@pytest.fixture
def results(redis_server):
    with RedisResults(redis_server.url) as results:
        yield results


@pytest.fixture
def clock(redis_server):
    return ServerClock(redis_server)


def in_database(server: RedisServer, number: int) -> str:
    return f"{server.url.rpartition('/')[0]}/{number}"


@pytest.fixture
def elsewhere(redis_server):
    """Results in another database of the broker's server."""
    with RedisResults(in_database(redis_server, 3)) as results:
        yield results


def claim(broker, limit=100, by="a", queues=("q",)) -> list[Delivery]:
    return broker.claim(queues, limit, incarnation=by, lease=LEASE)


def with_part(delivery: Delivery, results: RedisResults, member: str, index: int, join: str = "j", **rest: object) -> Settlement:
    return settlement(delivery, part=results.part_write(part(member, index, join=join)), **rest)


def open_join(broker, results, *members: str, join: str = "j", **how: object) -> list[Delivery]:
    """Open a join, and claim a message for each of its members."""
    results.open_join(join, len(members), 3600.0)
    broker.publish([envelope(member.encode(), f"of-{join}") for member in members])
    return claim(broker, queues=[f"of-{join}"], **how)


# Results in another database


def test_results_in_another_database_are_written_with_the_ack(broker, elsewhere, redis_server, client):
    assert broker.server == elsewhere.server
    broker.publish([envelope(b"%d" % number) for number in range(4)])
    deliveries = claim(broker)
    broker.release("a", keep=[one.tag for one in deliveries[:3]])
    with background(lambda: elsewhere.wait(["k2"], PATIENCE)) as waiting:
        batch = [
            settlement(one, publish=[envelope(b"next", "r")], writes=elsewhere.writes([Document(f"k{place}", b"{}", 60)]))
            for place, one in enumerate(deliveries)
        ]
        assert broker.settle(batch, incarnation="a") == [True, True, True, False]
        assert waiting.result(5) == {"k2": b"{}"}
    assert elsewhere.get(["k0", "k1", "k2", "k3"]) == [b"{}", b"{}", b"{}", None]
    assert client.keys("k*") == []
    assert broker.depth("r") == 3
    # The connection is where it was: what follows lands in the broker's own database.
    broker.publish([envelope(b"after", "s")])
    assert [client.llen("r"), client.llen("s"), client.hlen("unacked")] == [3, 1, 0]
    with redis.Redis(port=redis_server.port, db=3) as other:
        assert sorted(other.keys()) == [b"k0", b"k1", b"k2"]


def test_settlements_for_several_databases_do_not_mix(broker, results, elsewhere):
    broker.publish([envelope(b"%d" % number, priority=number % 2 * 9) for number in range(6)])
    deliveries = claim(broker)
    actions = [ACK, REQUEUE, Park(time.time() + 60), Quarantine("why"), ACK, REQUEUE]
    batch = [
        settlement(
            one,
            action,
            publish=[envelope(b"next", "r"), envelope(b"later", "r", due=time.time() + 60)],
            writes=[*results.writes([Document(f"k{place}", b"here")]), *elsewhere.writes([Document(f"k{place}", b"there")])],
        )
        for place, (one, action) in enumerate(zip(deliveries, actions, strict=True))
    ]
    assert broker.settle(batch, incarnation="a") == [True] * 6
    keys = [f"k{place}" for place in range(6)]
    assert results.get(keys) == [b"here"] * 6
    assert elsewhere.get(keys) == [b"there"] * 6
    assert [broker.depth("q"), broker.depth("r"), len(broker.quarantined())] == [2, 6, 1]


def test_what_fails_after_a_write_elsewhere_is_taken_back_here(broker, elsewhere, redis_server, client):
    client.set("jumpstarter.quarantine", "something else")
    (delivery,) = open_join(broker, elsewhere, "a")
    elsewhere.open_join("j", 2, 3600.0)
    doomed = with_part(
        delivery,
        elsewhere,
        "a",
        0,
        action=Quarantine("cannot be written"),
        publish=[envelope(b"sent", "r")],
        writes=elsewhere.writes([Document("k", b"{}")]),
    )
    with pytest.raises(QueueNotFound, match="quarantine"):
        broker.settle([doomed], incarnation="a")
    assert broker.depth("r") == 0
    with redis.Redis(port=redis_server.port, db=3) as other:
        assert not other.exists("j.j", "j.d")
        assert not other.exists("r")
    client.delete("jumpstarter.quarantine")
    assert broker.settle([doomed], incarnation="a") == [True]
    assert [broker.depth("r"), len(broker.quarantined())] == [1, 1]


def test_what_cannot_be_announced_elsewhere_is_taken_back_here(redis_server, elsewhere, client):
    client.acl_setuser("mute", enabled=True, passwords=["+secret"], keys=["*"], commands=["+@all"], reset_channels=True)
    try:
        with RedisBroker(f"redis://mute:secret@127.0.0.1:{redis_server.port}/0") as broker:
            first, last = open_join(broker, elsewhere, "a", "b")
            send = [envelope(b"sent", "r"), envelope(b"parked", "r", due=time.time() + 60)]
            doomed = with_part(first, elsewhere, "a", 0, publish=send, writes=elsewhere.writes([Document("k", b"{}")]))
            with pytest.raises(BrokerError, match="channel"):
                broker.settle([doomed, settlement(last)], incarnation="a")
            assert client.exists("r", "jumpstarter.parked") == 0
            assert [held.tag for held in broker.held("a")] == [first.tag]
            with redis.Redis(port=redis_server.port, db=3) as other:
                assert not other.exists("j.j", "j.d", "r", "jumpstarter.parked")
    finally:
        client.acl_deluser("mute")


def test_what_was_written_elsewhere_survives_a_restart_of_the_server():
    with (
        RedisServer("--appendfsync", "always", aof=True) as server,
        RedisBroker(server.url) as broker,
        RedisResults(in_database(server, 5)) as results,
    ):
        (delivery,) = open_join(broker, results, "a")
        (answer,) = broker.settle([with_part(delivery, results, "a", 0)], incarnation="a")
        assert isinstance(answer, Completed)
        writes = results.writes([Document("k", b"{}")])
        closing = settlement(delivery, publish=[envelope(b"body", "r")], writes=writes, closes=results.close_write("j"))
        assert broker.settle([closing], incarnation="a") == [True]
        server.kill()
        server.start()
        assert results.get(["k"]) == [b"{}"]
        assert results.add_parts([part("a", 0)]) == [None]
        assert bodies(claim(broker, queues=["r"])) == [b"body"]
        assert broker.held("a")[0].queue == "r"


@pytest.mark.parametrize("rights", [["-select"], ["-select", "+select|3"]], ids=["never", "there, but not back"])
def test_a_user_who_may_not_select_is_told_once_and_keeps_results_apart(redis_server, client, elsewhere, results, caplog, rights):
    client.acl_setuser("kept", enabled=True, passwords=["+secret"], keys=["*"], channels=["*"], commands=["+@all", *rights])
    try:
        with RedisBroker(f"redis://kept:secret@127.0.0.1:{redis_server.port}/0") as broker:
            broker.publish([envelope(b"1"), envelope(b"2")])
            one, two = claim(broker)
            send = [envelope(b"next", "r")]
            batch = [settlement(one, publish=send, writes=elsewhere.writes([Document("k", b"{}")])), settlement(two)]
            assert broker.server == elsewhere.server
            with pytest.raises(BrokerUnavailable, match="database 3"):
                broker.settle(batch, incarnation="a")
            # Nothing was done about the first, and whoever tries again sees that the results are somewhere else.
            assert broker.depth("r") == 0
            assert [held.tag for held in broker.held("a")] == [one.tag]
            assert broker.server != elsewhere.server
            elsewhere.put([Document("k", b"{}")])
            assert broker.settle([settlement(one, publish=send), settlement(two)], incarnation="a") == [True, True]
            assert broker.depth("r") == 1
            # It is said once; who does not look at the server is told that this cannot be done.
            (three,) = claim(broker, queues=["r"])
            with pytest.raises(BrokerError, match="SELECT") as caught:
                broker.settle([settlement(three, writes=elsewhere.writes([Document("k", b"{}")]))], incarnation="a")
            assert not isinstance(caught.value, BrokerUnavailable)
            assert [record.message for record in caplog.records if "may not SELECT database 3" in record.message] == caplog.messages
            # In the broker's own database nothing has to be selected.
            here = settlement(three, writes=results.writes([Document("k", b"{}")]))
            assert broker.settle([here], incarnation="a") == [True]
            assert results.get(["k"]) == [b"{}"]
    finally:
        client.acl_deluser("kept")


# Joins


@pytest.fixture(params=["same database", "another database"])
def store(request, redis_server) -> Iterator[RedisResults]:
    with RedisResults(in_database(redis_server, 0 if request.param == "same database" else 3)) as results:
        yield results


@pytest.mark.parametrize("bytes_before", [0, 3, 20, 50])
def test_a_completed_join_whose_answer_is_lost_is_told_again(redis_server, store, client, bytes_before):
    with FaultyProxy(redis_server.port) as proxy, RedisBroker(proxy.url) as broker:
        broker.publish([envelope(b"alone")])
        first, last = open_join(broker, store, "a", "b")
        (alone,) = claim(broker)
        batch = [
            settlement(alone, publish=[envelope(b"next", "r")]),
            with_part(first, store, "a", 0),
            with_part(last, store, "b", 1, publish=[envelope(b"never", "r")]),
        ]
        proxy.cut_after = bytes_before
        one, two, three = broker.settle(batch, incarnation="a")
        assert proxy.cuts == 1
        assert (one, two, three) == (True, True, Completed([part("a").body, part("b").body]))
        closing = settlement(last, publish=[envelope(b"body", "r")], closes=store.close_write("j"))
        proxy.cut_after = min(bytes_before, 10)
        assert broker.settle([closing], incarnation="a") == [True]
        assert proxy.cuts == 2
        assert bodies(claim(broker, queues=["r"])) == [b"next", b"body"]
    assert client.exists("jumpstarter.claims.a") == 1


def test_a_join_that_was_completed_unnoticed_is_told_when_it_is_asked_again(redis_server, store):
    with FaultyProxy(redis_server.port) as proxy, RedisBroker(proxy.url, timeout=0.3) as broker:
        broker.publish([envelope(b"alone")])
        (last,) = open_join(broker, store, "a")
        (alone,) = claim(broker)
        batch = [settlement(alone), with_part(last, store, "a", 0)]
        redis_server.pause()
        try:
            with pytest.raises(BrokerUnavailable):
                broker.settle(batch, incarnation="a")
        finally:
            redis_server.resume()
        assert broker.settle(batch, incarnation="a") == [True, Completed([part("a").body])]


def test_an_error_whose_answer_is_lost_is_told_again(redis_server, client):
    client.hset("bad", "a", "b")
    with FaultyProxy(redis_server.port) as proxy, RedisBroker(proxy.url) as broker:
        broker.publish([envelope(b"1"), envelope(b"2")])
        one, two = claim(broker)
        proxy.cut_after = 0
        with pytest.raises(QueueNotFound, match="bad"):
            broker.settle([settlement(one, publish=[envelope(b"3", "bad")]), settlement(two)], incarnation="a")
        assert proxy.cuts == 1
        client.delete("bad")
        assert broker.settle([settlement(one), settlement(two)], incarnation="a") == [True, True]


@pytest.mark.parametrize("ordered", [True, False])
def test_a_part_whose_settlement_fails_is_not_counted(redis_server, broker, client, ordered):
    client.hset("bad", "a", "b")
    with RedisResults(redis_server.url, ordered_joins=ordered) as results:
        first, last = open_join(broker, results, "a", "b")
        doomed = [with_part(first, results, "a", 0, publish=[envelope(b"x", "r"), envelope(b"3", "bad")])]
        with pytest.raises(QueueNotFound, match="bad"):
            broker.settle(doomed, incarnation="a")
        assert client.exists("j.j", "j.d", "r") == 0
        assert broker.settle([with_part(last, results, "b", 1)], incarnation="a") == [True]
        client.delete("bad")
        (answer,) = broker.settle([with_part(first, results, "a", 0)], incarnation="a")
        assert isinstance(answer, Completed)
        assert len(answer.bodies) == 2


def test_a_part_that_was_counted_before_stays_counted_when_its_settlement_fails(broker, results, client):
    client.hset("bad", "a", "b")
    first, _ = open_join(broker, results, "a", "b")
    assert results.add_parts([part("a", 0)]) == [None]
    with pytest.raises(QueueNotFound, match="bad"):
        broker.settle([with_part(first, results, "a", 0, publish=[envelope(b"3", "bad")])], incarnation="a")
    assert client.smembers("j.d") == {b"a:0"}
    assert client.zcard("j.j") == 1


@pytest.mark.parametrize("ending", [".j", ".s", ".d", ".c"])
def test_a_join_whose_keys_hold_something_else_does_not_stop_the_others(broker, results, client, ending):
    (delivery,) = open_join(broker, results, "a")
    broker.publish([envelope(b"alone")])
    (alone,) = claim(broker)
    client.delete(f"j{ending}")
    client.hset(f"j{ending}", "a", "b")
    doomed = with_part(delivery, results, "a", 0, publish=[envelope(b"next", "r")])
    with pytest.raises(QueueNotFound, match="j"):
        broker.settle([doomed, settlement(alone)], incarnation="a")
    assert [held.tag for held in broker.held("a")] == [delivery.tag]
    assert broker.depth("r") == 0
    client.delete(f"j{ending}")
    results.open_join("j", 1, 3600.0)
    assert isinstance(broker.settle([doomed], incarnation="a")[0], Completed)


def test_a_join_that_a_genuine_worker_is_about_to_finish_is_left_to_it(broker, store, redis_server):
    (delivery,) = open_join(broker, store, "a")
    (answer,) = broker.settle([with_part(delivery, store, "a", 0)], incarnation="a")
    assert isinstance(answer, Completed)
    closing = settlement(delivery, publish=[envelope(b"body", "r")], closes=store.close_write("j"))
    number = 0 if store.url.endswith("0") else 3
    with redis.Redis(port=redis_server.port, db=number) as keys:
        # Our claim on the join ran out, and a genuine worker was delivered a copy of the task.
        keys.set("j.c", "a-random-token", ex=10)
        assert broker.settle([closing], incarnation="a") == [Completed([])]
        assert [held.tag for held in broker.held("a")] == [delivery.tag]
        keys.set("j.c", "done", ex=300)
        keys.delete("j.j", "j.s", "j.d")
    assert broker.settle([closing], incarnation="a") == [Completed([])]
    assert broker.settle([with_part(delivery, store, "a", 0)], incarnation="a") == [True]
    assert broker.depth("r") == 0


def test_a_join_that_was_finished_and_forgotten_is_not_finished_again(broker, results, client):
    (delivery,) = open_join(broker, results, "a")
    broker.settle([with_part(delivery, results, "a", 0)], incarnation="a")
    client.delete("j.c", "j.j", "j.s", "j.d")
    closing = settlement(delivery, publish=[envelope(b"body", "r")], closes=results.close_write("j"))
    assert broker.settle([closing], incarnation="a") == [Completed([])]
    assert broker.depth("r") == 0


def test_a_join_that_our_claim_ran_out_for_is_finished_all_the_same(broker, results, client):
    (delivery,) = open_join(broker, results, "a")
    broker.settle([with_part(delivery, results, "a", 0)], incarnation="a")
    client.delete("j.c")
    closing = settlement(delivery, publish=[envelope(b"body", "r")], closes=results.close_write("j"))
    assert broker.settle([closing], incarnation="a") == [True]
    assert client.get("j.c") == b"done"
    assert broker.depth("r") == 1


def test_what_was_acked_before_counts_once_though_its_answer_is_lost(redis_server, store):
    with FaultyProxy(redis_server.port) as proxy, RedisBroker(proxy.url) as broker:
        first, last = open_join(broker, store, "a", "b")
        assert broker.settle([settlement(first), settlement(last)], incarnation="a") == [True, True]
        send = [envelope(b"next", "r")]
        proxy.cut_after = 0
        batch = [
            with_part(first, store, "a", 0, action=ACKED, publish=send, writes=store.writes([Document("k", b"{}")])),
            with_part(last, store, "b", 1, action=ACKED),
        ]
        one, two = broker.settle(batch, incarnation="a")
        assert proxy.cuts == 1
        assert (one, two) == (True, Completed([part("a").body, part("b").body]))
        closing = settlement(last, ACKED, publish=[envelope(b"body", "r")], closes=store.close_write("j"))
        proxy.cut_after = 0
        assert broker.settle([closing], incarnation="a") == [True]
        assert bodies(claim(broker, queues=["r"])) == [b"next", b"body"]
        assert store.get(["k"]) == [b"{}"]


# A worker that sleeps through its lease


@pytest.mark.parametrize("where", ["same database", "another database", "another server"])
def test_a_worker_whose_claim_was_taken_over_changes_nothing(redis_server, where):
    """Fifty times: A claims, falls silent, B takes over; then A wakes up with all that it still wanted to do."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(RedisServer()) if where == "another server" else redis_server
        store = in_database(server, 3 if where == "another database" else 0)
        sleeper, successor = (stack.enter_context(RedisBroker(redis_server.url)) for _ in range(2))
        its, results = (stack.enter_context(RedisResults(store)) for _ in range(2))
        client = stack.enter_context(redis.Redis(port=redis_server.port))
        kept = stack.enter_context(redis.Redis.from_url(store))
        assert (sleeper.server == its.server) == (where != "another server")
        for number in range(50):
            join, done = f"j{number}", f"done{number}"
            stale = open_join(sleeper, its, "a", "b", join=join, by="A")
            its.open_join(done, 1, 3600.0)
            client.zadd("jumpstarter.leases", {"A": 1.0})
            assert successor.reap().returned == 2
            fresh = claim(successor, by="B", queues=[f"of-{join}"])
            assert [one.attempt for one in fresh] == [2, 2]
            if where == "another server":
                results.fence([Fence(member, 2) for member in "ab"], 60.0)

            # A is back. It had finished both, believes that its second part is the last, and that the other join is complete.
            late = [Document(f"{join}-late", b"late")]
            if where == "another server":
                by = [Fence("a", 1)]
                assert its.put(late, by=by) == [False]
                assert its.add_parts([part("a", 0, join=join)], by=by) == [None]
                batch = [settlement(one, publish=[envelope(b"late", "r")]) for one in stale]
            else:
                rest = {"publish": [envelope(b"late", "r")], "writes": its.writes(late)}
                batch = [
                    with_part(stale[0], its, "a", 0, join=join, **rest),
                    settlement(stale[1], closes=its.close_write(done), **rest),
                ]
            assert sleeper.settle(batch, incarnation="A") == [False, False]
            assert results.get([f"{join}-late"]) == [None]
            assert successor.depth("r") == 0
            assert [one.tag for one in successor.held("B")] == [one.tag for one in fresh]

            # Nothing was counted and nothing is closed: B finishes both.
            assert not kept.exists(f"{join}.j", f"{join}.d", f"{join}.c", f"{done}.c")
            if where == "another server":
                by = [Fence("a", 2), Fence("b", 2)]
                assert results.add_parts([part("a", 0, join=join), part("b", 1, join=join)], by=by)[0] is None
                assert successor.settle([settlement(one) for one in fresh], incarnation="B") == [True, True]
            else:
                first, last = successor.settle(
                    [with_part(one, results, "ab"[place], place, join=join) for place, one in enumerate(fresh)], incarnation="B"
                )
                assert (first, isinstance(last, Completed)) == (True, True)
                closing = settlement(fresh[1], publish=[envelope(b"body", "s")], closes=results.close_write(join))
                assert successor.settle([closing], incarnation="B") == [True]
                assert len(claim(successor, by="C", queues=["s"])) == 1
            assert results.add_parts([part("z", 0, join=done)]) == [[part("z").body]]


# Holds


def test_a_hold_leaves_nothing_behind(broker, client):
    broker.publish([envelope(b"%d" % number) for number in range(4)])
    deliveries = claim(broker)
    broker.renew(["a"], LEASE)
    assert not client.exists("jumpstarter.holds.a")
    broker.hold([one.tag for one in deliveries[:3]], 5.0, incarnation="a")
    assert client.hlen("jumpstarter.holds.a") == 3
    assert broker.settle([settlement(one) for one in deliveries[:3]], incarnation="a") == [True] * 3
    assert client.keys("jumpstarter.holds.*") == []
    assert set(client.hkeys("jumpstarter.calls.a")) == {b"claim", b"settle"}
    broker.hold([deliveries[3].tag], 5.0, incarnation="a")
    broker.release("a")
    assert {key for key in client.scan_iter("jumpstarter.*") if b".publisher." not in key} == {b"jumpstarter.epoch"}


def test_the_last_hold_that_ends_gives_the_others_their_lease_back(broker, clock):
    broker.publish([envelope(b"1"), envelope(b"2")])
    held, other = claim(broker)
    broker.hold([held.tag], 5.0, incarnation="a")
    clock.advance(3)
    assert broker.settle([settlement(held)], incarnation="a") == [True]
    clock.advance(LEASE - 4)
    assert broker.reap().returned == 0
    clock.advance(2)
    assert broker.reap().returned == 1
    assert broker.settle([settlement(other)], incarnation="a") == [False]


def test_each_claim_of_a_silent_worker_comes_back_when_its_own_lease_ends(broker, clock):
    broker.publish([envelope(b"%d" % number) for number in range(5)])
    deliveries = claim(broker)
    for delivery, seconds in zip(deliveries, (5, 12, 65, 125), strict=False):
        broker.hold([delivery.tag], seconds, incarnation="a")
    returned = []
    for _ in range(13):
        clock.advance(10)
        broker.reap()
        returned.append(5 - len(broker.held("a")))
    assert returned == [1, 2, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4, 5]


def test_a_hold_that_comes_while_a_reaper_looks_is_kept(broker, redis_server, clock):
    class Interrupted(RedisBroker):
        """Sees what is overdue, and before it moves that the owner asks for more time for one."""

        def _overdue(self, incarnation):
            tags = super()._overdue(incarnation)
            broker.hold([deliveries[0].tag], 50.0, incarnation="a")
            return tags

    broker.publish([envelope(b"1"), envelope(b"2"), envelope(b"3")])
    deliveries = claim(broker)
    broker.hold([deliveries[0].tag], 5.0, incarnation="a")
    clock.advance(LEASE + 1)
    with Interrupted(redis_server.url) as reaper:
        assert reaper.reap().returned == 2
    assert [one.tag for one in broker.held("a")] == [deliveries[0].tag]
    clock.advance(51)
    assert broker.reap().returned == 1


def test_a_reaper_reads_only_the_messages_that_are_overdue(broker, client, clock):
    broker.publish([envelope(b"%d" % number) for number in range(2000)])
    deliveries = claim(broker, 2000)
    broker.hold([deliveries[7].tag], 5.0, incarnation="a")
    broker.hold([deliveries[8].tag], 300.0, incarnation="a")
    clock.advance(6)
    before = client.info("commandstats")["cmdstat_hmget"]["calls"]
    assert broker.reap().returned == 1
    assert client.info("commandstats")["cmdstat_hmget"]["calls"] - before < 8
    assert len(broker.held("a")) == 1999
    # And comes back when the next one is.
    assert client.zscore("jumpstarter.leases", "a") > client.time()[0] + 10


def test_a_worker_that_renews_thrice_within_its_shortest_hold_loses_nothing(broker, clock):
    broker.publish([envelope(b"1"), envelope(b"2")])
    held, other = claim(broker)
    broker.hold([held.tag], 6.0, incarnation="a")
    for _ in range(30):
        clock.advance(2)
        broker.renew(["a"], LEASE)
        clock.advance(2)
        assert broker.reap().returned == 0
    assert broker.settle([settlement(held), settlement(other)], incarnation="a") == [True, True]


# Quarantine


def rest(broker, *queues, attempts=1):
    """Put what waits there into quarantine."""
    while deliveries := claim(broker, queues=queues):
        batch = [settlement(one, Quarantine("why") if one.attempt == attempts else REQUEUE) for one in deliveries]
        assert all(broker.settle(batch, incarnation="a"))
    return broker.quarantined(limit=100_000)


def fill(broker, *messages):
    """Put the messages into quarantine."""
    broker.publish(list(messages))
    return rest(broker, *sorted({one.queue for one in messages}))


def test_a_requeued_message_is_the_one_that_was_published(broker, client):
    message = envelope(bytes(range(256)), headers={"id": "7", "lang": "\ud800", "big": 2**70}, priority=6, exchange="news")
    broker.publish([message])
    before = client.lindex("q\x06\x166", 0)
    (resting,) = rest(broker, "q", attempts=3)
    assert resting.attempt == 3
    assert broker.requeue_quarantined([resting.id]) == 1
    assert layout.loads(client.lindex("q\x06\x166", 0)) == layout.loads(before)
    assert not client.exists("jumpstarter.quarantine", "jumpstarter.quarantine.order")


def test_a_queue_whose_key_holds_something_else_keeps_its_messages_in_quarantine(broker, client):
    resting = fill(broker, envelope(b"1"), envelope(b"2", "bad"), envelope(b"3"))
    client.hset("bad", "a", "b")
    ids = {one.queue + one.envelope.body.decode(): one.id for one in resting}
    with pytest.raises(QueueNotFound, match="bad"):
        broker.requeue_quarantined([ids["q1"], ids["bad2"], ids["q3"]])
    assert {one.id for one in broker.quarantined()} == {ids["bad2"], ids["q3"]}
    client.delete("bad")
    assert broker.requeue_quarantined(list(ids.values())) == 2
    assert [broker.depth("q"), broker.depth("bad")] == [2, 1]


def test_ids_in_quarantine_are_times_and_differ_within_a_batch(broker, client):
    resting = fill(broker, *(envelope(b"%d" % number) for number in range(600)))
    numbers = [int(one.id) for one in resting]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 600
    seconds, micros = client.time()
    assert all(0 <= seconds + micros / 1e6 - one.at < 60 for one in resting)
    assert broker.quarantined(after="no number") == []
    assert broker.quarantined(after=str(numbers[-1])) == []


def test_a_server_whose_clock_stands_still_gives_every_message_an_id_of_its_own(client):
    stopped = """
    local real = redis
    local function call(name, ...) if name == 'TIME' then return {'1000', '5'} end return real.call(name, ...) end
    local redis = setmetatable({call = call}, {__index = real})
    """
    for number in range(5):
        client.eval(f"{stopped}{COMMON}rest(KEYS[1], KEYS[2], ARGV[1])", 2, "records", "order", f"r{number}")
    assert client.hgetall("records") == {b"%d" % (1000_000_005 + number): b"r%d" % number for number in range(5)}
    assert client.zrange("order", 0, -1) == sorted(client.hkeys("records"))


def test_a_person_who_is_killed_while_requeueing_neither_loses_nor_doubles_a_message(broker):
    ids = [one.id for one in fill(broker, *(envelope(b"%d" % number) for number in range(2000)))]
    child = Forked(lambda: broker.requeue_quarantined(ids))
    eventually(lambda: broker.depth("q") > 0, within=PATIENCE, what="the first messages are back")
    child.kill()
    back = broker.depth("q")
    assert broker.requeue_quarantined(ids) == 2000 - back
    assert broker.depth("q") == 2000
    assert sorted(bodies(claim(broker, 5000)), key=int) == [b"%d" % number for number in range(2000)]


# Lease bugs that others have shipped


def test_a_restorer_that_dies_under_kombus_lock_stops_the_others_for_a_while_only(broker, redis_server, client):
    """taskiq-redis#131: a recovery lock without an end."""

    class Dying(RedisBroker):
        def _restore(self, tag, entry, tables):
            os.kill(os.getpid(), signal.SIGKILL)

    broker.publish([envelope()])
    client.hset("unacked", "foreign", '[{"headers": {}, "properties": {}}, "", "q"]')
    client.zadd("unacked_index", {"foreign": 1.0})
    pid = os.fork()
    if pid == 0:
        Dying(redis_server.url).reap()
        os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    assert 0 < client.ttl("unacked_mutex") <= 300
    assert broker.reap().returned == 0
    client.pexpire("unacked_mutex", 1)
    eventually(lambda: not client.exists("unacked_mutex"), within=5, what="the lock ends by itself")
    assert broker.reap().returned == 1


def test_a_reaper_that_stalls_stops_nobody(broker, redis_server, client):
    """procrastinate#1408: the reaper itself stalls."""

    class Stalling(RedisBroker):
        def _overdue(self, incarnation):
            tags = super()._overdue(incarnation)
            os.kill(os.getpid(), signal.SIGSTOP)
            return tags

    def stall() -> int:
        with Stalling(redis_server.url) as reaper:
            return reaper.reap().returned

    broker.publish([envelope(b"%d" % number) for number in range(20)])
    claim(broker)
    client.zadd("jumpstarter.leases", {"a": 1.0})
    child = Forked(stall)
    assert os.WIFSTOPPED(os.waitpid(child.pid, os.WUNTRACED)[1])
    assert broker.reap().returned == 20
    again = claim(broker, by="b")
    os.kill(child.pid, signal.SIGCONT)
    # It had seen all of them, and wakes up after they were given to somebody else.
    assert child.result() == 0
    assert broker.depth("q") == 0
    assert broker.settle([settlement(one) for one in again], incarnation="b") == [True] * 20


def test_twenty_thousand_claims_are_held_requeued_and_reaped(redis_server, client):
    """dramatiq#258: a bulk requeue overflows Lua's unpack."""
    count = 20_000
    with RedisBroker(redis_server.url, timeout=PATIENCE) as broker:
        broker.publish([envelope(b"%d" % number) for number in range(count)])
        deliveries = claim(broker, count)
        broker.hold([one.tag for one in deliveries], 60.0, incarnation="a")
        broker.renew(["a"], LEASE)
        assert broker.settle([settlement(one, REQUEUE) for one in deliveries], incarnation="a") == [True] * count
        assert client.keys("jumpstarter.holds.*") == []
        deliveries = claim(broker, count, by="b")
        assert {one.attempt for one in deliveries} == {2}
        broker.hold([one.tag for one in deliveries[::2]], 5.0, incarnation="b")
        client.zadd("jumpstarter.leases", {"b": 1.0})
        assert broker.reap().returned == count
        assert broker.depth("q") == count
        assert client.keys("jumpstarter.holds.*") == []


def test_a_claim_is_never_seen_without_its_lease(broker, redis_server):
    """SAQ#277: what was claimed and not yet registered is swept as an orphan."""
    broker.publish([envelope(b"%d" % number) for number in range(1500)])
    over = threading.Event()

    def sweep() -> int:
        # To this one, whatever has no lease is an orphan at once.
        with RedisBroker(redis_server.url, visibility_timeout=1e-6) as reaper:
            returned = 0
            while not over.is_set():
                returned += reaper.reap().returned
            return returned

    # One sweeps when it likes, the other between each claim and its end.
    with background(sweep) as sweeping, RedisBroker(redis_server.url, visibility_timeout=1e-6) as reaper:
        number = 0
        try:
            while deliveries := claim(broker, 3, by=f"worker-{number}"):
                if number < 50:
                    assert reaper.reap().returned == 0
                assert broker.settle([settlement(one) for one in deliveries], incarnation=f"worker-{number}") == [True] * 3
                number += 1
        finally:
            over.set()
        assert sweeping.result(PATIENCE) == 0
    assert number == 500


@pytest.mark.parametrize("hours", [-1000, 1000])
def test_the_wall_clocks_of_workers_do_not_matter(broker, redis_server, client, clock, monkeypatch, hours):
    """oban-py 0.6.2: a clock that goes back repeats work."""
    broker.publish([envelope(b"1"), envelope(b"2")])
    held, other = claim(broker)
    wrong = time.time() + 3600 * hours
    monkeypatch.setattr(time, "time", lambda: wrong)
    broker.hold([held.tag], 60.0, incarnation="a")
    broker.renew(["a"], LEASE)
    seconds, _ = client.time()
    assert client.zscore("jumpstarter.leases", "a") == pytest.approx(seconds + LEASE, abs=5)
    with RedisBroker(redis_server.url) as reaper:
        assert reaper.reap().returned == 0
        broker.publish([envelope(b"3")])
        (third,) = claim(reaper, by="b")
        assert third.epoch > held.epoch
        clock.advance(LEASE + 1)
        assert reaper.reap().returned == 2
    assert broker.settle([settlement(held), settlement(other)], incarnation="a") == [True, False]
    (resting,) = fill(broker, envelope(b"4", "s"))
    assert resting.at == pytest.approx(seconds, abs=60)


def test_a_heartbeat_after_the_end_revives_nothing(broker, client, clock):
    """prefect#18653: a heartbeat that comes after completion flips the final state."""
    broker.publish([envelope()])
    (delivery,) = claim(broker)
    broker.hold([delivery.tag], 5.0, incarnation="a")
    assert broker.settle([settlement(delivery)], incarnation="a") == [True]
    broker.renew(["a"], LEASE)
    broker.hold([delivery.tag], 5.0, incarnation="a")
    assert not client.exists("unacked", "unacked_index", "jumpstarter.holds.a")
    clock.advance(LEASE + 1)
    assert broker.reap().returned == 0
    assert client.keys("jumpstarter.leases") == []

"""The Redis results pass the kit; beside that: what they share with genuine Celery, and what networks do to them."""

from __future__ import annotations

import contextlib
import json
import threading
import time

import pytest
import redis

from jumpstarter._redis import Link
from jumpstarter.abc.results import Fence
from jumpstarter.brokers.redis import RedisBroker
from jumpstarter.errors import ConfigurationError, ResultsUnavailable
from jumpstarter.jobs import ACK, Document, Envelope, Part, Settlement
from jumpstarter.results import open_results
from jumpstarter.results.redis import LOOK_EVERY, RedisResults
from jumpstarter.testing.broker_kit import PATIENCE, background
from jumpstarter.testing.results_kit import ResultsKit, add
from tests.redis_server import FaultyProxy, RedisServer, ServerClock, redis_server, shared_redis

__all__ = ["redis_server", "shared_redis"]

SUCCESS = b'{"status": "SUCCESS", "result": 1, "traceback": null}'
PENDING = b'{"status": "STARTED", "result": null}'


@pytest.fixture
def client(redis_server):
    with redis.Redis(port=redis_server.port) as client:
        yield client


@pytest.fixture
def results(redis_server):
    with RedisResults(redis_server.url) as results:
        yield results


class TestRedisResults(ResultsKit):
    @pytest.fixture
    def results_factory(self, redis_server):
        self.server = redis_server
        with contextlib.ExitStack() as stores:
            yield lambda **options: stores.enter_context(RedisResults(redis_server.url, **options))

    @pytest.fixture
    def clock(self, redis_server):
        return ServerClock(redis_server)

    @contextlib.contextmanager
    def stalled(self, results):
        self.server.pause()
        try:
            yield
        finally:
            self.server.resume()


def chord_part(number: int, index: int | None = None, state: str = "SUCCESS") -> Part:
    """A part with the body that Celery's workers write."""
    member = f"task-{number}"
    body = json.dumps([1, member, state, number]).encode()
    place = number if index is None else index
    return Part(join="celery-taskset-meta-g", member=member, index=place, body=body, ttl=3600.0, complete=None)


# Documents as Celery keeps them


def test_a_document_is_a_string_with_a_ttl_announced_on_its_own_channel(results, client):
    channel = client.pubsub(ignore_subscribe_messages=True)
    channel.subscribe("celery-task-meta-1")
    channel.get_message(timeout=5)
    results.put([Document("celery-task-meta-1", SUCCESS, ttl=86400)])
    assert client.get("celery-task-meta-1") == SUCCESS
    assert client.ttl("celery-task-meta-1") == pytest.approx(86400, abs=2)
    assert channel.get_message(timeout=5)["data"] == SUCCESS
    assert client.keys() == [b"celery-task-meta-1"]
    channel.close()


@pytest.mark.parametrize("spaces", ["", " "])
def test_a_success_that_a_genuine_worker_stored_stays(results, client, spaces):
    stored = f'{{"status":{spaces}"SUCCESS",{spaces}"result": 1}}'
    client.set("k", stored)
    results.put([Document("k", PENDING)])
    assert results.get(["k"]) == [stored.encode()]


def test_whatever_else_a_genuine_worker_stored_is_overwritten(results, client):
    client.set("k", PENDING)
    client.hset("other", "a", "b")
    results.put([Document("k", SUCCESS), Document("other", SUCCESS)])
    assert results.get(["k", "other"]) == [SUCCESS, SUCCESS]


def test_a_final_document_that_does_not_look_like_a_success_stays_too(results, client):
    packed = b"\x00celery-compressed\x00zlib\x00" + b"x" * 100
    results.put([Document("k", packed, ttl=60, final=True)])
    results.put([Document("k", PENDING)])
    assert results.get(["k"]) == [packed]
    assert results.delete(["k"]) == 1
    assert client.keys() == []


def test_a_prefix_stands_before_every_key_and_channel(redis_server, client):
    with RedisResults(redis_server.url, key_prefix="app_") as results:
        with background(lambda: results.wait(["k"], PATIENCE)) as waiting:
            while not client.pubsub_channels("app_k"):
                time.sleep(0.005)
            RedisResults(redis_server.url, key_prefix="app_").put([Document("k", b"{}")])
            assert waiting.result(5) == {"k": b"{}"}
        results.open_join("j", 1, None)
        assert add(results, Part("j", "a", 0, b"1", None, None)) == [b"1"]
        results.close_join("j")
        assert sorted(client.keys()) == [b"app_j.c", b"app_k"]


# Together with a settle


def test_writes_travel_in_the_settle_of_a_broker_on_the_same_database(results, redis_server, client):
    with RedisBroker(redis_server.url) as broker:
        assert broker.server == results.server
        broker.publish([Envelope(queue="q", body=b"", headers={})] * 3)
        claimed = broker.claim(["q"], 3, incarnation="a", lease=30)
        broker.release("a", keep=[claimed[0].tag, claimed[1].tag])
        client.set("there", SUCCESS)
        documents = {0: "one", 1: "there", 2: "late"}
        settlements = [
            Settlement(claimed[at], ACK, writes=results.writes([Document(key, PENDING, 60)])) for at, key in documents.items()
        ]
        with background(lambda: results.wait(["one"], PATIENCE)) as waiting:
            assert broker.settle(settlements, incarnation="a") == [True, True, False]
            assert waiting.result(5) == {"one": PENDING}
    assert results.get(["one", "there", "late"]) == [PENDING, SUCCESS, None]


def test_all_databases_of_a_server_are_one_and_another_server_is_another(redis_server):
    other = redis_server.url[:-1] + "1"
    elsewhere = f"redis://127.0.0.1:{redis_server.port + 1}/0"
    with RedisBroker(redis_server.url) as broker, RedisResults(other) as results, RedisResults(elsewhere) as apart:
        assert broker.server == results.server != apart.server


# Waiting


def test_a_wait_survives_the_loss_of_its_subscription(results, client):
    with background(lambda: results.wait(["k"], PATIENCE)) as waiting:
        for _ in range(5):
            while not client.pubsub_channels("k"):
                time.sleep(0.005)
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        RedisResults(results.url).put([Document("k", b"{}")])
        assert waiting.result(5) == {"k": b"{}"}


def test_what_is_written_while_a_wait_begins_is_heard_at_once(redis_server, results):
    class Interrupted(RedisResults):
        """Somebody writes right after it has looked."""

        def _present(self, channels, listener):
            found = super()._present(channels, listener)
            results.put([Document("k", b"{}")])
            return found

    with Interrupted(redis_server.url) as waiter:
        began = time.monotonic()
        assert waiter.wait(["k"], PATIENCE) == {"k": b"{}"}
        assert time.monotonic() - began < LOOK_EVERY / 2


def test_a_document_that_was_never_announced_is_found_within_a_second_or_two(results, client):
    with background(lambda: results.wait(["k"], PATIENCE)) as waiting:
        while not client.pubsub_channels("k"):
            time.sleep(0.005)
        client.set("k", "{}")
        assert waiting.result(5) == {"k": b"{}"}


def test_a_wait_leaves_no_subscriptions_behind_but_a_few(results, client):
    for number in range(20):
        results.put([Document(f"k{number}", b"{}")])
        assert results.wait([f"k{number}"], 1) == {f"k{number}": b"{}"}
        assert client.pubsub_channels() == [f"k{number}".encode()]
    assert results.wait([f"never-{number}" for number in range(100)], 0.05) == {}
    client.ping()
    assert client.pubsub_channels() == []
    assert len(client.client_list(_type="pubsub")) <= 1


def test_a_wait_for_many_returns_those_that_are_there(results):
    keys = [f"k{number}" for number in range(3000)]
    results.put([Document(key, b"{}") for key in keys[::2]])
    missing = set(keys)
    found = results.wait(keys, 5)
    assert sorted(found) == sorted(keys[::2])
    missing -= found.keys()
    publisher = threading.Thread(target=results.put, args=([Document(key, b"{}") for key in keys[1::2]],))
    publisher.start()
    while missing:
        missing -= results.wait(sorted(missing), 5).keys()
    publisher.join()


def test_a_wait_outlasts_a_restart_of_the_server():
    with (
        RedisServer(aof=True) as server,
        RedisResults(server.url) as results,
        background(lambda: results.wait(["k"], PATIENCE)) as waiting,
    ):
        with redis.Redis(port=server.port) as client:
            while not client.pubsub_channels("k"):
                time.sleep(0.005)
        server.kill()
        server.start()
        RedisResults(server.url).put([Document("k", b"{}")])
        assert waiting.result(10) == {"k": b"{}"}


def test_a_wait_for_a_server_that_stays_away_raises_within_the_timeout():
    with RedisServer() as server:
        results = RedisResults(server.url, timeout=0.5)
        results.ping()
        server.kill()
        began = time.monotonic()
        with pytest.raises(ResultsUnavailable, match=r"127\.0\.0\.1"):
            results.wait(["k"], PATIENCE)
        assert 0.4 < time.monotonic() - began < 3


def test_a_put_whose_answer_is_lost_raises_and_the_next_one_works(redis_server, results):
    with FaultyProxy(redis_server.port) as proxy, RedisResults(proxy.url) as far:
        far.put([Document("a", b"{}")])
        proxy.cut_after = 0
        with pytest.raises(ResultsUnavailable):
            far.put([Document("b", b"{}")])
        far.put([Document("c", b"{}")])
    assert results.get(["a", "b", "c"]) == [b"{}"] * 3


# Joins together with genuine workers


def test_parts_lie_where_celerys_chords_keep_them(results, client):
    results.open_join("celery-taskset-meta-g", 2, 3600)
    assert add(results, chord_part(1)) is None
    assert client.get("celery-taskset-meta-g.s") == b"2"
    assert client.zrange("celery-taskset-meta-g.j", 0, -1, withscores=True) == [(b'[1, "task-1", "SUCCESS", 1]', 1.0)]
    assert client.smembers("celery-taskset-meta-g.d") == {b"task-1:1"}
    assert client.ttl("celery-taskset-meta-g.j") == pytest.approx(3600, abs=2)


def test_parts_of_genuine_workers_count(results, client):
    results.open_join("celery-taskset-meta-g", 1, 3600)
    client.incr("celery-taskset-meta-g.t")  # Celery's add_to_chord
    client.zadd("celery-taskset-meta-g.j", {'[1, "other", "SUCCESS", 0]': 0})
    client.sadd("celery-taskset-meta-g.d", "other:0")
    assert add(results, chord_part(1)) == [b'[1, "other", "SUCCESS", 0]', b'[1, "task-1", "SUCCESS", 1]']


def test_a_join_that_a_genuine_worker_finishes_is_left_to_it(results, client):
    results.open_join("celery-taskset-meta-g", 2, 3600)
    assert add(results, chord_part(0)) is None
    client.set("celery-taskset-meta-g.c", "token-of-a-worker", ex=10)
    assert add(results, chord_part(1)) is None
    client.delete("celery-taskset-meta-g.c")  # it died, and its claim ran out
    assert len(add(results, chord_part(1))) == 2


def test_a_join_that_a_genuine_worker_has_finished_stays_finished(results, client):
    client.set("celery-taskset-meta-g.c", "done", ex=300)
    assert add(results, chord_part(0)) is None
    assert client.keys() == [b"celery-taskset-meta-g.c"]


def test_the_part_that_completed_a_join_takes_it_over_when_it_is_delivered_again(results, client):
    results.open_join("celery-taskset-meta-g", 2, 3600)
    assert add(results, chord_part(0)) is None
    first = add(results, chord_part(1))
    assert first is not None
    assert add(results, chord_part(1)) == first


def test_a_join_without_order_is_a_list(redis_server, client):
    with RedisResults(redis_server.url, ordered_joins=False) as results:
        results.open_join("j", 2, None)
        assert add(results, Part("j", "b", 1, b"1", None, None)) is None
        assert add(results, Part("j", "a", 0, b"0", None, None)) == [b"1", b"0"]
        assert client.type("j.j") == b"list"


def test_a_join_that_is_opened_again_is_a_new_one(results):
    results.open_join("celery-taskset-meta-g", 1, 3600)
    assert len(add(results, chord_part(0))) == 1
    results.close_join("celery-taskset-meta-g")
    assert add(results, chord_part(0)) is None
    results.open_join("celery-taskset-meta-g", 1, 3600)
    assert len(add(results, chord_part(0))) == 1


# Fences


@pytest.fixture
def round_trips(monkeypatch):
    """Counts what is sent to servers and waited for."""
    counted = []
    exchange = Link.exchange

    def counting(link, commands, deadline):
        counted.append(len(commands))
        return exchange(link, commands, deadline)

    monkeypatch.setattr(Link, "exchange", counting)
    return counted


def test_any_number_of_documents_parts_and_fences_is_one_round_trip(results, round_trips):
    count = 2500
    results.ping()
    results.open_join("j", count, 60.0)
    round_trips.clear()
    writers = [Fence(f"job-{number}", 1 + number % 2) for number in range(count)]
    documents = [Document(f"k{number}", b"%d" % number) for number in range(count)]
    results.fence([Fence(f"job-{number}", 2) for number in range(count)], 60.0)
    assert results.put(documents, by=writers) == [False, True] * (count // 2)
    assert results.put(documents) == [True] * count
    parts = [Part("j", f"m{number}", number, b"%d" % number, 60.0, None) for number in range(count)]
    assert results.add_parts(parts, by=writers) == [None] * count
    # The last that was missing; the one behind it had been counted.
    assert results.add_parts(parts)[-2:] == [[part.body for part in parts], None]
    assert len(round_trips) == 5
    # Also for a server that does not know the script any more.
    results._links.call("SCRIPT", "FLUSH")
    round_trips.clear()
    assert results.put(documents, by=writers) == [False, True] * (count // 2)
    assert len(round_trips) == 1


def test_a_write_by_nobody_in_particular_asks_for_no_fence(results, client):
    results.put([Document("k", b"{}")])
    before = client.info("commandstats")
    results.put([Document("l", b"{}")], by=[None])
    results.put([Document("m", b"{}")])
    after = client.info("commandstats")
    assert after["cmdstat_set"]["calls"] == before["cmdstat_set"]["calls"] + 2
    assert after.get("cmdstat_get") == before.get("cmdstat_get")


def test_a_fence_is_a_key_with_a_time_to_live(redis_server, client):
    with RedisResults(redis_server.url, key_prefix="app_") as results:
        results.fence([Fence("7", 3)], 60.0)
        results.fence([Fence("7", 2)], 20.0)
        assert client.get("app_jumpstarter.fence.7") == b"3"
        assert 59_000 < client.pttl("app_jumpstarter.fence.7") <= 60_000
        results.fence([Fence("7", 2)], 120.0)
        assert client.get("app_jumpstarter.fence.7") == b"3"
        assert client.pttl("app_jumpstarter.fence.7") > 60_000
        assert client.keys() == [b"app_jumpstarter.fence.7"]


def test_writers_and_documents_must_be_as_many(results, client):
    with pytest.raises(ValueError, match="zip"):
        results.put([Document("k", b"{}"), Document("l", b"{}")], by=[Fence("7", 1)])
    with pytest.raises(ValueError, match="zip"):
        results.add_parts([chord_part(0)], by=[Fence("7", 1), None])
    assert client.keys() == []


# Options


def test_the_scheme_opens_them(redis_server):
    with open_results(redis_server.url) as results:
        assert isinstance(results, RedisResults)


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_a_timeout_that_is_none_is_refused(timeout):
    with pytest.raises(ConfigurationError, match="timeout"):
        RedisResults("redis://", timeout=timeout)


def test_a_server_out_of_memory_is_unavailable_and_says_why():
    full = RedisServer("--maxmemory", "1mb", "--maxmemory-policy", "noeviction")
    with full as server, RedisResults(server.url) as results, pytest.raises(ResultsUnavailable, match="OOM"):
        results.put([Document("k", b"x" * (1 << 21))] * 4)

"""The Redis broker passes the kit and the model; beside that: Kombu's bytes and consumers, networks that cut, servers that die."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import ssl
import statistics
import subprocess
import threading
import time
import uuid
import zlib

import kombu
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jumpstarter._redis import parse_address
from jumpstarter.brokers import open_broker
from jumpstarter.brokers.redis import RedisBroker, layout
from jumpstarter.errors import BrokerError, BrokerUnavailable, ConfigurationError, QueueNotFound, Undecodable
from jumpstarter.jobs import REQUEUE, RETURN, Delivery, Document, Envelope, Park, Quarantine, Settlement
from jumpstarter.results.redis import RedisResults
from jumpstarter.testing.broker_kit import LEASE, PATIENCE, BrokerKit, Forked, background, bodies, envelope, settlement
from jumpstarter.testing.broker_model import BrokerMachine
from tests.redis_server import FaultyProxy, RedisServer, ServerClock, free_port, redis_server, shared_redis

__all__ = ["redis_server", "shared_redis"]


class AgeingBroker(RedisBroker):
    """A broker on a server whose clock is behind the test's: times that it sends are those of the server."""

    def __init__(self, url: str, clock: ServerClock, **options: object) -> None:
        super().__init__(url, **options)
        self._clock = clock

    def _here(self, envelopes):
        return [dataclasses.replace(one, due=self._clock.on_server(one.due)) for one in envelopes]

    def publish(self, envelopes, *, timeout=None):
        super().publish(self._here(envelopes), timeout=timeout)

    def settle(self, settlements, *, incarnation):
        def here(one: Settlement) -> Settlement:
            action = Park(self._clock.on_server(one.action.due)) if isinstance(one.action, Park) else one.action
            return one._replace(action=action, publish=self._here(one.publish))

        return super().settle([here(one) for one in settlements], incarnation=incarnation)


class TestRedisBroker(BrokerKit):
    @pytest.fixture
    def broker_factory(self, redis_server, clock):
        self.server = redis_server
        with contextlib.ExitStack() as brokers:
            yield lambda **options: brokers.enter_context(AgeingBroker(redis_server.url, clock, **options))

    @pytest.fixture
    def clock(self, redis_server):
        return ServerClock(redis_server)

    @pytest.fixture
    def results_factory(self, redis_server):
        with contextlib.ExitStack() as stores:
            yield lambda: stores.enter_context(RedisResults(redis_server.url))

    def inject(self, broker, queue, raw):
        with redis.Redis(port=self.server.port) as client:
            client.lpush(queue, raw)

    @contextlib.contextmanager
    def stalled(self, broker):
        self.server.pause()
        try:
            yield
        finally:
            self.server.resume()


class RedisStories(BrokerMachine):
    server: RedisServer

    def open_server(self):
        with redis.Redis(port=self.server.port) as client:
            client.flushall()
        clock = ServerClock(self.server)
        return clock, lambda: self.enter(AgeingBroker(self.server.url, clock))


@pytest.mark.usefixtures("stories_server")
class TestRedisStories(RedisStories.TestCase):
    settings = settings(max_examples=50, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def stories_server(shared_redis):
    RedisStories.server = shared_redis


@pytest.fixture
def client(redis_server):
    with redis.Redis(port=redis_server.port) as client:
        yield client


@pytest.fixture
def broker(redis_server):
    with RedisBroker(redis_server.url) as broker:
        yield broker


@pytest.fixture
def celery_connection(redis_server):
    with kombu.Connection(redis_server.url) as connection:
        yield connection


def claim(broker, limit=100, by="a", queues=("q",)) -> list[Delivery]:
    return broker.claim(queues, limit, incarnation=by, lease=LEASE)


def lists(client, prefix=b"") -> dict[bytes, list[bytes]]:
    return {key: client.lrange(key, 0, -1) for key in client.scan_iter() if client.type(key) == b"list"}


def clean(client) -> None:
    """Nothing is left but what numbers the claims and, for a minute, the publishes."""
    numbers = {key for key in client.scan_iter() if key.startswith(b"jumpstarter.publisher.")}
    assert set(client.keys()) - numbers <= {b"jumpstarter.epoch"}
    assert all(0 < client.ttl(key) <= 120 for key in numbers)


# The bytes are Kombu's


@pytest.mark.parametrize("priority", [0, 2, 3, 5, 9])
def test_a_published_message_is_what_kombu_publishes(broker, client, celery_connection, priority):
    headers = {"id": "1", "task": "t", "retries": 0, "eta": None, "timelimit": [None, 1.5], "stamps": {"ä": ["\u2028"]}}
    properties = {"correlation_id": "1", "reply_to": "me", "expiration": "1000"}
    body = '[[1, "ä"], {}, {}]'.encode()
    with celery_connection.Producer() as producer:
        producer.publish(
            body,
            "q",
            exchange="",
            headers=headers,
            priority=priority,
            content_type="application/json",
            content_encoding="utf-8",
            **(properties | {"expiration": 1}),  # Kombu takes seconds and writes milliseconds
        )
    ((key, (theirs,)),) = lists(client).items()
    client.flushall()
    broker.publish([Envelope(queue="q", body=body, headers=headers, properties=properties, priority=priority)])
    assert list(lists(client)) == [key]
    theirs, ours = json.loads(theirs), json.loads(client.lindex(key, 0))
    tags = [message["properties"].pop("delivery_tag") for message in (theirs, ours)]
    assert ours == theirs
    assert [str(uuid.UUID(tag)) for tag in tags] == tags


def test_delivery_tags_differ_also_after_a_fork():
    here = [layout.new_name() for _ in range(3)]
    there = Forked(lambda: [layout.new_name() for _ in range(3)]).result()
    assert len({*here, *there}) == 6


def test_a_genuine_consumer_reads_what_we_publish_in_the_order_of_priorities(broker, celery_connection):
    broker.publish([envelope(b"[%d]" % priority, priority=priority) for priority in (9, 6, 4, 0)])
    with celery_connection.SimpleQueue("q") as queue:
        messages = [queue.get(timeout=5) for _ in range(4)]
        assert [message.payload for message in messages] == [[0], [4], [6], [9]]
        for message in messages:
            message.ack()


def test_we_read_what_a_genuine_producer_publishes(broker, celery_connection, client):
    with celery_connection.SimpleQueue("q") as queue:
        queue.put({"a": [1, "ä"]}, headers={"id": "7"}, priority=5)
        queue.put("text", serializer="raw", compression="zlib")
    second, first = claim(broker)
    assert (first.envelope.content_type, first.envelope.content_encoding) == ("application/json", "utf-8")
    assert json.loads(first.envelope.body) == {"a": [1, "ä"]}
    assert (first.envelope.headers, first.envelope.priority, first.attempt) == ({"id": "7"}, 5, 1)
    assert zlib.decompress(second.envelope.body) == b"text"
    assert second.envelope.headers == {"compression": "application/x-gzip"}
    assert broker.settle([settlement(first), settlement(second)], incarnation="a") == [True, True]
    assert not client.exists("unacked", "unacked_index", "jumpstarter.claims.a")


def test_a_genuine_consumer_restores_our_claim_to_the_very_queue(broker, celery_connection, client):
    # A topic has several queues: by exchange and key Kombu would double the message into all of them.
    exchange = kombu.Exchange("news", type="topic")
    with celery_connection.channel() as channel:
        for name in ("q", "other"):
            kombu.Queue(name, exchange, routing_key="news.#")(channel).declare()
        broker.publish([envelope(b"[1]", exchange="news", routing_key="news.today", priority=3)])
        (delivery,) = claim(broker)
        for value in client.hvals("unacked"):
            raw, to, key = json.loads(value)
            assert (raw["properties"]["delivery_info"], to, key) == ({"exchange": "news", "routing_key": "news.today"}, "", "q")
        client.zadd("unacked_index", {delivery.tag: 1.0})
        channel.qos.restore_visible()
    assert [broker.depth("q"), broker.depth("other")] == [1, 0]
    # Our renewal does not bring the entry back.
    broker.renew(["a"], LEASE)
    assert broker.settle([settlement(delivery)], incarnation="a") == [False]
    (again,) = claim(broker, by="b")
    assert again.envelope.headers["redelivered"] is True
    # Kombu does not say why it gave the message back, so this does not count.
    assert again.attempt == 1
    assert broker.release("a") == 0


def test_renewal_keeps_genuine_workers_from_restoring_what_runs_long(broker, celery_connection, client):
    broker.publish([envelope()])
    (delivery,) = claim(broker)
    client.zadd("unacked_index", {delivery.tag: 1.0})
    broker.renew(["a"], LEASE)
    assert client.zscore("unacked_index", delivery.tag) == pytest.approx(time.time(), abs=5)
    with celery_connection.channel() as channel:
        channel.qos.restore_visible()
    assert broker.settle([settlement(delivery)], incarnation="a") == [True]


def left_by_a_genuine_worker(connection, client, age=4000.0) -> str:
    """Have a genuine consumer take the message and die."""
    channel = connection.channel()
    message = channel.basic_get("q")
    message.channel.qos._delivered.clear()  # a dead process restores nothing
    channel.close()
    client.zadd("unacked_index", {message.delivery_tag: time.time() - age})
    return message.delivery_tag


@pytest.mark.parametrize("kind", ["default", "direct", "topic"])
def test_we_restore_what_a_genuine_worker_left(broker, celery_connection, client, kind):
    if kind != "default":
        queue = kombu.Queue("q", kombu.Exchange("news", type=kind), routing_key="news.*" if kind == "topic" else "news.today")
        queue(celery_connection.default_channel).declare()
    exchange, key = ("", "q") if kind == "default" else ("news", "news.today")
    with celery_connection.Producer() as producer:
        for number in range(2):
            producer.publish([number], key, exchange=exchange, serializer="json", priority=6)
    left_by_a_genuine_worker(celery_connection, client)
    left_by_a_genuine_worker(celery_connection, client, age=3000.0)
    assert broker.reap().returned == 1
    assert broker.reap().returned == 0
    (again,) = claim(broker)
    assert (again.envelope.body, again.attempt, again.envelope.priority) == (b"[0]", 1, 6)
    assert again.envelope.headers["redelivered"] is True
    assert again.envelope.properties["delivery_info"]["redelivered"] is True
    assert client.hlen("unacked") == 2


def test_we_leave_restoring_to_whoever_holds_kombus_lock(broker, celery_connection, client):
    broker.publish([envelope()])
    left_by_a_genuine_worker(celery_connection, client)
    client.set("unacked_mutex", "somebody", ex=300)
    assert broker.reap().returned == 0
    assert client.get("unacked_mutex") == b"somebody"
    client.delete("unacked_mutex")
    assert broker.reap().returned == 1
    assert not client.exists("unacked_mutex")


def test_an_unacked_message_that_no_queue_is_bound_for_rests_in_quarantine(broker, client):
    client.hset("unacked", mapping={"one": json.dumps([{"headers": {}, "properties": {}}, "gone", "key"]), "two": "nonsense"})
    client.zadd("unacked_index", {"one": 1.0, "two": 2.0, "three": 3.0})
    assert broker.reap().returned == 2
    resting = broker.quarantined()
    assert {one.evidence["tag"] for one in resting} == {"one", "two"}
    assert {(one.queue, one.reason, one.envelope) for one in resting} == {("", "no queue is bound for this unacked message", None)}
    assert broker.requeue_quarantined([one.id for one in resting]) == 0
    assert not client.exists("unacked", "unacked_index")


def test_an_entry_of_ours_without_a_lease_is_restored_like_anybody_elses(broker, client):
    broker.publish([envelope(b"1", priority=9)])
    (delivery,) = claim(broker)
    client.delete("jumpstarter.leases", "jumpstarter.claims.a")
    client.zadd("unacked_index", {delivery.tag: 1.0})
    assert broker.reap().returned == 1
    assert client.llen("q\x06\x169") == 1


def test_a_binding_is_recorded_where_kombu_looks_for_it(broker, celery_connection, client):
    kombu.Queue("q", kombu.Exchange("news", type="direct"), routing_key="key")(celery_connection.default_channel).declare()
    theirs = {key: client.smembers(key) for key in client.keys("_kombu*")}
    client.flushall()
    broker.bind("q", exchange="news", routing_key="key")
    assert {key: client.smembers(key) for key in client.scan_iter()} == theirs
    client.flushall()
    broker.bind("q", exchange="news", routing_key="key")
    broker.bind("q", exchange="", routing_key="q")
    assert client.keys() == []


def test_a_prefix_stands_before_every_key(redis_server, client):
    options = {"global_keyprefix": "app:"}
    with (
        RedisBroker(redis_server.url, key_prefix="app:") as broker,
        kombu.Connection(redis_server.url, transport_options=options) as connection,
    ):
        broker.publish([envelope(b"[1]"), envelope(b"[2]", priority=9), envelope(b"[3]", due=time.time() + 60)])
        assert broker.wait(["q", "empty"], 5, incarnation="w") is True
        broker.release("w")
        (first,) = claim(broker, 1)
        (second,) = claim(broker)
        assert broker.settle([settlement(first, Quarantine("x")), settlement(second, REQUEUE)], incarnation="a") == [True, True]
        assert [key for key in client.scan_iter() if not key.startswith(b"app:")] == []
        with connection.SimpleQueue("q") as queue:
            message = queue.get(timeout=5)
            assert message.payload == [2]
            message.ack()
        claim(broker)
        broker.reap()
        assert [key for key in client.scan_iter() if not key.startswith(b"app:")] == []


# Counting deliveries


def test_the_count_of_deliveries_travels_with_the_message_and_is_not_shown_as_a_header(broker, client):
    broker.publish([envelope(b"1", headers={"id": "1"})])
    for attempt in (1, 2, 3):
        (delivery,) = claim(broker)
        assert delivery.attempt == attempt
        assert layout.DELIVERIES not in delivery.envelope.headers
        assert broker.settle([settlement(delivery, REQUEUE)], incarnation="a") == [True]
    raw = json.loads(client.lindex("q", 0))
    assert raw["headers"] == {"id": "1", "redelivered": True, "x-jumpstarter-deliveries": 3}
    assert raw["properties"]["delivery_info"]["redelivered"] is True


def test_a_message_that_was_not_started_goes_back_byte_for_byte(broker, client):
    # Numbers that Lua or a float would spoil, empty lists that Lua takes for objects, spaces, escapes.
    headers = b'{"n": 12345678901234567890123, "f": 1e-320, "l": [], "o": {}, "\\u00e4": "\\ud800"}'
    raw = b'{"body": "e30=", "headers": %b, "properties": {}}' % headers
    client.lpush("q", raw)
    (delivery,) = claim(broker)
    assert delivery.envelope.headers["n"] == 12345678901234567890123
    assert broker.settle([settlement(delivery, RETURN)], incarnation="a") == [True]
    assert client.lrange("q", 0, -1) == [raw]
    claim(broker)
    assert broker.release("a") == 1
    assert client.lrange("q", 0, -1) == [raw]


def test_a_worker_that_comes_back_while_it_is_reaped_keeps_its_claims(broker, redis_server, client):
    class Interrupted(RedisBroker):
        """Looks at the claims, and before it moves them their owner is back."""

        def _overdue(self, incarnation):
            tags = super()._overdue(incarnation)
            broker.renew([incarnation], LEASE)
            return tags

    broker.publish([envelope()])
    (delivery,) = claim(broker)
    client.zadd("jumpstarter.leases", {"a": 1.0})
    with Interrupted(redis_server.url) as reaper:
        assert reaper.reap().returned == 0
    assert broker.settle([settlement(delivery)], incarnation="a") == [True]


# Networks


@pytest.mark.parametrize("bytes_before", [0, 1, 5, 40, 300, 900])
def test_no_claim_is_lost_when_its_answer_is(redis_server, client, bytes_before):
    with FaultyProxy(redis_server.port) as proxy, RedisBroker(proxy.url) as broker:
        broker.publish([envelope(b"%d" % number) for number in range(10)])
        (before,) = claim(broker, 1)
        proxy.cut_after = bytes_before
        with pytest.raises(BrokerUnavailable):
            claim(broker, 4)
        assert client.hlen("jumpstarter.claims.a") == 5
        after = claim(broker)
        assert bodies(after) == [b"%d" % number for number in range(1, 10)]
        assert {delivery.attempt for delivery in after} == {1}
        assert broker.settle([settlement(delivery) for delivery in [before, *after]], incarnation="a") == [True] * 10
    assert client.hlen("unacked") == 0


def test_a_claim_that_arrives_after_the_next_one_takes_nothing(redis_server, client):
    with FaultyProxy(redis_server.port) as proxy, RedisBroker(proxy.url, timeout=0.3) as far:
        claim(far)
        far.publish([envelope(b"1"), envelope(b"2")])
        proxy.hold = True
        with pytest.raises(BrokerUnavailable):
            claim(far, 1)
        assert proxy.held.wait(5)
        # The same worker reaches the server again, over another way, before its old call does.
        with RedisBroker(redis_server.url) as near:
            (delivery,) = claim(near, 1)
        proxy.let_go()
        claimed = client.hkeys("jumpstarter.claims.a")
        for _ in range(50):
            client.ping()
            time.sleep(0.002)
        assert client.hkeys("jumpstarter.claims.a") == claimed == [delivery.tag.encode()]
        assert client.llen("q") == 1


def test_a_settle_whose_answer_is_lost_says_true_all_the_same(redis_server, client):
    with FaultyProxy(redis_server.port) as proxy, RedisBroker(proxy.url) as broker:
        broker.publish([envelope(b"%d" % number) for number in range(3)])
        deliveries = claim(broker)
        proxy.cut_after = 2
        follow = [envelope(b"next", "r")]
        assert broker.settle([settlement(one, publish=follow) for one in deliveries], incarnation="a") == [True] * 3
        assert proxy.cuts == 1
    assert client.llen("r") == 3


def test_a_settle_that_was_done_unnoticed_says_true_when_it_is_asked_again(redis_server, client):
    with FaultyProxy(redis_server.port) as proxy, RedisBroker(proxy.url, timeout=0.3) as broker:
        broker.publish([envelope(b"0"), envelope(b"1"), envelope(b"2")])
        zero, one, two = claim(broker)
        assert broker.settle([settlement(zero)], incarnation="a") == [True]  # from here on the server knows the script
        redis_server.pause()
        try:
            with pytest.raises(BrokerUnavailable):
                broker.settle([settlement(one, publish=[envelope(b"next", "r")])], incarnation="a")
        finally:
            redis_server.resume()
        while client.llen("r") == 0:
            time.sleep(0.002)
        both = [settlement(one, publish=[envelope(b"next", "r")]), settlement(two)]
        assert broker.settle(both, incarnation="a") == [True, True]
        assert broker.settle(both, incarnation="a") == [False, False]
    assert client.llen("r") == 1


@pytest.mark.parametrize("rounds", [30])
def test_nothing_is_lost_or_doubled_while_every_third_answer_is_cut(redis_server, client, rounds):
    with FaultyProxy(redis_server.port) as proxy, RedisBroker(proxy.url) as broker:
        with RedisBroker(redis_server.url) as publisher:
            publisher.publish([envelope(b"%d" % number) for number in range(rounds * 4)])
        done: list[bytes] = []
        calls = 0
        while publisher.depth("q") or client.hlen("unacked"):
            calls += 1
            proxy.cut_after = calls * 7 % 120 if calls % 3 == 0 else None
            with contextlib.suppress(BrokerUnavailable):
                deliveries = claim(broker, 5)
                proxy.cut_after = calls % 50 if calls % 3 == 1 else None
                settled = broker.settle([settlement(one) for one in deliveries], incarnation="a")
                done += [body for body, told in zip(bodies(deliveries), settled, strict=True) if told]
        assert proxy.cuts >= rounds / 3
    assert sorted(done, key=int) == [b"%d" % number for number in range(rounds * 4)]


@pytest.mark.parametrize("how", ["kill clients", "cut"])
def test_a_wait_whose_connection_breaks_raises_and_the_next_one_works(redis_server, client, how):
    with FaultyProxy(redis_server.port) as proxy, RedisBroker(proxy.url) as broker, RedisBroker(redis_server.url) as publisher:
        for number in range(3):
            with background(lambda: broker.wait(["q"], PATIENCE, incarnation="a")) as waiting:
                while int(client.info("clients")["blocked_clients"]) < 4:
                    time.sleep(0.002)
                if how == "cut":
                    # The server has moved the message; nobody was told.
                    proxy.cut_after = 3
                    publisher.publish([envelope(b"%d" % number)])
                else:
                    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                with pytest.raises(BrokerUnavailable):
                    waiting.result(10)
            if how != "cut":
                publisher.publish([envelope(b"%d" % number)])
                assert broker.wait(["q"], PATIENCE, incarnation="a") is True
            (delivery,) = claim(broker)
            assert delivery.envelope.body == b"%d" % number
            assert broker.settle([settlement(delivery)], incarnation="a") == [True]


# Servers


def test_a_broker_outlasts_a_restart_of_its_server():
    with RedisServer(aof=True) as server, RedisBroker(server.url, timeout=2) as broker:
        broker.publish([envelope(b"1"), envelope(b"2"), envelope(b"3", due=time.time() + 3600)])
        (held,) = claim(broker, 1)
        with background(lambda: broker.wait(["empty"], PATIENCE, incarnation="a")) as waiting:
            with redis.Redis(port=server.port) as client:
                while int(client.info("clients")["blocked_clients"]) < 4:
                    time.sleep(0.002)
                client.config_set("appendfsync", "always")
                client.set("synced", 1)
            server.kill()
            with pytest.raises(BrokerUnavailable):
                waiting.result(10)
        with pytest.raises(BrokerUnavailable):
            broker.ping()
        server.start()
        # It does not know the scripts any more.
        assert broker.settle([settlement(held)], incarnation="a") == [True]
        assert bodies(claim(broker)) == [b"2"]
        assert broker.reap().next_due == pytest.approx(3600, abs=60)
        broker.publish([envelope(b"4", "empty")])
        assert broker.wait(["empty"], PATIENCE, incarnation="a") is True


def test_a_server_that_has_no_memory_left_is_unavailable_and_loses_nothing():
    with RedisServer("--maxmemory-policy", "noeviction") as server, RedisBroker(server.url) as broker:
        broker.publish([envelope(b"%d" % number) for number in range(5)])
        (held,) = claim(broker, 1)
        with redis.Redis(port=server.port) as client:
            client.config_set("maxmemory", 1)
            with pytest.raises(BrokerUnavailable, match="OOM"):
                broker.publish([envelope()])
            with pytest.raises(BrokerUnavailable, match="OOM"):
                claim(broker)
            with pytest.raises(BrokerUnavailable, match="OOM"):
                broker.settle([settlement(held, publish=[envelope()])], incarnation="a")
            assert broker.depth("q") == 4
            client.config_set("maxmemory", 0)
        assert broker.settle([settlement(held, publish=[envelope()])], incarnation="a") == [True]
        assert broker.depth("q") == 5


@pytest.mark.parametrize("key", ["unacked", "unacked_index", "jumpstarter.claims.a"])
def test_a_claim_that_cannot_be_recorded_puts_everything_back(broker, client, key):
    broker.publish([envelope(b"%d" % number, priority=number % 4 * 3) for number in range(12)])
    before = lists(client)
    client.set(key, "something else")
    with pytest.raises(BrokerError, match="WRONGTYPE"):
        claim(broker, 7)
    assert lists(client) == before
    client.delete(key)
    assert set(client.scan_iter("*claims*")) | set(client.scan_iter("unacked*")) == set()
    assert len(claim(broker)) == 12


def test_a_user_who_may_not_unblock_clients_can_wait_all_the_same(redis_server, client):
    client.acl_setuser(
        "plain", enabled=True, passwords=["+secret"], keys=["*"], channels=["*"], commands=["+@all", "-client|unblock"]
    )
    try:
        with RedisBroker(f"redis://plain:secret@127.0.0.1:{redis_server.port}/0") as broker:
            for number in range(3):
                broker.publish([envelope(b"%d" % number)])
                assert broker.wait(["q"], PATIENCE, incarnation="a") is True
                began = time.monotonic()
                (delivery,) = claim(broker)
                assert time.monotonic() - began < 2
                assert broker.settle([settlement(delivery)], incarnation="a") == [True]
    finally:
        client.acl_deluser("plain")


def test_the_rights_that_the_documentation_names_are_enough(redis_server, client):
    rights = ["+@read", "+@write", "+@scripting", "+@connection", "+@transaction", "+@pubsub", "+info", "+time"]
    keys = ["q*", "r*", "unacked*", "_kombu.*", "jumpstarter.*", "celery-task-meta-*"]
    client.acl_setuser("worker", enabled=True, passwords=["+secret"], keys=keys, channels=["celery-task-meta-*"], commands=rights)
    url = f"redis://worker:secret@127.0.0.1:{redis_server.port}/0"
    try:
        with RedisBroker(url) as broker, RedisResults(url) as results:
            broker.ping()
            broker.durability_warnings()
            broker.bind("q", exchange="news", routing_key="q")
            broker.publish([*(envelope(b"%d" % number) for number in range(4)), envelope(due=time.time() + 60)])
            assert broker.wait(["q"], PATIENCE, incarnation="a") is True
            one, two, three, four = claim(broker)
            document = [Document("celery-task-meta-1", b"{}", 60)]
            batch = [
                settlement(one, publish=[envelope(queue="r")], writes=results.writes(document)),
                settlement(two, REQUEUE),
                settlement(three, Park(time.time() + 60)),
                settlement(four, Quarantine("why")),
            ]
            assert broker.settle(batch, incarnation="a") == [True] * 4
            assert results.wait(["celery-task-meta-1"], 5) == {"celery-task-meta-1": b"{}"}
            claim(broker)
            broker.renew(["a"], LEASE)
            assert len(broker.held("a")) == 1
            assert broker.release("a", counted=True) == 1
            broker.reap()
            assert broker.purge("q") == 1
    finally:
        client.acl_deluser("worker")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """An authority and a certificate for localhost, signed by it; and another authority."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl, which makes the certificates, is not installed")
    folder = tmp_path_factory.mktemp("tls")

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], check=True, capture_output=True, cwd=folder)

    new = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2")
    for name in ("ca", "other"):
        run(
            *new,
            "-keyout",
            f"{name}.key",
            "-out",
            f"{name}.pem",
            "-subj",
            f"/CN={name}",
            "-addext",
            "basicConstraints=critical,CA:TRUE",
        )
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "subjectAltName=DNS:localhost")
    run(*new, "-keyout", "server.key", "-out", "server.pem", "-subj", "/CN=localhost", *signed)
    return folder


def test_tls_works_and_certificates_are_checked(certificates):
    tls_port = free_port()
    files = (
        "--tls-cert-file",
        "server.pem",
        "--tls-key-file",
        "server.key",
        "--tls-ca-cert-file",
        "ca.pem",
        "--tls-auth-clients",
        "no",
    )
    paths = [str(certificates / option) if option.endswith((".pem", ".key")) else option for option in files]
    try:
        server = RedisServer("--tls-port", str(tls_port), *paths).start()
    except AssertionError as error:
        pytest.skip(f"this redis-server speaks no TLS: {error}")
    url = f"rediss://localhost:{tls_port}/0?ssl_ca_certs="
    with contextlib.closing(server), RedisBroker(f"{url}{certificates / 'ca.pem'}") as broker:
        for number in range(20):
            broker.publish([envelope(b"%d" % number * 5000)])
            assert broker.wait(["q"], PATIENCE, incarnation="a") is True
            (delivery,) = claim(broker)
            assert delivery.envelope.body == b"%d" % number * 5000
            assert broker.settle([settlement(delivery)], incarnation="a") == [True]
        with redis.Redis(port=server.port) as client:
            # Connections are used again: one for each list, one for calls, one of this client.
            assert len(client.client_list()) <= 6
        results = RedisResults(url + str(certificates / "ca.pem"))
        with background(lambda: results.wait(["k"], PATIENCE)) as waiting:
            results.put([Document("k", b"x" * 100_000)])
            assert waiting.result(10) == {"k": b"x" * 100_000}
        results.close()
        unknown, misnamed = (
            f"{url}{certificates / 'other.pem'}",
            f"{url}{certificates / 'ca.pem'}".replace("localhost", "127.0.0.1"),
        )
        for wrong in (unknown, misnamed):
            with RedisBroker(wrong) as refused, pytest.raises(BrokerUnavailable, match=r"(?i)certificate"):
                refused.ping()


def test_a_wrong_password_is_told_without_showing_it(redis_server):
    with RedisBroker(f"redis://nobody:s3cret@127.0.0.1:{redis_server.port}/0") as broker:
        with pytest.raises(BrokerUnavailable) as caught:
            broker.ping()
        assert "s3cret" not in f"{caught.value}{broker.url}{broker.server}"


def test_a_unix_socket_another_database_and_a_password_work():
    with RedisServer("--requirepass", "p@ss/word") as server:
        for url in (
            f"redis+socket://:p%40ss%2Fword@{server.path}?virtual_host=3",
            f"unix://:p%40ss%2Fword@{server.path}?db=3",
            f"redis://:p%40ss%2Fword@localhost:{server.port}/3",
        ):
            with open_broker(url) as broker:
                broker.publish([envelope(url.encode())])
                assert bodies(claim(broker)) == [url.encode()]
        with redis.Redis(port=server.port, password="p@ss/word", db=3) as client:
            assert client.hlen("unacked") == 3


def test_warnings_say_what_may_lose_messages(broker):
    assert any("appendonly" in warning for warning in broker.durability_warnings())
    with RedisServer(aof=True) as server, RedisBroker(server.url) as safe:
        assert safe.durability_warnings() == []
        with redis.Redis(port=server.port) as client:
            client.config_set("maxmemory-policy", "allkeys-lru")
        assert any("allkeys-lru" in warning and "noeviction" in warning for warning in safe.durability_warnings())


# Keys that hold something else


def test_a_queue_whose_key_holds_something_else_does_not_stop_the_others(broker, client, caplog):
    client.hset("bad", "a", "b")
    broker.publish([envelope(b"1"), envelope(b"2", "bad", priority=9)])
    for _ in range(2):
        assert bodies(claim(broker, queues=["bad", "q"])) in ([b"1", b"2"], [b"2", b"1"], [])
    assert [record.message for record in caplog.records].count(caplog.messages[0]) == 1
    assert "'bad'" in caplog.messages[0]
    with background(lambda: broker.wait(["bad", "q"], PATIENCE, incarnation="a")) as waiting:
        while not client.smembers("jumpstarter.waits.a"):
            time.sleep(0.002)
        broker.publish([envelope(b"3")])
        assert waiting.result(10) is True
    with pytest.raises(QueueNotFound, match="bad"):
        broker.publish([envelope(b"4"), envelope(b"5", "bad")])


def test_a_follow_up_that_cannot_be_sent_takes_the_whole_settlement_back(broker, client):
    client.hset("bad", "a", "b")
    broker.publish([envelope(b"1"), envelope(b"2")])
    one, two = claim(broker)
    later = time.time() + 60
    doomed = settlement(one, publish=[envelope(b"sent", "r"), envelope(b"parked", "r", due=later), envelope(b"not", "bad")])
    with pytest.raises(QueueNotFound, match="bad"):
        broker.settle([doomed, settlement(two)], incarnation="a")
    assert [broker.depth("r"), client.zcard("jumpstarter.parked")] == [0, 0]
    assert [held.tag for held in broker.held("a")] == [one.tag]
    client.delete("bad")
    assert broker.settle([doomed, settlement(two)], incarnation="a") == [True, True]
    assert [broker.depth("r"), broker.depth("bad"), client.zcard("jumpstarter.parked")] == [1, 1, 1]


def test_a_parked_message_whose_queue_is_no_list_waits_and_lets_others_pass(broker, client):
    client.hset("bad", "a", "b")
    broker.publish([envelope(b"1", "bad", due=time.time() - 2), envelope(b"2", due=time.time() - 1)])
    client.zadd("jumpstarter.parked", {"not ours": 1.0})
    assert broker.reap().promoted == 1
    assert bodies(claim(broker)) == [b"2"]
    assert client.zcard("jumpstarter.parked") == 2


@pytest.mark.parametrize("name", ["", "unacked", "unacked_index", "_kombu.binding.x", "jumpstarter.parked", "a\x06\x163"])
def test_names_that_cannot_be_queues_are_refused(broker, client, name):
    for call in (
        lambda: broker.publish([envelope(queue=name)]),
        lambda: claim(broker, queues=[name]),
        lambda: broker.wait([name], 1, incarnation="a"),
        lambda: broker.depth(name),
        lambda: broker.purge(name),
    ):
        with pytest.raises(QueueNotFound, match="cannot be used"):
            call()
    assert client.keys() == []


# Waiting


def test_a_message_put_aside_for_a_process_that_was_killed_comes_back(broker, client):
    child = Forked(lambda: (claim(broker, by="dead"), broker.wait(["q"], PATIENCE, incarnation="dead"), time.sleep(PATIENCE)))
    while int(client.info("clients")["blocked_clients"]) < 4:
        time.sleep(0.002)
    os.kill(child.pid, signal.SIGSTOP)
    broker.publish([envelope(b"1")])
    assert broker.depth("q") == 0
    assert client.lrange("jumpstarter.wait.dead:q", 0, -1) != []
    assert broker.reap().returned == 0  # its lease still runs
    client.zadd("jumpstarter.leases", {"dead": 1.0})
    assert broker.reap().returned == 1
    # It is still connected: the server goes on putting messages aside for it, and every reaper looks again.
    broker.publish([envelope(b"2", priority=3)])
    assert broker.depth("q") == 1
    assert broker.reap().returned == 1
    child.kill()
    assert bodies(claim(broker)) == [b"1", b"2"]


def test_what_was_put_aside_beyond_the_limit_goes_back_at_once(broker, client):
    with background(lambda: broker.wait(["q", "r"], PATIENCE, incarnation="a")) as waiting:
        while int(client.info("clients")["blocked_clients"]) < 8:
            time.sleep(0.002)
        with RedisBroker(broker.url) as publisher:
            publisher.publish([envelope(b"q0"), envelope(b"q3", priority=3), envelope(b"r0", "r")])
        assert waiting.result(10) is True
    assert len(claim(broker, 1, queues=["q", "r"])) == 1
    assert client.keys("jumpstarter.wait.*") == []
    assert broker.depth("q") + broker.depth("r") == 2


def test_a_queue_that_is_not_waited_for_any_more_keeps_its_messages(broker, client):
    with background(lambda: broker.wait(["q", "gone"], PATIENCE, incarnation="a")) as waiting:
        while int(client.info("clients")["blocked_clients"]) < 8:
            time.sleep(0.002)
        with RedisBroker(broker.url) as publisher:
            publisher.publish([envelope(b"1", "gone"), envelope(b"2", "gone", priority=9)])
        assert waiting.result(10) is True
    assert broker.wait(["q"], 0.05, incarnation="a") is False
    assert claim(broker) == []
    assert broker.depth("gone") == 2


def test_an_idle_worker_sends_at_most_two_commands_a_second(broker, client, capsys):
    def calls() -> tuple[int, int]:
        stats = {name.removeprefix("cmdstat_"): figures["calls"] for name, figures in client.info("commandstats").items()}
        sent = sum(count for name, count in stats.items() if name in ("evalsha", "blmove", "client|unblock"))
        return sent, sum(count for name, count in stats.items() if name != "info")

    claim(broker)
    broker.wait(["q"], 0.3, incarnation="a")
    before = calls()
    began = time.monotonic()
    for _ in range(2):
        assert broker.wait(["q"], 4, incarnation="a") is False
        claim(broker)
    sent, counted = ((after - start) / (time.monotonic() - began) for after, start in zip(calls(), before, strict=True))
    with capsys.disabled():
        print(f"\nRedisBroker: idle, waiting 4 s at a time: {sent:.1f} commands a second ({counted:.1f} with those of scripts)")
    assert sent <= 2


def test_only_one_of_many_waiting_workers_is_woken(redis_server, client):
    with contextlib.ExitStack() as stack:
        brokers = [stack.enter_context(RedisBroker(redis_server.url, priority_steps=(0,))) for _ in range(5)]
        threads, woken = [], []

        def work(number: int) -> None:
            if brokers[number].wait(["q"], 3, incarnation=f"w{number}"):
                woken.append(number)

        for number in range(5):
            threads.append(threading.Thread(target=work, args=(number,)))
            threads[-1].start()
        while int(client.info("clients")["blocked_clients"]) < 5:
            time.sleep(0.002)
        with RedisBroker(redis_server.url) as publisher:
            publisher.publish([envelope(b"1")])
        while not woken:
            time.sleep(0.002)
        for one in brokers:
            one.wake()
        for thread in threads:
            thread.join(10)
        assert len(woken) == 1
        assert bodies(claim(brokers[woken[0]], by=f"w{woken[0]}")) == [b"1"]


def test_from_publish_to_claimed_delivery_takes_about_a_millisecond(broker, client, capsys):
    delays = []
    with RedisBroker(broker.url) as publisher:
        for _ in range(50):
            with background(lambda: (broker.wait(["q"], PATIENCE, incarnation="a"), claim(broker), time.perf_counter())) as waiting:
                while int(client.info("clients")["blocked_clients"]) < 4:
                    time.sleep(0.001)
                began = time.perf_counter()
                publisher.publish([envelope()])
                _, (delivery,), ended = waiting.result(10)
                delays.append(ended - began)
            broker.settle([settlement(delivery)], incarnation="a")
    with capsys.disabled():
        middle, worst = statistics.median(delays) * 1000, max(delays) * 1000
        print(f"\nRedisBroker: publish to claimed delivery p50 {middle:.2f} ms, max {worst:.2f} ms")
    assert statistics.median(delays) < 0.05


def test_a_released_incarnation_leaves_nothing_behind(broker, client):
    broker.publish([envelope(b"1")])
    assert broker.wait(["q"], PATIENCE, incarnation="a") is True
    (delivery,) = claim(broker)
    assert broker.settle([settlement(delivery)], incarnation="a") == [True]
    assert broker.wait(["q"], 0.02, incarnation="a") is False
    broker.release("a")
    client.zadd("jumpstarter.waits", {"a": 1.0})
    broker.reap()
    clean(client)


# Large things


def test_more_claims_than_a_lua_stack_holds_are_released_and_settled(broker, client):
    broker.publish([envelope(b"%d" % number) for number in range(20_000)])
    deliveries = claim(broker, 20_000)
    assert len(deliveries) == 20_000
    broker.renew(["a"], LEASE)
    assert broker.release("a") == 20_000
    deliveries = claim(broker, 20_000, by="b")
    assert bodies(deliveries[:3]) == [b"0", b"1", b"2"]
    assert all(broker.settle([settlement(delivery) for delivery in deliveries], incarnation="b"))
    broker.release("b")
    clean(client)


def test_a_claim_of_large_messages_ends_before_its_limit(broker):
    broker.publish([envelope(b"x" * (1 << 20)) for _ in range(30)])
    got = claim(broker, 100)
    assert 8 <= len(got) < 30
    assert len(claim(broker, 100)) > 0


# Bytes that are no message


@settings(max_examples=150, deadline=None)
@given(
    raw=st.binary()
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text() | st.integers(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["body", "headers", "properties", "content-type", "body_encoding", "delivery_info", "priority"]),
                inner,
            )
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_bytes_become_a_delivery(raw):
    delivery = layout.decode(raw, tag="a.1.1", queue="q", epoch=1)
    if delivery.envelope is None:
        assert isinstance(delivery.fault, Undecodable)
        assert delivery.raw == raw
    layout.recount(raw)
    evidence = {"pid": 1, "odd": object()}
    record = layout.quarantine_record(raw, queue="q", reason="r", evidence=evidence, attempt=3)
    assert layout.open_record(record)[1] == raw
    assert layout.quarantined("1", record).raw == delivery.raw


@pytest.mark.parametrize("number", [2**63 - 1, 2**64 + 1, -(2**63) - 1, 10**40 + 1, 1.5, 1e300])
def test_numbers_arrive_exactly(number):
    for value in (number, [number], {"in": [{"deep": number}]}):
        raw = layout.encode(envelope(headers={"n": value}))
        assert layout.decode(raw, tag="a.1.1", queue="q", epoch=1).envelope.headers == {"n": value}
        assert json.loads(layout.recount(raw))["headers"]["n"] == value


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(max_examples=60, deadline=None)
@given(headers=st.dictionaries(st.text(), values), body=st.binary(), priority=st.integers(0, 9))
def test_headers_arrive_as_the_standard_library_reads_them(headers, body, priority):
    sent = Envelope(queue="q", body=body, headers=headers, priority=priority)
    raw = layout.encode(sent)
    got = layout.decode(raw, tag="a.1.1", queue="q", epoch=1)
    assert got.envelope.headers == {
        key: value for key, value in json.loads(json.dumps(headers)).items() if key != layout.DELIVERIES
    }
    assert (got.envelope.body, got.envelope.priority) == (body, priority)
    again = layout.decode(layout.recount(raw), tag="a.1.1", queue="q", epoch=1)
    assert again.attempt == got.attempt + 1


@pytest.mark.parametrize("value", [object(), uuid.uuid4(), b"bytes", {1, 2}, ssl.CERT_NONE.__class__])
def test_a_header_that_json_cannot_carry_is_named(broker, client, value):
    with pytest.raises(TypeError, match=r"queue 'q'.*JSON"):
        broker.publish([envelope(headers={"odd": value})])
    assert client.keys() == []


@pytest.mark.parametrize("due", [float("nan"), float("inf"), float("-inf")])
def test_a_due_time_that_is_no_time_is_refused(broker, due):
    with pytest.raises(ConfigurationError, match="due"):
        broker.publish([envelope(due=due)])


# Options and addresses


@pytest.mark.parametrize(
    ("url", "server", "shown"),
    [
        ("redis://", "redis://127.0.0.1:6379", "redis://127.0.0.1:6379/0"),
        ("redis://Host:1/2", "redis://host:1", "redis://host:1/2"),
        ("redis://u:p%40@h//3", "redis://h:6379", "redis://u:**@h:6379/3"),
        ("redis://:p@[::1]:7/", "redis://[::1]:7", "redis://:**@[::1]:7/0"),
        ("rediss://h/1?ssl_cert_reqs=CERT_NONE", "rediss://h:6379", "rediss://h:6379/1"),
        ("redis+socket:///run/r.sock?virtual_host=4", "unix:/run/r.sock", "unix:///run/r.sock?db=4"),
        ("unix://u:p@/run/r.sock", "unix:/run/r.sock", "unix://u:**@/run/r.sock?db=0"),
        ("redis://h?socket_timeout=3&client_name=me", "redis://h:6379", "redis://h:6379/0"),
    ],
)
def test_addresses_are_understood_as_kombu_writes_them(url, server, shown):
    address = parse_address(url)
    assert (address.server, address.url) == (server, shown)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis://h/x", "number from 0"),
        ("redis://h/-1", "number from 0"),
        ("redis://h:99999/0", "port"),
        ("redis://a:hunter2@h;redis://b", "one server"),
        ("sentinel://h:26379", "sentinel"),
        ("amqp://h", "no Redis URL"),
        ("unix://", "names no socket"),
        ("redis://h?ssl_ca_certs=x", "rediss://"),
        ("redis://h?wrong=1", "'wrong'"),
        ("rediss://h?ssl_cert_reqs=maybe", "required, optional or none"),
    ],
)
def test_addresses_that_cannot_be_used_say_why(url, why):
    with pytest.raises(ConfigurationError, match=why) as caught:
        RedisBroker(url)
    assert "hunter2" not in str(caught.value)


def test_tls_options_of_celery_are_understood():
    address = parse_address("redis://h", {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": "/ca.pem"})
    assert (address.server, address.database) == ("rediss://h:6379", 0)
    assert (address.options["ssl_cert_reqs"], address.options["ssl_check_hostname"]) == ("required", True)
    assert parse_address("rediss://h?ssl_cert_reqs=none").options["ssl_check_hostname"] is False
    assert parse_address("rediss://h?ssl_check_hostname=false").options["ssl_check_hostname"] is False
    with pytest.raises(ConfigurationError, match="ssl_wrong"):
        parse_address("rediss://h", {"ssl_wrong": 1})


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0},
        {"visibility_timeout": -1},
        {"priority_steps": ()},
        {"priority_steps": (3, 0)},
        {"priority_steps": (1, 2)},
        {"sep": ""},
    ],
)
def test_options_that_cannot_be_used_are_refused(options):
    with pytest.raises(ConfigurationError):
        RedisBroker("redis://h", **options)


@pytest.mark.parametrize("name", ["", "a\nb"])
def test_an_incarnation_has_a_plain_name(broker, name):
    for call in (lambda: claim(broker, by=name), lambda: broker.settle([], incarnation=name), lambda: broker.renew([name], 1)):
        with pytest.raises(ConfigurationError, match="incarnation"):
            call()


def test_results_on_the_same_server_are_written_once_per_claim(broker, redis_server):
    with RedisResults(redis_server.url) as results:
        broker.publish([envelope()])
        (delivery,) = claim(broker)
        late = settlement(delivery, writes=results.writes([Document("k", b"late")]))
        broker.release("a")
        assert broker.settle([late], incarnation="a") == [False]
        assert results.get(["k"]) == [None]

"""Publishing when networks and servers misbehave: pains 16, 17, 25 and 26, and the ones that forks and threads bring."""

from __future__ import annotations

import collections
import gc
import itertools
import json
import math
import os
import queue
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import anyio
import psutil
import pytest
import redis

from compat_celery import Celery, canvas, group
from compat_celery.app import publisher
from compat_celery.exceptions import NotPublished, OperationalError, PublishUnconfirmed
from jumpstarter.brokers.redis import RedisBroker
from jumpstarter.errors import QueueNotFound
from jumpstarter.jobs import Envelope
from tests.peers import eventually
from tests.redis_server import FaultyProxy, RedisServer
from tests.reliability.proxies import Proxy, Silence, random_lengths

#: Seconds; the setting task_publish_timeout of these tests, and how much longer an error may take to arrive.
PATIENCE, MORE = 1.0, 0.5


@pytest.fixture(scope="module", autouse=True)
def shared_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        # The first call of a process imports a good deal, which would count here as publishing's time.
        with app_on(server.url) as app:
            app.tasks["noop"].apply_async_many([(1,)])
        yield server


@pytest.fixture
def server(shared_server: RedisServer, client: redis.Redis) -> RedisServer:
    """A running server with nothing in it."""
    client.flushall()
    return shared_server


@pytest.fixture
def client(shared_server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis(port=shared_server.port) as connection:
        yield connection


def app_on(url: str, **settings: object) -> Celery:
    app = Celery("publishing", broker=url, backend="disabled", set_as_current=False)
    app.conf.update(task_publish_timeout=PATIENCE, **settings)

    @app.task(name="noop", shared=False)
    def noop(*args: object) -> None:
        """Nobody runs it here."""

    return app


def ids(client: redis.Redis, queue: str = "celery") -> collections.Counter[str]:
    """How often each task's id is in the queue."""
    return collections.Counter(json.loads(raw)["headers"]["id"] for raw in client.lrange(queue, 0, -1))


def envelope(name: str) -> Envelope:
    return Envelope(queue="q", body=b"", headers={"id": name})


@contextmanager
def background(work: Callable[[], object]) -> Iterator[Future[object]]:
    """Do the work in a thread, and give what will come of it."""
    with ThreadPoolExecutor(1) as threads:
        yield threads.submit(work)


# Pain 16: `.delay()` hangs when the broker is down.


def down() -> Iterator[str]:
    with RedisServer() as server:
        url = server.url
    yield url


def stopped() -> Iterator[str]:
    with RedisServer() as server:
        server.pause()
        yield server.url
        server.resume()


def swallowed() -> Iterator[str]:
    with RedisServer() as server, Proxy(server.port) as proxy:
        proxy.swallow = True
        yield proxy.url


def silent() -> Iterator[str]:
    with Silence() as silence:
        yield f"redis://127.0.0.1:{silence.port}/0"


@pytest.mark.parametrize("broker", [down, stopped, swallowed, silent], ids=lambda broker: broker.__name__)
@pytest.mark.parametrize("how", ["delay", "bulk", "endless retries"])
def test_a_call_to_a_broker_that_is_not_there_is_an_error_in_time(broker: Callable[[], Iterator[str]], how: str) -> None:
    addresses = broker()
    with app_on(next(addresses)) as app:
        noop = app.tasks["noop"]
        calls = {
            "delay": lambda: noop.delay(1),
            "bulk": lambda: noop.apply_async_many([(number,) for number in range(100)]),
            "endless retries": lambda: noop.apply_async((1,), retry_policy={"max_retries": None, "interval_start": 0.3}),
        }
        began = time.monotonic()
        with pytest.raises(NotPublished, match="Nothing was sent") as caught:
            calls[how]()
        took = time.monotonic() - began
    assert isinstance(caught.value, OperationalError)
    assert "broker_url" in str(caught.value)
    assert took < PATIENCE + MORE
    addresses.close()


@pytest.mark.parametrize("how", ["stopped", "swallowed"])
def test_a_broker_that_falls_silent_is_an_error_in_time_which_says_that_nobody_knows(how: str) -> None:
    with RedisServer() as server, Proxy(server.port) as proxy, app_on(proxy.url) as app:
        app.tasks["noop"].delay("before")
        if how == "stopped":
            server.pause()
        proxy.swallow = how == "swallowed"
        began = time.monotonic()
        with pytest.raises(PublishUnconfirmed, match="whether it arrived is unknown"):
            app.tasks["noop"].apply_async((1,), task_id="doubtful")
        assert time.monotonic() - began < PATIENCE + MORE
        if how == "stopped":
            server.resume()
        proxy.let_go()
        app.tasks["noop"].delay("after")
        with redis.Redis(port=server.port) as client:
            # It was sent twice, on two connections, and arrives late; once.
            assert ids(client)["doubtful"] <= 1
            assert ids(client).total() in {2, 3}


def test_the_time_that_a_call_gives_comes_before_the_setting() -> None:
    with Silence() as silence, app_on(f"redis://127.0.0.1:{silence.port}/0") as app:
        began = time.monotonic()
        with pytest.raises(NotPublished):
            app.tasks["noop"].apply_async((1,), timeout=0.2)
        assert time.monotonic() - began < 0.2 + MORE
        with pytest.raises(ValueError, match="above 0"):
            app.tasks["noop"].apply_async((1,), timeout=0)


def test_without_any_setting_a_call_gives_up_after_celerys_four_seconds() -> None:
    with Silence() as silence:
        app = Celery("publishing", broker=f"redis://127.0.0.1:{silence.port}/0", backend="disabled", set_as_current=False)
        began = time.monotonic()
        with pytest.raises(NotPublished):
            app.send_task("noop")
        assert 3.5 < time.monotonic() - began < 4 + MORE


def test_a_silent_broker_leaves_its_alternate_the_time_that_it_needs(server: RedisServer, client: redis.Redis) -> None:
    with Silence() as silence, app_on(f"redis://127.0.0.1:{silence.port}/0;{server.url}") as app:
        began = time.monotonic()
        result = app.tasks["noop"].delay(1)
        assert time.monotonic() - began < PATIENCE + MORE
        assert ids(client) == {result.id: 1}
        # From now on it is asked first.
        began = time.monotonic()
        app.tasks["noop"].apply_async((1,), retry=False)
        assert time.monotonic() - began < PATIENCE / 2


def test_a_file_that_is_locked_all_the_time_is_an_error_in_time(tmp_path: Path) -> None:
    with app_on(f"sqlite:///{tmp_path}/queue.db") as app:
        app.tasks["noop"].delay("before")
        with sqlite3.connect(f"{tmp_path}/queue.db", isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")
            began = time.monotonic()
            with pytest.raises(NotPublished, match="locked"):
                app.tasks["noop"].delay(1)
            assert time.monotonic() - began < PATIENCE + MORE
            other.execute("ROLLBACK")
        other.close()
        app.tasks["noop"].delay("after")


@pytest.mark.anyio
async def test_a_loop_goes_on_while_a_call_waits_for_a_silent_broker() -> None:
    with Silence() as silence, app_on(f"redis://127.0.0.1:{silence.port}/0") as app:
        turns = 0
        async with anyio.create_task_group() as tasks:

            async def turn() -> None:
                nonlocal turns
                while True:
                    await anyio.sleep(0.01)
                    turns += 1

            tasks.start_soon(turn)
            with pytest.raises(NotPublished):
                await app.tasks["noop"].adelay(1)
            with pytest.raises(NotPublished):
                await app.tasks["noop"].aapply_async_many([(1,)], timeout=0.1)
            tasks.cancel_scope.cancel()
        assert turns > 20


# Pain 17: a publish "succeeds" but is lost; and its twin: one that fails is doubled by its retry.


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_of_ten_thousand_calls_while_connections_are_reset_none_is_lost_or_doubled(
    server: RedisServer, client: redis.Redis
) -> None:
    seed = random.randrange(1 << 30)
    told: collections.Counter[str] = collections.Counter()
    with Proxy(server.port, reset_after=random_lengths(seed, 80_000)) as proxy, app_on(proxy.url) as app:
        for number in range(10_000):
            try:
                app.tasks["noop"].apply_async((number,), task_id=f"{number}", timeout=10)
                told["ok"] += 1
            except PublishUnconfirmed:
                told["unknown"] += 1
            except NotPublished:
                told["not sent"] += 1
        assert proxy.resets > 100, f"seed {seed}"
    arrived = ids(client)
    assert told.total() == 10_000
    # Redis can tell repetitions, so that nearly none ends in doubt.
    assert told["ok"] >= 9_900, f"{told}, seed {seed}"
    assert len(arrived) >= told["ok"], f"{told}, seed {seed}"
    assert len(arrived) <= told["ok"] + told["unknown"], f"{told}, seed {seed}"
    assert max(arrived.values()) == 1, f"seed {seed}"


@pytest.mark.parametrize("cut", [0, 1, 40, 200, 400, 2000])
def test_a_bulk_that_is_cut_anywhere_arrives_once_and_whole(server: RedisServer, client: redis.Redis, cut: int) -> None:
    lengths = itertools.chain([3000 + cut], itertools.repeat(1 << 30))
    with Proxy(server.port, reset_after=lambda: next(lengths)) as proxy, app_on(proxy.url) as app:
        results = app.tasks["noop"].apply_async_many([(number,) for number in range(20)])
        assert proxy.resets == 1
    assert ids(client) == dict.fromkeys((result.id for result in results), 1)


def test_an_answer_that_is_cut_is_no_reason_to_publish_twice(server: RedisServer, client: redis.Redis) -> None:
    with FaultyProxy(server.port) as proxy, app_on(proxy.url) as app:
        expected = [app.tasks["noop"].delay().id]
        for bytes_before in (0, 1, 2, 3):
            proxy.cut_after = bytes_before
            expected.append(app.tasks["noop"].delay().id)
            proxy.cut_after = bytes_before
            expected += [result.id for result in app.tasks["noop"].apply_async_many([()] * 3)]
        assert proxy.cuts == 8
    assert ids(client) == dict.fromkeys(expected, 1)


def test_a_call_that_arrives_after_its_repetition_and_the_next_call_does_nothing(server: RedisServer, client: redis.Redis) -> None:
    with Proxy(server.port) as proxy, RedisBroker(proxy.url, timeout=4) as broker:
        broker.publish([envelope("0")])
        proxy.swallow = True
        with background(lambda: broker.publish([envelope("late")])) as publishing:
            assert proxy.swallowed.wait(10)
            # The connection that it came by is silent for half of the time; the next one is not.
            proxy.swallow = False
            publishing.result(10)
        broker.publish([envelope("next")])
        proxy.let_go()
        broker.publish([envelope("last")])
    assert ids(client, "q") == {"0": 1, "late": 1, "next": 1, "last": 1}


def test_a_publisher_outlasts_a_restart_of_its_server_without_a_double() -> None:
    with RedisServer("--appendfsync", "always", aof=True) as server, app_on(server.url) as app:
        app.conf.task_publish_timeout = 10.0
        told: list[str] = []
        over = threading.Event()

        def publish() -> None:
            while not over.is_set():
                told.append(app.tasks["noop"].delay().id)

        with background(publish) as publishing:
            for _ in range(3):
                before = len(told)
                eventually(lambda: len(told) > before + 20, within=30, what="20 more calls")  # noqa: B023 - used at once
                server.kill()
                server.start()
            over.set()
            publishing.result(30)
        with redis.Redis(port=server.port) as client:
            assert ids(client) == dict.fromkeys(told, 1)


def test_of_a_bulk_for_several_queues_of_which_one_cannot_be_used_nothing_is_sent(server: RedisServer, client: redis.Redis) -> None:
    client.set("broken", "no list")
    with app_on(server.url) as app:

        def send_three() -> None:
            with app.bulk_publish():
                for queue in ("first", "broken", "last"):
                    app.send_task("noop", queue=queue)

        with pytest.raises(QueueNotFound, match="'broken'"):
            send_three()
        with pytest.raises(QueueNotFound, match="'broken'"):
            app.send_task("noop", queue="broken")
        client.delete("broken")
        send_three()
    assert [client.llen(queue) for queue in ("first", "broken", "last")] == [1, 1, 1]


# Bulks.


def scripts_run(client: redis.Redis) -> int:
    """Calls of scripts that the server knew."""
    statistics = client.info("commandstats").get("cmdstat_evalsha", {"calls": 0, "failed_calls": 0})
    return int(statistics["calls"]) - int(statistics["failed_calls"])


@pytest.mark.parametrize("how", ["group", "many", "block"])
def test_a_thousand_calls_are_one_round_trip(
    server: RedisServer, client: redis.Redis, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canvas, "_TAKES_ITS_TIME", math.inf)  # on a slow machine, a group's first messages go ahead
    with app_on(server.url) as app:
        app.conf.task_publish_timeout = 30  # or a machine that is busy for half a second would have it sent again
        noop = app.tasks["noop"]
        noop.apply_async_many([(0,), (0,)])  # the server knows the script
        before = scripts_run(client)
        if how == "group":
            group(noop.s(number) for number in range(1000)).apply_async()
        elif how == "many":
            noop.apply_async_many([number] for number in range(1000))
        else:
            with app.bulk_publish():
                for number in range(1000):
                    noop.delay(number)
        assert scripts_run(client) == before + 1
        assert client.llen("celery") == 1002


def test_a_bulk_beyond_the_limit_goes_in_parts_and_says_which_of_them_were_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "BULK_LIMIT", 10)
    with RedisServer() as server, app_on(server.url) as app:

        def calls() -> Iterator[tuple[int]]:
            for number in range(25):
                if number == 22:
                    server.kill()
                yield (number,)

        with pytest.raises(NotPublished, match="The first 20 messages") as caught:
            app.tasks["noop"].apply_async_many(calls(), task_ids=map(str, range(25)))
        assert caught.value.sent == tuple(map(str, range(20)))


def test_large_bodies_go_in_parts_as_well(server: RedisServer, client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "BULK_BYTES", 5000)
    with app_on(server.url) as app:
        app.tasks["noop"].apply_async_many([("x" * 1000,)] * 2)
        before = scripts_run(client)
        app.tasks["noop"].apply_async_many([("x" * 1000,)] * 20)
        assert scripts_run(client) - before in {5, 6}  # four or five in each part; a part of one has a script of its own
        assert client.llen("celery") == 22


# Forks and threads.


def test_eight_threads_publish_while_the_process_forks_and_all_arrive_once(server: RedisServer, client: redis.Redis) -> None:
    """Parent and children go on through connections and numbers of their own, and no thread is started by publishing."""
    with app_on(server.url) as app:
        app.tasks["noop"].apply_async(task_id="first")
        before = threading.enumerate()

        def publish(who: str, count: int) -> None:
            for number in range(count):
                app.tasks["noop"].apply_async(task_id=f"{who} {number}")

        threads = [threading.Thread(target=publish, args=(f"thread {number}", 200)) for number in range(8)]
        for thread in threads:
            thread.start()
        children = []
        for child in range(4):
            eventually(lambda: client.llen("celery") > 200 * (child + 1), within=60, what="more calls")  # noqa: B023 - used at once
            pid = os.fork()
            if pid == 0:
                code = 1
                with suppress(BaseException):
                    publish(f"child {child}", 100)
                    code = 0 if threading.active_count() == 1 else 2
                os._exit(code)
            children.append(pid)
        assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
        for thread in threads:
            thread.join(60)
        assert threading.enumerate() == before
    arrived = ids(client)
    assert arrived.total() == len(arrived) == 1 + 8 * 200 + 4 * 100


# Pain 26: leaks of those who never ask for their results.


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_hundred_thousand_calls_whose_results_nobody_wants_leave_nothing_behind(server: RedisServer, client: redis.Redis) -> None:
    process = psutil.Process()
    app = Celery("publishing", broker=server.url, backend=server.url, set_as_current=False)
    with app:
        app.task(name="noop", shared=False)(print)

        def publish(bulks: int) -> tuple[int, int, int, int]:
            for _ in range(bulks):
                app.tasks["noop"].apply_async_many([(number,) for number in range(100)])
                app.tasks["noop"].delay()
            client.delete("celery")
            gc.collect()
            channels = int(client.execute_command("PUBSUB", "NUMPAT")) + len(client.pubsub_channels())
            return process.memory_info().rss, process.num_fds(), threading.active_count(), channels

        publish(100)
        before = publish(100)
        after = publish(1000)
    # Not equal: threads that an earlier test left to end may end in between.
    assert all(now <= then for now, then in zip(after[1:], before[1:], strict=True)), (before, after)
    assert after[3] == 0
    assert after[0] - before[0] < 2 << 20
    assert not [key for key in client.scan_iter() if not key.startswith(b"jumpstarter.publisher.")]
    assert client.dbsize() <= 8


# Pain 25: `get()` hangs, a result is lost.


def results_app(url: str) -> Celery:
    return Celery("publishing", broker=url, backend=url, set_as_current=False)


def test_of_five_hundred_gets_all_return_although_their_subscriptions_are_killed(server: RedisServer, client: redis.Redis) -> None:
    with results_app(server.url) as app:
        waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
        over = threading.Event()

        def work() -> None:
            """As a worker would: a result some milliseconds after somebody has begun to wait for it."""
            chance = random.Random(25)
            while not over.is_set():
                with suppress(queue.Empty):
                    task_id = waiting.get(timeout=0.05)
                    over.wait(chance.uniform(0, 0.005))
                    app.backend.mark_as_done(task_id, f"result of {task_id}")

        def kill() -> int:
            killed = 0
            while not over.wait(0.02):
                killed += client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            return killed

        def get(caller: int) -> list[str]:
            answers = []
            for number in range(125):
                task_id = f"{caller}-{number}"
                waiting.put(task_id)
                answers.append(app.AsyncResult(task_id).get(timeout=30))
            return answers

        with ThreadPoolExecutor(6) as threads:
            worker, killer = threads.submit(work), threads.submit(kill)
            answers = [threads.submit(get, caller) for caller in range(4)]
            got = [answer.result(100) for answer in answers]
            over.set()
            worker.result(10)
            assert killer.result(10) > 20
        assert got == [[f"result of {caller}-{number}" for number in range(125)] for caller in range(4)]


def test_a_get_outlasts_the_server_of_the_results() -> None:
    with RedisServer(aof=True) as server, results_app(server.url) as app:
        app.backend.mark_as_done("first", 1)
        assert app.AsyncResult("first").get(timeout=10) == 1
        with ThreadPoolExecutor(8) as threads:
            answers = [threads.submit(app.AsyncResult(f"{number}").get, timeout=60) for number in range(8)]
            with redis.Redis(port=server.port) as client:
                eventually(lambda: len(client.pubsub_channels("*-[0-7]")) == 8, within=30, what="everybody listens")
            server.kill()
            server.start()
            for number in range(8):
                app.backend.mark_as_done(f"{number}", number)
            assert [answer.result(60) for answer in answers] == list(range(8))

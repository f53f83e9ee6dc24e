"""Fanout exchanges and ``Broadcast`` queues: every worker hears what is said, once, whatever the number of its processes."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu import Exchange, Queue
from kombu.common import Broadcast

from compat_celery import Celery
from compat_celery.app.publisher import broker_for
from compat_celery.contrib.embedded import embedded_worker
from tests.compat.test_rpc import broker_url
from tests.peers import eventually
from tests.rabbitmq_server import rabbitmq_server
from tests.redis_server import redis_server, shared_redis

__all__ = ["rabbitmq_server", "redis_server", "shared_redis"]

TIMEOUT = 30.0


def make_app(url: str, heard: Path, *queues: Queue) -> Celery:
    """An app as each process would make it: its ``Broadcast`` queues have names of their own."""
    app = Celery("listener", broker=url, backend="disabled", set_as_current=False)
    app.conf.worker_hijack_root_logger = False
    app.conf.task_queues = [Queue("celery"), *queues]

    @app.task(name="note", shared=False)
    def note(word: str) -> None:
        line = json.dumps([word, id(app), os.getpid()]).encode() + b"\n"
        descriptor = os.open(heard, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, line)
        os.close(descriptor)

    return app


def entries(heard: Path) -> list[Any]:
    return [json.loads(line) for line in heard.read_text().splitlines()] if heard.exists() else []


@pytest.fixture(params=["memory", "sqlite", "redis", "rabbitmq"])
def url(request: Any, tmp_path: Path) -> str:
    return broker_url(request.param, request, tmp_path)


def test_every_worker_hears_what_is_said_once(url: str, tmp_path: Path) -> None:
    heard = tmp_path / "heard"
    with make_app(url, heard, Broadcast("news")) as one, make_app(url, heard, Broadcast("news")) as other:
        with embedded_worker(one, concurrency=3), embedded_worker(other, concurrency=3):
            for number in range(5):
                one.tasks["note"].apply_async((f"all {number}",), queue="news")
            one.tasks["note"].delay("one")
            eventually(lambda: len(entries(heard)) >= 11, within=TIMEOUT, what="all is heard")
        told = [(word, who) for word, who, _ in entries(heard)]
        words = [f"all {number}" for number in range(5)]
        assert sorted(entry for entry in told if entry[0] != "one") == sorted(
            (word, id(app)) for word in words for app in (one, other)
        )
        assert len(told) == 11
        # Their queues are gone with them: nobody's messages pile up.
        for app in (one, other):
            (queue,) = [queue for queue in app.amqp.queues.values() if isinstance(queue, Broadcast)]
            assert broker_for(app).depth(queue.name) == 0
        one.tasks["note"].apply_async(("nobody",), queue="news")
        assert [entry for entry in entries(heard) if entry[0] == "nobody"] == []


def test_children_of_a_node_share_what_it_hears(redis_server: Any, tmp_path: Path) -> None:
    heard = tmp_path / "heard"
    with make_app(redis_server.url, heard, Broadcast("news")) as app:
        with embedded_worker(app, pool="prefork", concurrency=2):
            for number in range(20):
                app.tasks["note"].apply_async((number,), queue="news")
            eventually(lambda: len(entries(heard)) >= 20, within=TIMEOUT, what="all is heard")
        assert sorted(word for word, _, _ in entries(heard)) == list(range(20))


def test_a_queue_of_any_name_may_be_bound_to_a_fanout_exchange(url: str, tmp_path: Path) -> None:
    heard, exchange = tmp_path / "heard", Exchange(f"fan-{uuid.uuid4().hex}", type="fanout")
    queues = [Queue(f"{exchange.name}-{number}", exchange) for number in range(2)]
    with make_app(url, heard, *queues) as app, embedded_worker(app):
        app.tasks["note"].apply_async(("both",), queue=queues[0].name)
        eventually(lambda: len(entries(heard)) >= 2, within=TIMEOUT, what="both queues got it")
        assert [word for word, _, _ in entries(heard)] == ["both", "both"]


def test_a_worker_may_be_told_to_listen_by_the_name_of_the_exchange(redis_server: Any, tmp_path: Path) -> None:
    heard = tmp_path / "heard"
    with make_app(redis_server.url, heard, Broadcast("news")) as app, embedded_worker(app, queues=["news"]):
        app.tasks["note"].apply_async(("heard",), queue="news")
        eventually(lambda: entries(heard), within=TIMEOUT, what="it is heard")


def test_what_a_dead_node_would_have_heard_is_not_kept_for_ever(redis_server: Any, tmp_path: Path) -> None:
    with make_app(redis_server.url, tmp_path / "heard", Broadcast("news")) as app:
        (queue,) = [queue for queue in app.amqp.queues.values() if isinstance(queue, Broadcast)]
        close = broker_for(app).open_fanout(queue.name, "news", queue.routing_key, private=True)
        app.tasks["note"].apply_async(("lost",), queue="news")
        eventually(lambda: broker_for(app).depth(queue.name), within=TIMEOUT, what="it is kept for the children")
        assert 0 < redis.Redis.from_url(redis_server.url).ttl(queue.name) <= 86_400
        close()
        assert broker_for(app).depth(queue.name) == 0

"""Results as messages to who called (``rpc://``), on every kind of broker."""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from compat_celery import Celery, chord, group
from compat_celery.app.publisher import broker_for
from compat_celery.contrib.embedded import embedded_worker
from compat_celery.exceptions import TimeoutError  # noqa: A004 - Celery's name
from jumpstarter.jobs import Envelope
from tests.peers import eventually
from tests.rabbitmq_server import RabbitServer, rabbitmq_server
from tests.redis_server import redis_server, shared_redis

__all__ = ["rabbitmq_server", "redis_server", "shared_redis"]

TIMEOUT = 30.0


def broker_url(kind: str, request: Any, tmp_path: Path) -> str:
    match kind:
        case "memory":
            return f"memory://{uuid.uuid4().hex}"
        case "sqlite":
            return f"sqlite:///{tmp_path}/queues.db"
        case "redis":
            return str(request.getfixturevalue("redis_server").url)
        case _:
            return str(request.getfixturevalue("rabbitmq_server").url)


def make_app(url: str) -> Celery:
    app = Celery("caller", broker=url, backend="rpc://", set_as_current=False)
    app.conf.worker_hijack_root_logger = False
    app.conf.worker_enable_remote_control = False

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="fail")
    def fail() -> None:
        raise ValueError("no", 3)

    @app.task(name="steps", bind=True)
    def steps(self: Any) -> str:
        self.update_state(state="PROGRESS", meta={"done": 50})
        return "all"

    return app


@pytest.fixture(params=["memory", "sqlite", "redis", "rabbitmq"])
def app(request: Any, tmp_path: Path) -> Iterator[Celery]:
    with make_app(broker_url(request.param, request, tmp_path)) as made:
        yield made


def test_results_come_to_who_called(app: Celery) -> None:
    tasks = app.tasks
    with embedded_worker(app):
        result = tasks["add"].delay(2, 3)
        assert result.get(timeout=TIMEOUT) == 5
        assert (result.state, result.successful(), result.get()) == ("SUCCESS", True, 5)  # it comes once, and is kept
        with pytest.raises(ValueError, match="no") as raised:
            tasks["fail"].delay().get(timeout=TIMEOUT)
        assert raised.value.args == ("no", 3)
        assert group(tasks["add"].s(number, 1) for number in range(20)).delay().get(timeout=TIMEOUT) == list(range(1, 21))
        assert (tasks["add"].s(1, 1) | tasks["add"].s(10)).delay().get(timeout=TIMEOUT) == 12
        seen: list[Any] = []
        assert tasks["steps"].delay().get(timeout=TIMEOUT, on_message=seen.append) == "all"
        assert seen[-1]["status"] == "SUCCESS"
    with pytest.raises(TimeoutError):
        tasks["add"].delay(1, 1).get(timeout=0.05)


def test_any_thread_may_wait_for_what_any_other_has_called(app: Celery) -> None:
    with embedded_worker(app), ThreadPoolExecutor(4) as threads:
        called = list(threads.map(lambda number: app.tasks["add"].delay(number, number), range(40)))
        found = list(threads.map(lambda result: result.get(timeout=TIMEOUT), called))
    assert found == [2 * number for number in range(40)]


def test_what_was_called_may_be_looked_at_without_waiting(app: Celery) -> None:
    result = app.tasks["add"].delay(1, 2)
    assert (result.state, result.ready()) == ("PENDING", False)
    with embedded_worker(app):
        assert eventually(result.ready, within=TIMEOUT, what="the reply is there")
    assert result.result == 3
    result.forget()
    assert app.AsyncResult(result.id).state == "PENDING"


def test_progress_is_told_at_once(redis_server: Any) -> None:
    with make_app(redis_server.url) as app:
        begun, may_end = threading.Event(), threading.Event()

        @app.task(name="slow", bind=True)
        def slow(self: Any) -> str:
            self.update_state(state="PROGRESS", meta={"done": 50})
            begun.set()
            may_end.wait(TIMEOUT)
            return "done"

        with embedded_worker(app):
            result = slow.delay()
            assert begun.wait(TIMEOUT)
            eventually(lambda: result.state == "PROGRESS", within=TIMEOUT, what="progress is told")
            assert result.info == {"done": 50}
            may_end.set()
            assert result.get(timeout=TIMEOUT) == "done"


def test_what_nobody_waits_for_any_more_is_dropped_and_harms_nobody(rabbitmq_server: RabbitServer) -> None:
    """A client that is gone has taken its queue along; the worker goes on."""
    with make_app(rabbitmq_server.url) as app:
        gone = f"gone-{uuid.uuid4().hex}"
        app.tasks["add"].apply_async((1, 1), reply_to=gone)
        with embedded_worker(app):
            assert app.tasks["add"].delay(2, 2).get(timeout=TIMEOUT) == 4
        assert broker_for(app).depth(gone) == 0
        assert broker_for(app).depth("celery") == 0
        assert rabbitmq_server.ask(f'lists:member(<<"{gone}">>, [element(4, N) || N <- rabbit_amqqueue:list_names()])') == "false"


def test_chords_are_refused_when_they_are_called(app: Celery) -> None:
    with pytest.raises(NotImplementedError, match="cannot count chords"):
        chord([app.tasks["add"].s(1, 1)], app.tasks["add"].s(1)).delay()
    assert broker_for(app).depth("celery") == 0
    saved = group([app.tasks["add"].s(1, 1)]).delay()
    with pytest.raises(NotImplementedError, match="saved"):
        saved.save()


def test_a_forked_process_gets_replies_of_its_own(redis_server: Any) -> None:
    with make_app(redis_server.url) as app, embedded_worker(app):
        before = app.tasks["add"].delay(1, 1)
        assert before.get(timeout=TIMEOUT) == 2
        mine = app.thread_oid
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            # The parent's worker, with its threads, is not here; it runs the call all the same.
            try:
                told = [app.thread_oid, app.tasks["add"].delay(20, 1).get(timeout=TIMEOUT)]
                os.write(writing, json.dumps(told).encode())
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        oid, value = json.loads(os.read(reading, 1000))
        assert value == 21
        assert oid != mine
        assert app.tasks["add"].delay(3, 1).get(timeout=TIMEOUT) == 4


def test_what_is_no_result_is_passed_over(redis_server: Any) -> None:
    with make_app(redis_server.url) as app:
        result = app.tasks["add"].delay(1, 1)
        broker = broker_for(app)
        broker.publish([Envelope(queue=app.thread_oid, body=body, headers={}) for body in (b"[1]", b"{no json", b'{"a": 1}')])
        with embedded_worker(app):
            assert result.get(timeout=TIMEOUT) == 2
        assert broker.depth(app.thread_oid) == 0

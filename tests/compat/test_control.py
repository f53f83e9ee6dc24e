"""Remote control: what clients say and ask, and what workers do and answer. Workers run in threads of this process, or as a node
with a child where that makes the difference."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import redis

from compat_celery import Celery, signals
from compat_celery.app.control import flatten_reply
from compat_celery.apps.worker import Worker
from compat_celery.contrib.embedded import embedded_worker
from compat_celery.contrib.testing.worker import start_worker
from compat_celery.exceptions import DuplicateNodenameWarning, TaskRevokedError
from compat_celery.worker import control, pidbox, state
from compat_celery.worker.revocations import has_stamp
from tests.peers import eventually
from tests.redis_server import redis_server, shared_redis

__all__ = ["redis_server", "shared_redis"]

TIMEOUT = 20.0


@pytest.fixture(autouse=True)
def nobody_is_revoked() -> Iterator[None]:
    state.reset_state()
    yield
    state.reset_state()


def make_app(url: str) -> Celery:
    app = Celery("controlled", broker=url, backend=url, set_as_current=False)
    app.conf.worker_hijack_root_logger = False

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    return app


@pytest.fixture(params=["memory", "redis"])
def app(request: Any) -> Iterator[Celery]:
    url = f"memory://{uuid.uuid4().hex}" if request.param == "memory" else request.getfixturevalue("redis_server").url
    with make_app(url) as made:
        yield made


@pytest.fixture
def redis_app(redis_server: Any) -> Iterator[Celery]:
    with make_app(redis_server.url) as made:
        yield made


@contextmanager
def worker(app: Celery, **options: Any) -> Iterator[Any]:
    with start_worker(
        app, pool="threads", perform_ping_check=False, hostname=f"w{uuid.uuid4().hex[:6]}@here", **options
    ) as started:
        yield started


def one(replies: Any) -> Any:
    """What the only worker answers."""
    (reply,) = replies.values() if isinstance(replies, dict) else [value for each in replies for value in each.values()]
    return reply


def test_a_worker_answers_to_its_name(app: Celery) -> None:
    with worker(app) as started:
        assert app.control.ping(timeout=TIMEOUT, limit=1) == [{started.hostname: {"ok": "pong"}}]
        assert app.control.inspect([started.hostname], timeout=TIMEOUT).ping() == {started.hostname: {"ok": "pong"}}
        assert app.control.inspect(started.hostname, timeout=TIMEOUT).ping() == {"ok": "pong"}
        assert app.control.inspect(["nobody@here"], timeout=0.2).ping() is None


def test_what_runs_and_what_waits_is_told(app: Celery) -> None:
    begun, may_end = threading.Event(), threading.Event()

    @app.task(name="wait")
    def wait(word: str) -> None:
        begun.set()
        may_end.wait(TIMEOUT)

    with worker(app) as started:
        result = wait.delay("now")
        try:
            assert begun.wait(TIMEOUT)
            asked = app.control.inspect([started.hostname], timeout=TIMEOUT)
            (active,) = one(asked.active())
            assert active["id"] == result.id
            assert active["name"] == active["type"] == "wait"
            assert active["args"] == ["now"]
            assert active["hostname"] == started.hostname
            assert one(asked.active(safe=True))[0]["args"] == "('now',)"
            assert one(asked.query_task(result.id))[result.id][0] == "active"
            assert one(asked.reserved()) == one(asked.scheduled()) == []
        finally:
            may_end.set()
        result.get(timeout=TIMEOUT)
        assert eventually(lambda: one(asked.stats())["total"], within=TIMEOUT, what="the task is counted") == {"wait": 1}


def test_the_worker_tells_about_itself(app: Celery) -> None:
    with worker(app) as started:
        asked = app.control.inspect([started.hostname], timeout=TIMEOUT)
        stats = one(asked.stats())
        assert stats["pool"]["max-concurrency"] == 1
        assert stats["broker"]["transport"] == app.conf.broker_url.partition("://")[0]
        assert "add" in one(asked.registered())
        assert [queue["name"] for queue in one(asked.active_queues())] == ["celery"]
        assert one(asked.conf())["worker_hijack_root_logger"] is False


def test_what_is_revoked_before_it_is_published_never_starts(app: Celery) -> None:
    """However soon after the revocation the message comes: thirty times in a row."""
    ran: list[str] = []
    signals.task_prerun.connect(lambda task_id, **_: ran.append(task_id), weak=False)
    with worker(app):
        for _ in range(30):
            task_id = uuid.uuid4().hex
            app.control.revoke(task_id)
            result = app.tasks["add"].apply_async((1, 1), task_id=task_id)
            with pytest.raises(TaskRevokedError):
                result.get(timeout=TIMEOUT)
            assert result.state == "REVOKED"
        assert app.tasks["add"].delay(1, 1).get(timeout=TIMEOUT) == 2
    assert len(ran) == 1


def test_the_same_in_the_child_of_a_node(redis_app: Celery) -> None:
    with embedded_worker(redis_app, pool="prefork", concurrency=1):
        for _ in range(30):
            task_id = uuid.uuid4().hex
            redis_app.control.revoke(task_id)
            result = redis_app.tasks["add"].apply_async((1, 1), task_id=task_id)
            with pytest.raises(TaskRevokedError):
                result.get(timeout=TIMEOUT)
        assert redis_app.tasks["add"].delay(1, 1).get(timeout=TIMEOUT) == 2


@pytest.mark.parametrize("stamp", ["it", ["it", "another"]])
def test_what_carries_a_revoked_stamp_never_starts(app: Celery, stamp: Any) -> None:
    with worker(app):
        app.control.revoke_by_stamped_headers({"monitoring": ["it"]})
        stamped = app.tasks["add"].s(1, 1)
        stamped.stamp(monitoring=stamp)
        with pytest.raises(TaskRevokedError):
            stamped.apply_async().get(timeout=TIMEOUT)
        other = app.tasks["add"].s(1, 1)
        other.stamp(monitoring="else")
        assert other.apply_async().get(timeout=TIMEOUT) == 2


def test_whoever_waits_for_a_task_that_has_not_begun_learns_at_once_that_it_is_revoked(app: Celery) -> None:
    with worker(app) as started:
        begun, other = uuid.uuid4().hex, uuid.uuid4().hex
        app.backend.store_result(begun, {"hostname": "other@host"}, "STARTED")
        app.control.revoke([begun, other], reply=True, timeout=TIMEOUT, limit=1)
        assert app.AsyncResult(other).state == "REVOKED"
        assert app.AsyncResult(begun).state == "STARTED"
        assert set(one(app.control.inspect([started.hostname], timeout=TIMEOUT).revoked())) == {begun, other}


def test_terminate_ends_what_runs(app: Celery) -> None:
    begun = threading.Event()

    @app.task(name="endless")
    def endless() -> None:
        begun.set()
        while True:
            threading.Event().wait(0.01)

    with worker(app) as started:
        result = endless.delay()
        assert begun.wait(TIMEOUT)
        reply = app.control.terminate(result.id, [started.hostname], reply=True, timeout=TIMEOUT)
        assert one(reply) == {"ok": f"terminate: {result.id}"}
        with pytest.raises(TaskRevokedError):
            result.get(timeout=TIMEOUT)


def test_a_command_for_one_worker_leaves_the_others_alone(app: Celery) -> None:
    with worker(app) as started:
        task_id = uuid.uuid4().hex
        app.control.revoke(task_id, destination=["nobody@here"])
        app.control.ping([started.hostname], timeout=TIMEOUT)
        assert app.tasks["add"].apply_async((1, 1), task_id=task_id).get(timeout=TIMEOUT) == 2


def test_programs_have_commands_of_their_own(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    @control.control_command(args=[("n", int)])
    def double(state: Any, n: int, **_: Any) -> Any:
        """Double a number."""
        return {"ok": 2 * n, "by": state.hostname}

    @control.control_command()
    def broken(state: Any, **_: Any) -> None:
        raise RuntimeError("a broken command")

    try:
        with worker(app) as started:
            ask = partial(app.control.broadcast, reply=True, timeout=TIMEOUT, destination=[started.hostname])
            assert one(ask("double", {"n": 4})) == {"ok": 8, "by": started.hostname}
            assert "a broken command" in str(one(ask("broken")))
            for _ in range(5):
                app.control.broadcast("broken")
            assert one(ask("double", {"n": 5}))["ok"] == 10
    finally:
        for name in ("double", "broken"):
            del control.Panel.data[name]


def test_time_limits_change_in_all_processes(redis_app: Celery) -> None:
    @redis_app.task(name="limits", bind=True)
    def limits(self: Any) -> Any:
        return [self.soft_time_limit, self.time_limit]

    with node(redis_app) as name:
        reply = redis_app.control.time_limit("limits", soft=30, hard=60, destination=[name], reply=True, timeout=TIMEOUT)
        assert one(reply) == {"ok": "time limits set successfully"}
        # The child is told through its link, so it may run one more task before it knows.
        assert any(limits.delay().get(timeout=TIMEOUT) == [30, 60] for _ in range(100))
        reply = redis_app.control.time_limit("nobody", soft=1, destination=[name], reply=True, timeout=TIMEOUT)
        assert one(reply) == {"error": "unknown task"}


def test_a_node_answers_for_its_children(redis_app: Celery) -> None:
    with node(redis_app) as name:
        assert redis_app.tasks["add"].delay(1, 2).get(timeout=TIMEOUT) == 3
        asked = redis_app.control.inspect([name], timeout=TIMEOUT)
        # Counted once it is settled, which is a moment after its result can be seen.
        stats = eventually(lambda: (told := one(asked.stats()))["total"] and told, within=TIMEOUT, what="the task is counted")
        assert stats["total"] == {"add": 1}
        assert len(stats["pool"]["processes"]) == 1
        assert stats["pool"]["processes"] != [stats["pid"]]
        assert one(asked.active()) == []


@contextmanager
def node(app: Celery) -> Iterator[str]:
    """A worker with one child process, and a mailbox; its name."""
    program = Worker(app, hostname=f"n{uuid.uuid4().hex[:6]}@here", pool="prefork", concurrency=1, quiet=True)
    with embedded_worker(app, pool="prefork", concurrency=1, hostname=program.hostname, beside=partial(pidbox.listen, program)):
        yield program.hostname


@pytest.mark.parametrize("options", [{"global_keyprefix": "shop:"}, {"fanout_prefix": "{db}-"}, {"fanout_prefix": False}], ids=str)
def test_control_goes_where_the_settings_of_kombu_say(redis_app: Celery, options: Any) -> None:
    redis_app.conf.broker_transport_options = options
    with worker(redis_app) as started:
        assert redis_app.control.ping(timeout=TIMEOUT, limit=1) == [{started.hostname: {"ok": "pong"}}]


def test_a_mailbox_that_was_cut_off_opens_again(redis_app: Celery, redis_server: Any) -> None:
    with worker(redis_app) as started, redis.Redis(port=redis_server.port) as client:
        assert client.client_kill_filter(_type="pubsub") >= 1
        ask = partial(redis_app.control.ping, [started.hostname], timeout=0.5)
        assert eventually(ask, within=TIMEOUT, what="it answers again") == [{started.hostname: {"ok": "pong"}}]


def test_replies_that_nobody_fetches_are_not_kept(redis_app: Celery, redis_server: Any) -> None:
    """A client that died left its queue and its binding; pings of a thousand of them must not fill the server."""
    with worker(redis_app), redis.Redis(port=redis_server.port) as client:
        with redis_app.connection_for_write() as connection:
            mailbox = redis_app.control.mailbox(connection)
            for number in range(20):
                mailbox._publish("ping", {}, reply_ticket=f"ticket {number}", timeout=1)
        queue = f"{mailbox.oid}.{mailbox.reply_exchange.name}"
        eventually(lambda: client.llen(queue) == 20, within=TIMEOUT, what="all were answered")
        assert 0 < client.pttl(queue) <= 1000 * redis_app.conf.control_queue_expires


def test_what_is_no_command_is_dropped(redis_app: Celery, redis_server: Any, caplog: pytest.LogCaptureFixture) -> None:
    with worker(redis_app) as started, redis.Redis(port=redis_server.port) as client:
        pickled = {"body": "gARLAS4=", "headers": {}, "content-type": "application/x-python-serialize"}
        pickled |= {"content-encoding": "binary", "properties": {"body_encoding": "base64"}}
        for said in (b"garbage", b"[]", json.dumps(pickled).encode()):
            assert client.publish("/0.celery.pidbox", said) == 1
        assert redis_app.control.ping([started.hostname], timeout=TIMEOUT)
    assert sum("cannot be decoded" in record.getMessage() for record in caplog.records) == 3


def test_two_workers_of_one_name_are_noticed() -> None:
    with pytest.warns(DuplicateNodenameWarning, match="w@here"):
        assert flatten_reply([{"w@here": 1}, {"v@here": 2}, {"w@here": 3}]) == {"w@here": 3, "v@here": 2}


def test_stamps_may_be_of_any_kind() -> None:
    assert has_stamp({"a": {"b": 1}}, {"a": [{"b": 1}]})
    assert has_stamp({"a": [1, 2]}, {"a": 2})
    assert not has_stamp({"a": None}, {"a": [None, 1]})
    assert not has_stamp({"b": 1}, {"a": 1})

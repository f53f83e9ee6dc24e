"""Monitoring events on the wire: sent by clients, received by monitors."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from typing import Any

import kombu
import pytest

from compat_celery import Celery, events
from compat_celery.events.dispatcher import EventDispatcher
from compat_celery.events.receiver import EventReceiver
from tests.peers import eventually
from tests.redis_server import redis_server, shared_redis

__all__ = ["redis_server", "shared_redis"]

TIMEOUT = 20.0


@pytest.fixture(params=["memory", "redis"])
def app(request: Any) -> Iterator[Celery]:
    url = f"memory://{uuid.uuid4().hex}" if request.param == "memory" else request.getfixturevalue("redis_server").url
    with Celery("events", broker=url, backend=url, set_as_current=False) as made:
        yield made


@pytest.fixture
def monitor(app: Celery) -> Iterator[Any]:
    """A receiver that listens; a function that waits for so many events."""
    got: list[dict[str, Any]] = []
    listens = threading.Event()
    with app.connection_for_read() as connection, app.connection_for_write() as other:
        handlers = {"*": got.append, "probe-sent": lambda _event: listens.set()}
        receiver = app.events.Receiver(connection, handlers=handlers)
        thread = threading.Thread(target=receiver.capture, kwargs={"wakeup": False}, daemon=True)
        thread.start()
        probe = app.events.Dispatcher(other)
        # What is sent before it listens is gone.
        eventually(lambda: probe.send("probe-sent") or listens.wait(0.05), within=TIMEOUT, what="the monitor listens")
        yield lambda count: eventually(lambda: len(got) >= count and got, within=TIMEOUT, what=f"{count} events")
        receiver.should_stop = True
        probe.send("probe-sent")
        thread.join(TIMEOUT)


def test_events_arrive_with_what_all_of_them_have(app: Celery, monitor: Any) -> None:
    with app.connection_for_write() as connection, app.events.Dispatcher(connection, hostname="me@here") as dispatcher:
        dispatcher.send("task-received", uuid="1", name="add")
        dispatcher.send("worker-online")
    first, second = monitor(2)
    assert (first["type"], first["uuid"], first["hostname"]) == ("task-received", "1", "me@here")
    assert {"pid", "clock", "utcoffset", "timestamp", "local_received"} <= first.keys()
    assert second["type"] == "worker-online"
    assert second["clock"] > first["clock"]


def test_a_publish_is_told_where_the_setting_wants_it(app: Celery, monitor: Any) -> None:
    app.conf.task_send_sent_event = True
    result = app.send_task("add", (1, 2), queue="elsewhere")
    (event,) = monitor(1)
    assert (event["type"], event["uuid"], event["name"], event["queue"]) == ("task-sent", result.id, "add", "elsewhere")


def test_events_of_a_group_go_together(app: Celery, monitor: Any) -> None:
    with app.connection_for_write() as connection:
        dispatcher = app.events.Dispatcher(connection, buffer_group={"task"}, buffer_limit=3)
        for number in range(4):
            dispatcher.send("task-started", uuid=str(number))
        assert [event["uuid"] for event in monitor(3)] == ["0", "1", "2"]
        dispatcher.flush()
        assert [event["uuid"] for event in monitor(4)] == ["0", "1", "2", "3"]


def test_what_cannot_be_sent_is_kept_and_sent_later(app: Celery, monitor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with app.connection_for_write() as connection:
        dispatcher = app.events.Dispatcher(connection)
        with monkeypatch.context() as patch:
            patch.setattr(kombu.Producer, "publish", _away)
            dispatcher.send("task-started", uuid="1")
        dispatcher.flush()
    (event,) = monitor(1)
    assert event["uuid"] == "1"


def _away(*_: Any, **__: Any) -> None:
    raise OSError("the broker is away")


def test_the_package_gives_what_celerys_gives() -> None:
    found = {name: getattr(events, name) for name in events.__all__}
    assert found["EventReceiver"] is EventReceiver
    assert found["EventDispatcher"] is EventDispatcher
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = events.nothing

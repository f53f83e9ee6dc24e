"""What workers of ours tell monitors: about themselves, and about tasks when somebody wants to know."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from compat_celery import Celery, signals
from compat_celery.exceptions import Reject
from compat_celery.worker.reports import Sender
from jumpstarter.errors import BrokerUnavailable
from tests.compat.test_control import app, make_app, one, worker
from tests.peers import eventually
from tests.redis_server import redis_server, shared_redis

__all__ = ["app", "redis_server", "shared_redis"]

TIMEOUT = 30.0


class Monitor:
    """Gathers events in a thread."""

    def __init__(self, app: Celery) -> None:
        self.events: list[dict[str, Any]] = []
        self._app = app
        self._must_end = threading.Event()
        self._listens = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def _listen(self) -> None:
        with self._app.connection_for_read() as connection:
            receiver = self._app.events.Receiver(connection, handlers={"*": self.events.append})
            with receiver.consumer_context() as (listening, _, _):
                self._listens.set()
                while not self._must_end.is_set():
                    try:
                        listening.drain_events(timeout=0.1)
                    except TimeoutError:
                        continue

    @contextmanager
    def listening(self) -> Iterator[Monitor]:
        self._thread.start()
        assert self._listens.wait(TIMEOUT)
        try:
            yield self
        finally:
            self._must_end.set()
            self._thread.join(TIMEOUT)

    def wait(self, wanted: Callable[[dict[str, Any]], bool], count: int = 1) -> list[dict[str, Any]]:
        def found() -> list[dict[str, Any]] | None:
            some = [event for event in list(self.events) if wanted(event)]
            return some if len(some) >= count else None

        some = eventually(found, within=TIMEOUT, what="the events are heard")
        assert some is not None
        return some

    def of(self, task_id: str, last: str) -> list[str]:
        """The types of the events about a task, in their order, once the last has come."""
        self.wait(lambda event: event.get("uuid") == task_id and event["type"] == last)
        return [event["type"] for event in self.events if event.get("uuid") == task_id]


@contextmanager
def heard(app: Celery) -> Iterator[Monitor]:
    """A monitor that is known to hear: one that is ready too early on Redis misses what was said meanwhile."""
    with Monitor(app).listening() as monitor:
        probe = Sender(app, "probe@here")

        def answered() -> bool:
            probe.send(probe.event("probe-sent", {}), "probe.sent")
            return any(event["type"] == "probe-sent" for event in monitor.events)

        eventually(answered, within=TIMEOUT, what="the monitor hears", every=0.05)
        yield monitor


def add_tasks(app: Celery) -> None:
    @app.task(name="fail")
    def fail() -> None:
        raise ValueError("no")

    @app.task(name="again", bind=True, max_retries=1, default_retry_delay=0)
    def again(self: Any) -> None:
        if not self.request.retries:
            raise self.retry(exc=KeyError("once"))

    @app.task(name="refuse")
    def refuse() -> None:
        raise Reject("never")

    @app.task(name="quiet", send_events=False)
    def quiet() -> None:
        pass


def test_a_worker_says_that_it_is_there(app: Celery) -> None:
    with heard(app) as monitor, worker(app, heartbeat_interval=0.1) as started:
        beats = monitor.wait(lambda event: event["type"] == "worker-heartbeat", 2)
        assert {event["hostname"] for event in beats} == {started.hostname}
        assert beats[0].keys() >= {
            *("freq", "active", "processed", "loadavg", "sw_ident", "sw_ver", "sw_sys"),
            *("hostname", "utcoffset", "pid", "clock", "timestamp", "type"),
        }
        assert app.tasks["add"].delay(1, 1).get(timeout=TIMEOUT) == 2
        monitor.wait(lambda event: event.get("processed", 0) > beats[0]["processed"])
        assert not [event for event in monitor.events if event["type"].startswith("task-")]  # nobody asked for them
    with heard(app) as monitor:
        with worker(app, without_heartbeat=True):
            assert app.tasks["add"].delay(1, 1).get(timeout=TIMEOUT) == 2
        assert {event["type"] for event in monitor.events} == {"probe-sent"}


def test_a_worker_says_when_it_comes_and_goes(app: Celery) -> None:
    with heard(app) as monitor:
        with worker(app):
            monitor.wait(lambda event: event["type"] == "worker-online")
        monitor.wait(lambda event: event["type"] == "worker-offline")


def test_the_life_of_tasks_is_told(app: Celery) -> None:
    add_tasks(app)
    with heard(app) as monitor, worker(app, task_events=True) as started:
        done = app.tasks["add"].delay(1, 2)
        assert monitor.of(done.id, "task-succeeded") == ["task-received", "task-started", "task-succeeded"]
        received, began, succeeded = [event for event in monitor.events if event.get("uuid") == done.id]
        assert (received["name"], received["args"], received["kwargs"], received["retries"]) == ("add", "(1, 2)", "{}", 0)
        assert received["root_id"] == done.id
        assert received["hostname"] == started.hostname
        assert (succeeded["result"], succeeded["runtime"] >= 0) == ("3", True)
        assert received["clock"] < began["clock"] < succeeded["clock"]

        failed = app.tasks["fail"].delay()
        assert monitor.of(failed.id, "task-failed") == ["task-received", "task-started", "task-failed"]
        (event,) = monitor.wait(lambda event: event["type"] == "task-failed")
        assert event["exception"] == "ValueError('no')"
        assert "in fail" in event["traceback"]

        tried = app.tasks["again"].delay()
        types = monitor.of(tried.id, "task-succeeded")
        assert types == ["task-received", "task-started", "task-retried", "task-received", "task-started", "task-succeeded"]

        refused = app.tasks["refuse"].delay()
        assert "task-rejected" in monitor.of(refused.id, "task-rejected")

        late = app.tasks["add"].apply_async((1, 1), expires=datetime.now(UTC) - timedelta(seconds=10))
        (event,) = monitor.wait(lambda event: event["type"] == "task-revoked")
        assert (event["uuid"], event["expired"], event["terminated"]) == (late.id, True, False)

        quiet = app.tasks["quiet"].delay()
        quiet.get(timeout=TIMEOUT)
        last = app.tasks["add"].delay(5, 5)
        monitor.of(last.id, "task-succeeded")
        assert not [event for event in monitor.events if event.get("uuid") == quiet.id]


def test_events_are_turned_on_and_off_from_outside(redis_server: Any) -> None:
    with make_app(redis_server.url) as app, heard(app) as monitor, worker(app) as started:
        tell = {"destination": [started.hostname], "reply": True, "timeout": TIMEOUT, "limit": 1}
        assert one(app.control.disable_events(**tell)) == {"ok": "task events already disabled"}
        assert not signals.task_prerun.receivers
        assert one(app.control.enable_events(**tell)) == {"ok": "task events enabled"}
        assert one(app.control.enable_events(**tell)) == {"ok": "task events already enabled"}
        monitor.of(app.tasks["add"].delay(1, 2).id, "task-succeeded")
        assert one(app.control.disable_events(**tell)) == {"ok": "task events disabled"}
        assert not signals.task_prerun.receivers
        silent = app.tasks["add"].delay(1, 2)
        silent.get(timeout=TIMEOUT)
        assert not [event for event in monitor.events if event.get("uuid") == silent.id]


def test_what_cannot_be_sent_now_is_sent_later(redis_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with make_app(redis_server.url) as app:
        sent: list[Any] = []
        failures = iter([BrokerUnavailable("here", "away")])

        class Flaky(Sender):
            def send(self, events: Any, routing_key: str) -> None:
                for failure in failures:
                    raise failure
                sent.append((len(events), routing_key))

        monkeypatch.setattr("compat_celery.worker.reports._AGAIN", 0.01)
        sender = Flaky(app, "w@here")
        for number in range(150):
            sender.put("task-started", uuid=str(number))
        eventually(lambda: sum(count for count, _ in sent) == 150, within=TIMEOUT, what="all are sent")
        sender.close()
        assert {key for _, key in sent} == {"task.multi"}
        assert max(count for count, _ in sent) <= 100

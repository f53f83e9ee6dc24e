"""Rate limits: as Celery counts them, for each worker; nobody else waits, and nothing is lost."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from compat_celery import Celery, signals
from compat_celery.app.publisher import broker_for
from compat_celery.contrib.embedded import embedded_worker
from compat_celery.exceptions import ImproperlyConfigured
from compat_celery.worker import rates
from compat_celery.worker.application import CeleryApplication
from compat_celery.worker.rates import LONGEST, Away, Bucket, Rates, Wait, ask
from tests.compat.test_control import make_app, one, worker
from tests.peers import eventually
from tests.redis_server import redis_server, shared_redis

__all__ = ["redis_server", "shared_redis"]

TIMEOUT = 30.0


@pytest.fixture(params=["memory", "redis"])
def app(request: Any) -> Iterator[Celery]:
    url = f"memory://{uuid.uuid4().hex}" if request.param == "memory" else request.getfixturevalue("redis_server").url
    with make_app(url) as made:
        yield made


# The decision.


def test_turns_are_an_interval_apart_however_many_come() -> None:
    bucket, turns = Bucket(interval=1.0), []
    for _ in range(4):
        bucket, answer = ask(bucket, 100.0, may_wait=True)
        assert isinstance(answer, Wait)
        turns.append(answer.seconds)
    assert turns == [0, 1, 2, 3]


def test_what_was_not_used_is_not_saved_up() -> None:
    bucket, _ = ask(Bucket(interval=1.0), 100.0, may_wait=True)
    bucket, late = ask(bucket, 200.0, may_wait=True)
    _, next_one = ask(bucket, 200.0, may_wait=True)
    assert (late, next_one) == (Wait(0), Wait(1))


def test_who_is_far_from_his_turn_is_sent_away_and_comes_before_it() -> None:
    bucket, first = ask(Bucket(interval=6.0), 100.0, may_wait=True)
    answers = []
    for _ in range(20):
        bucket, answer = ask(bucket, 100.0, may_wait=True)
        answers.append(answer)
    assert first == Wait(0)
    # One after the other, each a little before the turn that it will have if nobody else comes; none later than in a minute.
    assert answers[:3] == [Away(3.5), Away(9.5), Away(15.5)]
    assert max(answers) <= Away(LONGEST)
    assert ask(bucket, 103.5, may_wait=True)[1] == Wait(2.5)


def test_who_may_not_wait_takes_nobodys_turn() -> None:
    bucket, _ = ask(Bucket(interval=1.0), 100.0, may_wait=True)
    bucket, sent_away = ask(bucket, 100.0, may_wait=False)
    assert isinstance(sent_away, Away)
    assert ask(bucket, 100.0, may_wait=True)[1] == Wait(1)


def test_who_comes_back_and_back_does_not_push_the_others_on_for_ever() -> None:
    bucket = Bucket(interval=3600.0, turn=3700.0)
    for _ in range(1000):
        bucket, answer = ask(bucket, 100.0, may_wait=True)
        assert isinstance(answer, Away)
        assert answer.seconds <= LONGEST


def test_all_processes_of_a_worker_share_the_turns() -> None:
    shared = Rates({"limited": 0.5, "free": 0.0})
    before = time.monotonic()

    def turn() -> float:
        answer = shared.ask("limited", may_wait=True)
        assert isinstance(answer, Wait)
        return time.monotonic() + answer.seconds

    assert turn() >= before
    pid = os.fork()
    if pid == 0:
        os._exit(0 if turn() >= before + 2 else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert turn() >= before + 4
    assert shared.ask("free", may_wait=False) == Wait(0)


def test_a_limit_may_be_changed_and_lifted() -> None:
    limits = Rates({"task": 0.0})
    assert not limits.any
    limits.limit("task", 0.001)
    assert limits.any
    assert limits.ask("task", may_wait=True) == Wait(0)
    assert isinstance(limits.ask("task", may_wait=True), Away)
    limits.limit("task", 10)
    answer = limits.ask("task", may_wait=True)
    assert isinstance(answer, Wait)
    assert answer.seconds <= 0.1
    limits.limit("task", 0)
    assert not limits.any
    assert limits.ask("task", may_wait=False) == Wait(0)


def test_a_limit_that_nobody_understands_is_named() -> None:
    with Celery("wrong", broker="memory://wrong-rate", backend="disabled", set_as_current=False) as app:
        app.task(name="odd", rate_limit="10/fortnight")(lambda: None)
        with pytest.raises(ImproperlyConfigured, match=r"odd: rate_limit must be .*10/fortnight"):
            CeleryApplication(app, "celery@here")


# Workers.


def test_a_limited_task_starts_as_often_as_it_may(app: Celery) -> None:
    received: list[str] = []

    @signals.task_received.connect(weak=False)
    def on_received(request: Any, **_: Any) -> None:
        received.append(request.id)

    @app.task(name="limited", rate_limit="5/s")
    def limited() -> float:
        return time.monotonic()

    before = time.monotonic()
    results = [limited.delay() for _ in range(8)]
    with worker(app):
        starts = sorted(result.get(timeout=TIMEOUT) for result in results)
    for number, start in enumerate(starts):
        assert start >= before + number / 5
    assert sorted(received) == sorted(result.id for result in results)  # each once, however often it was claimed


def test_the_children_of_a_node_have_one_limit_together(redis_server: Any) -> None:
    with make_app(redis_server.url) as app:

        @app.task(name="limited", rate_limit="5/s")
        def limited() -> float:
            begun = time.monotonic()
            time.sleep(0.5)  # longer than from one start to the next, so that it is another child's turn
            return begun

        with embedded_worker(app, pool="prefork", concurrency=2):
            before = time.monotonic()
            results = [limited.delay() for _ in range(4)]
            starts = sorted(result.get(timeout=TIMEOUT) for result in results)
    for number, start in enumerate(starts):
        assert start >= before + number / 5


def test_nobody_waits_for_those_that_are_held_up(app: Celery) -> None:
    started = []

    @app.task(name="limited", rate_limit="1/m")
    def limited() -> None:
        started.append(time.monotonic())

    for _ in range(50):
        limited.delay()
    with worker(app, concurrency=1) as working:
        assert app.tasks["add"].delay(2, 2).get(timeout=TIMEOUT) == 4
        eventually(lambda: started, within=TIMEOUT, what="the first one starts")
        assert len(started) == 1
        # None of the others is claimed: they wait in the broker until somebody may run them.
        eventually(
            lambda: not one(app.control.inspect([working.hostname], timeout=TIMEOUT).reserved()), within=TIMEOUT, what="parked"
        )


def test_who_waits_for_his_turn_goes_back_when_the_worker_stops(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "_FARTHEST", 1000.0)  # seconds: far longer than this test
    started = []

    @app.task(name="limited", rate_limit="1/m")
    def limited() -> None:
        started.append(1)

    for _ in range(2):
        limited.delay()
    with worker(app) as working:
        asked = app.control.inspect([working.hostname], timeout=TIMEOUT)
        # It is held back, and told of as what it is: reserved.
        eventually(lambda: len(one(asked.reserved())) == 1, within=TIMEOUT, what="the second one waits")
    assert started == [1]
    broker = broker_for(app)
    (left,) = broker.claim(["celery"], 10, incarnation="test", lease=30)
    assert left.attempt == 1


def test_the_limit_may_be_set_from_outside(app: Celery) -> None:
    with worker(app) as working:
        told = [{working.hostname: {"ok": "new rate limit set successfully"}}]
        assert app.control.rate_limit("add", "1/m", [working.hostname], reply=True, timeout=TIMEOUT, limit=1) == told
        registered = one(app.control.inspect([working.hostname], timeout=TIMEOUT).registered())
        assert "add [rate_limit=1/m]" in registered
        before = app.tasks["add"].delay(1, 1)
        late = app.tasks["add"].delay(2, 2)
        assert before.get(timeout=TIMEOUT) == 2
        assert not late.ready()
        told = [{working.hostname: {"ok": "rate limit disabled successfully"}}]
        assert app.control.rate_limit("add", 0, [working.hostname], reply=True, timeout=TIMEOUT, limit=1) == told
        assert app.tasks["add"].delay(3, 3).get(timeout=TIMEOUT) == 6
        wrong = app.control.rate_limit("add", "often", [working.hostname], reply=True, timeout=TIMEOUT, limit=1)
        assert "Invalid rate limit string" in one(wrong)["error"]
        unknown = app.control.rate_limit("nobody", "1/m", [working.hostname], reply=True, timeout=TIMEOUT, limit=1)
        assert one(unknown) == {"error": "unknown task"}


def test_settings_limit_all_tasks_or_none(app: Celery) -> None:
    app.conf.task_default_rate_limit = "1/h"
    app.conf.worker_disable_rate_limits = True
    begun = threading.Barrier(3)

    @app.task(name="together")
    def together() -> None:
        begun.wait(TIMEOUT)

    assert together.rate_limit == "1/h"
    results = [together.delay() for _ in range(3)]
    with worker(app, concurrency=3):
        for result in results:
            result.get(timeout=TIMEOUT)

"""celery-once: a task is in the queue once at most, by its arguments."""

import pytest
from celery_once import AlreadyQueued, QueueOnce


@pytest.fixture
def app(app, url):
    app.conf.ONCE = {"backend": "celery_once.backends.Redis", "settings": {"url": url, "default_timeout": 600}}
    return app


def test_a_call_that_waits_cannot_be_made_again_until_it_has_run(app, working):
    @app.task(base=QueueOnce, shared=False)
    def add(a, b):
        return a + b

    first = add.delay(1, 2)
    with pytest.raises(AlreadyQueued):
        add.delay(1, 2)
    other = add.delay(2, 2)
    with working(app):
        assert (first.get(timeout=20), other.get(timeout=20)) == (3, 4)
        assert add.delay(1, 2).get(timeout=20) == 3


def test_gracefully_a_second_call_is_rejected(app):
    @app.task(base=QueueOnce, once={"graceful": True}, shared=False)
    def add(a, b):
        return a + b

    add.delay(1, 2)
    assert add.delay(1, 2).state == "REJECTED"


def test_some_arguments_may_not_count(app):
    @app.task(base=QueueOnce, once={"keys": ["a"]}, shared=False)
    def add(a, b):
        return a + b

    add.delay(1, 2)
    with pytest.raises(AlreadyQueued):
        add.delay(1, 3)


def test_unlocked_before_it_runs_it_may_queue_itself(app, working):
    ran = []

    @app.task(base=QueueOnce, once={"unlock_before_run": True}, shared=False)
    def again(left):
        ran.append(left)
        if left:
            return again.apply_async((left - 1,)).id
        return None

    with working(app):
        again.delay(0).get(timeout=20)
        again.delay(1).get(timeout=20)
    assert ran[:2] == [0, 1]


def test_a_failure_and_a_retry_unlock_it_too(app, working):
    @app.task(base=QueueOnce, bind=True, shared=False)
    def flaky(self, number):
        if self.request.retries < 1:
            raise self.retry(exc=ValueError("again"), countdown=0)
        raise KeyError(number)

    with working(app):
        result = flaky.delay(1)
        with pytest.raises(KeyError):
            result.get(timeout=20)
        with pytest.raises(KeyError):
            flaky.delay(1).get(timeout=20)

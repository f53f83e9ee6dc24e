"""celery-heimdall: tasks of which one runs at a time, and tasks that are rate-limited over all workers."""

import time

import pytest
from celery_heimdall import AlreadyQueuedError, HeimdallTask, RateLimit


@pytest.fixture
def app(app):
    app.conf.heimdall_unique_raises = True
    return app


def test_a_unique_task_cannot_be_called_twice_until_it_has_run(app, working):
    @app.task(base=HeimdallTask, heimdall={"unique": True}, shared=False)
    def report(user):
        return f"report of {user}"

    first = report.delay(1)
    with pytest.raises(AlreadyQueuedError) as raised:
        report.delay(1)
    assert raised.value.likely_culprit == first.id
    report.delay(2)
    with working(app):
        assert first.get(timeout=20) == "report of 1"
        assert report.delay(1).get(timeout=20) == "report of 1"


def test_the_key_may_be_made_by_a_function(app):
    @app.task(base=HeimdallTask, heimdall={"unique": True, "key": lambda args, kwargs: f"user-{args[0]}"}, shared=False)
    def report(user, form):
        return form

    report.delay(1, "short")
    with pytest.raises(AlreadyQueuedError):
        report.delay(1, "long")


def test_a_rate_limited_task_comes_back_by_a_retry(app, working):
    ran = []

    @app.task(base=HeimdallTask, heimdall={"rate_limit": RateLimit((2, 3))}, shared=False)
    def call(number):
        ran.append(time.monotonic())
        return number

    with working(app):
        results = [call.delay("same") for _ in range(3)]
        assert [result.get(timeout=30) for result in results] == ["same"] * 3
    assert ran[1] - ran[0] < 2
    assert ran[2] - ran[0] > 1


def test_a_block_of_a_task_may_run_only_now_and_then(app, working):
    @app.task(base=HeimdallTask, bind=True, shared=False)
    def call(self):
        return bool(self.only_after("a key", 60))

    with working(app):
        assert [call.delay().get(timeout=20) for _ in range(3)] == [True, False, False]

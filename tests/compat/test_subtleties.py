"""What is easily got wrong, observed on genuine Celery 5.7.0 and written from there: those of the subtle behaviours that no other
file here is about. Canvases are in test_canvas and test_chord, signals' order in test_trace, publishing in test_publish."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from compat_celery import Celery, chain, group
from compat_celery.canvas import Signature
from compat_celery.exceptions import Ignore, MaxRetriesExceededError, Reject, Retry, TaskRevokedError
from tests.compat.inline_worker import InlineWorker, make_app, sent


@pytest.fixture
def app() -> Celery:
    app = make_app()
    app.set_current()
    return app


def run(app: Celery, limit: int = 100) -> InlineWorker:
    worker = InlineWorker(app)
    worker.run(limit)
    return worker


class TestLinks:
    """Callbacks and the next step are sent before the result is stored."""

    def test_a_result_that_the_next_step_cannot_be_sent_makes_the_task_fail(self, app: Celery) -> None:
        @app.task(shared=False, ignore_result=True)
        def unsendable() -> Any:
            return {1, 2}  # its own result is not stored, so that only the next step's message is at fault

        @app.task(shared=False)
        def take(value: Any) -> Any:
            return value

        result = chain(unsendable.s().set(ignore_result=False), take.s()).apply_async()
        worker = run(app)
        assert worker.outcomes[0].status == "FAILURE"
        assert result.state == "FAILURE"
        assert "EncodeError" in repr(result.parent.result)
        assert worker.ran(take.name) == []

    def test_an_immutable_callback_does_not_get_the_result(self, app: Celery) -> None:
        got = []

        @app.task(shared=False)
        def take(*args: Any) -> None:
            got.append(args)

        take.apply_async((1,), link=[take.s(2), take.si(3)])
        run(app)
        assert got == [(1,), (None, 2), (3,)]

    def test_a_callback_is_linked_once(self, app: Celery) -> None:
        sig = Signature("a", app=app)
        sig.link(Signature("b", app=app))
        sig.link(Signature("b", app=app))
        assert len(sig.options["link"]) == 1

    def test_a_group_takes_no_link_when_it_is_sent_and_links_its_first_member_alone(self, app: Celery) -> None:
        members = group(Signature("a", (1,), app=app), Signature("a", (2,), app=app), app=app)
        for option in ("link", "link_error"):
            with pytest.raises(TypeError, match="Cannot add link to group"):
                members.apply_async(**{option: Signature("b", app=app)})
        members.link(Signature("b", app=app))
        first, second = members.tasks
        assert [linked["immutable"] for linked in first.options["link"]] == [True]
        assert "link" not in second.options

    def test_a_bound_errback_is_sent_however_many_arguments_it_takes(self, app: Celery) -> None:
        got = []

        @app.task(shared=False, bind=True)
        def bound(self: Any, request: Any, error: Any = None, traceback: Any = None) -> None:
            got.append((request, error))

        @app.task(shared=False)
        def fail() -> None:
            raise ValueError("b")

        result = fail.apply_async(link_error=bound.s())
        worker = run(app)
        assert got == [(result.id, None)]
        assert len(worker.ran(bound.name)) == 1


class TestRetry:
    def test_a_retry_goes_to_the_queue_that_the_message_came_from(self, app: Celery) -> None:
        @app.task(shared=False, bind=True)
        def again(self: Any) -> str:
            if not self.request.retries:
                raise self.retry(countdown=0)
            return "done"

        result = again.apply_async(queue="elsewhere")
        worker = InlineWorker(app, queues=["elsewhere"])
        assert worker.run() == 2
        assert [outcome.job.id for outcome in worker.outcomes if outcome.job] == [result.id] * 2
        assert result.get(timeout=1) == "done"

    def test_over_the_limit_the_error_is_raised_and_without_one_that_it_is_over(self, app: Celery) -> None:
        @app.task(shared=False, bind=True, max_retries=1)
        def again(self: Any, error: bool) -> None:
            raise self.retry(exc=KeyError("k") if error else None, countdown=0)

        results = [again.delay(True), again.delay(False)]
        run(app)
        assert isinstance(results[0].result, KeyError)
        assert isinstance(results[1].result, MaxRetriesExceededError)

    def test_a_limit_that_is_given_once_stays_for_the_next_attempts(self, app: Celery) -> None:
        attempts = []

        @app.task(shared=False, bind=True, max_retries=1, autoretry_for=(ValueError,), retry_kwargs={"countdown": 0})
        def again(self: Any) -> None:
            attempts.append(self.request.retries)
            if not self.request.retries:
                self.retry(max_retries=3, throw=False, countdown=3600)
            raise ValueError("again")

        again.delay()
        run(app)
        assert attempts == [0, 1, 2, 3]

    @pytest.mark.parametrize("error", [Ignore("i"), Retry("r")])
    def test_what_is_no_error_is_not_retried_by_itself(self, app: Celery, error: Exception) -> None:
        attempts = []

        @app.task(shared=False, autoretry_for=(Exception,), retry_kwargs={"countdown": 0})
        def leave() -> None:
            attempts.append(1)
            raise error

        leave.delay()
        run(app)
        assert attempts == [1]

    def test_a_backoff_is_random_and_at_most_ten_minutes_unless_said_otherwise(self, app: Celery) -> None:
        @app.task(shared=False, bind=True, autoretry_for=(ValueError,), retry_backoff=7, max_retries=None)
        def fail(self: Any) -> None:
            raise ValueError("b")

        waits = set()
        for _ in range(20):
            fail.push_request(id="i", retries=30, called_directly=False, is_eager=False, delivery_info={}, args=(), kwargs={})
            try:
                with sent(), pytest.raises(Retry) as raised:
                    fail.run()
            finally:
                fail.pop_request()
            waits.add(raised.value.when)
        assert len(waits) > 1
        assert max(waits) <= 600

    def test_an_eager_retry_that_propagates_raises_retry_the_first_time(self, app: Celery) -> None:
        app.conf.task_eager_propagates = True

        @app.task(shared=False, bind=True)
        def again(self: Any) -> None:
            raise self.retry(exc=ValueError("b"), countdown=0)

        with pytest.raises(Retry):
            again.apply()


class TestTime:
    @pytest.mark.parametrize("offset", [-30, 30])
    def test_a_naive_expiry_is_read_as_utc(self, app: Celery, offset: int) -> None:
        @app.task(shared=False)
        def work() -> str:
            return "done"

        result = work.apply_async(expires=(datetime.now(UTC) + timedelta(seconds=offset)).replace(tzinfo=None))
        app.conf.timezone = "Pacific/Auckland"
        worker = InlineWorker(app)
        (delivery,) = worker._broker.claim(["celery"], 1, incarnation="look", lease=60)
        job = worker._application.decode(delivery)
        assert job.expires is not None
        assert abs(job.expires - datetime.now(UTC).timestamp() - offset) < 10
        outcome = worker._application.expire(job) if offset < 0 else job.handler.run(job)
        worker._broker.release("look")
        assert outcome.status == ("REVOKED" if offset < 0 else "SUCCESS")
        assert result.id == job.id

    def test_an_expired_task_is_revoked_with_the_reason(self, app: Celery) -> None:
        @app.task(shared=False)
        def work() -> None:
            raise AssertionError("it has expired")

        result = work.apply_async(expires=-1)
        worker = InlineWorker(app)
        (delivery,) = worker._broker.claim(["celery"], 1, incarnation=worker._incarnation, lease=60)
        worker._settler.settle([worker._application.expire(worker._application.decode(delivery))])
        assert result.state == "REVOKED"
        assert isinstance(result.result, TaskRevokedError)
        assert str(result.result) == "expired"

    def test_a_negative_countdown_is_a_time_in_the_past(self, app: Celery) -> None:
        @app.task(shared=False)
        def work() -> str:
            return "done"

        with sent() as messages:
            work.apply_async(countdown=-60)
        assert datetime.fromisoformat(messages[0].headers["eta"]) < datetime.now(UTC)


class TestVerdicts:
    @pytest.mark.parametrize("error", [Ignore("i"), Reject("r", requeue=True)])
    def test_after_return_is_not_called_for_what_did_not_end(self, app: Celery, error: Exception) -> None:
        told = []

        class Telling(app.Task):  # type: ignore[name-defined, misc] # the app's class is made at run time
            abstract = True

            def after_return(self, *args: Any) -> None:
                told.append(args[0])

        @app.task(shared=False, base=Telling)
        def leave() -> None:
            raise error

        result = leave.delay()
        run(app, 1)
        assert told == []
        assert result.state == "PENDING"


class TestOptions:
    def test_what_the_call_says_about_its_result_comes_before_what_the_task_says(self, app: Celery) -> None:
        @app.task(shared=False, ignore_result=True)
        def quiet() -> int:
            return 1

        @app.task(shared=False)
        def loud() -> int:
            return 1

        kept, dropped = quiet.apply_async(ignore_result=False), loud.apply_async(ignore_result=True)
        run(app)
        assert kept.get(timeout=1) == 1
        assert app.AsyncResult(dropped.id).state == "PENDING"

    def test_the_result_of_a_call_that_ignores_it_is_none_at_once(self, app: Celery) -> None:
        @app.task(shared=False, ignore_result=True)
        def quiet() -> int:
            return 1

        assert quiet.delay().get(timeout=0.001) is None  # nobody runs it

    def test_unknown_keywords_of_the_decorator_are_attributes_of_the_task(self, app: Celery) -> None:
        @app.task(shared=False, owner="shop", weight=3)
        def work() -> None: ...

        assert (work.owner, work.weight) == ("shop", 3)

    def test_stamps_and_the_group_stay_when_options_are_merged(self, app: Celery) -> None:
        sig = Signature("a", app=app, group_id="g", stamped_headers=["s"], s="own", queue="one")
        _, _, merged = sig._merge(options={"group_id": "other", "stamped_headers": ["t"], "s": "other", "queue": "two"})
        assert merged == {"group_id": "g", "stamped_headers": ["s"], "s": "own", "queue": "two"}

"""Sections of a task with rules of their own, and canvases that are retried as a whole; run by a worker in this thread."""

import logging

import pytest

from compat_celery import chain, chord, group
from compat_celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded
from compat_celery.sections import optional, poisonous, retried, retry
from tests.compat.inline_worker import InlineWorker, make_app, sent


@pytest.fixture
def app():
    app = make_app()
    app.runs = []
    app.set_current()
    return app


def run(app, result, limit=200):
    worker = InlineWorker(app)
    worker.run(limit)
    return worker, result


class TestSections:
    def test_an_error_in_a_retry_section_runs_the_task_again(self, app):
        @app.task(shared=False, bind=True)
        def fetch(self):
            app.runs.append(self.request.retries)
            with retry(ConnectionError, delay=0):
                if self.request.retries < 2:
                    raise ConnectionError("down")
            return "there"

        _, result = run(app, fetch.delay())
        assert result.get(timeout=1) == "there"
        assert app.runs == [0, 1, 2]

    def test_after_so_many_times_the_error_itself_is_the_result(self, app):
        @app.task(shared=False, max_retries=99, autoretry_for=(Exception,), retry_kwargs={"countdown": 0})
        def fetch():
            app.runs.append(1)
            with retry(times=2, delay=0):
                raise ConnectionError("down")

        _, result = run(app, fetch.delay())
        assert isinstance(result.result, ConnectionError)
        assert len(app.runs) == 3

    def test_each_section_says_its_own_number_of_times(self, app):
        @app.task(shared=False, bind=True)
        def fetch(self):
            app.runs.append(self.request.retries)
            with retry(KeyError, times=1, delay=0):
                if self.request.retries < 1:
                    raise KeyError("first")
            with retry(OSError, times=4, delay=0):
                raise OSError("second")

        _, result = run(app, fetch.delay())
        assert isinstance(result.result, OSError)
        assert app.runs == [0, 1, 2, 3, 4]
        assert not hasattr(fetch, "override_max_retries")

    def test_the_message_of_a_retry_waits_twice_as_long_each_time(self, app):
        section = retry(delay=2, longest=10, jitter=False)
        assert [section.wait_before(retries) for retries in range(5)] == [2, 4, 8, 10, 10]
        assert all(0 <= retry(delay=2, longest=10).wait_before(1) <= 4 for _ in range(50))
        assert retry(delay=1, longest=600, jitter=False).wait_before(10_000) == 600

    def test_other_errors_pass(self, app):
        @app.task(shared=False)
        def fetch():
            app.runs.append(1)
            with retry(ConnectionError, delay=0), optional(ConnectionError):
                raise ValueError("other")

        _, result = run(app, fetch.delay())
        assert isinstance(result.result, ValueError)
        assert len(app.runs) == 1

    def test_called_as_a_function_the_error_is_raised(self, app):
        @app.task(shared=False)
        def fetch():
            with retry(delay=0):
                raise ConnectionError("down")

        with pytest.raises(ConnectionError):
            fetch()

    def test_eager_tasks_are_retried_inline(self, app):
        @app.task(shared=False, bind=True)
        def fetch(self):
            with retry(delay=0):
                if self.request.retries < 2:
                    raise ConnectionError("down")
            return self.request.retries

        assert fetch.apply().get() == 2

    def test_a_poisonous_section_fails_the_task_at_once(self, app):
        @app.task(shared=False, autoretry_for=(Exception,), retry_kwargs={"countdown": 0})
        def parse():
            app.runs.append(1)
            with retry(delay=0), poisonous():
                raise ValueError("broken for ever")

        _, result = run(app, parse.delay())
        assert isinstance(result.result, ValueError)
        assert len(app.runs) == 1

    def test_beside_a_poisonous_section_the_task_is_retried_as_ever(self, app):
        @app.task(shared=False, bind=True, autoretry_for=(Exception,), retry_kwargs={"countdown": 0})
        def parse(self):
            app.runs.append(1)
            with poisonous(KeyError):
                if not self.request.retries:
                    raise ValueError("not poisonous")
            return "done"

        _, result = run(app, parse.delay())
        assert result.get(timeout=1) == "done"
        assert len(app.runs) == 2

    def test_a_coroutine_tasks_poison_is_not_retried_either(self, app):
        @app.task(shared=False, autoretry_for=(Exception,), retry_kwargs={"countdown": 0})
        async def parse():
            app.runs.append(1)
            with poisonous():
                raise ValueError("broken for ever")

        _, result = run(app, parse.delay())
        assert isinstance(result.result, ValueError)
        assert len(app.runs) == 1

    def test_an_optional_section_is_left_out(self, app, caplog):
        @app.task(shared=False)
        def order():
            with optional(ConnectionError) as mail:
                raise ConnectionError("no mail today")
            return repr(mail.error)

        with caplog.at_level(logging.WARNING, "celery.app.task"):
            _, result = run(app, order.delay())
        assert result.get(timeout=1) == "ConnectionError('no mail today')"
        assert "goes on without an optional section" in caplog.text

    def test_one_optional_section_may_be_entered_again(self):
        section = optional()
        with section:
            raise ValueError("once")
        assert isinstance(section.error, ValueError)
        with section:
            pass
        assert section.error is None

    def test_poison_is_not_optional(self, app):
        @app.task(shared=False)
        def parse():
            with optional(), poisonous():
                raise ValueError("broken")

        _, result = run(app, parse.delay())
        assert isinstance(result.result, ValueError)

    @pytest.mark.parametrize("section", [retry(delay=0), optional(), poisonous()])
    @pytest.mark.parametrize("error", [Ignore("no result"), Reject("no", requeue=False), SoftTimeLimitExceeded(1)])
    def test_what_says_what_becomes_of_the_task_passes_all_sections(self, section, error):
        with pytest.raises(type(error)) as raised, section:
            raise error
        assert raised.value is error
        assert not hasattr(error, "__jumpstarter_poisonous__")

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            (lambda: retry(times=0), "times > 0"),
            (lambda: retry(delay=-1), "seconds >= 0"),
            (lambda: optional("ValueError"), "classes of exceptions, not 'ValueError'"),
            (lambda: poisonous(SystemExit), "classes of exceptions"),
            (lambda: retried(None, times=0), "times > 0"),
        ],
    )
    def test_what_cannot_be_meant_is_said_at_once(self, wrong, said):
        with pytest.raises((TypeError, ValueError), match=said):
            wrong()


class TestWholeCanvases:
    @pytest.fixture
    def tasks(self, app):
        """``flaky`` fails the first n times that it runs, of all runs together."""
        app.failures = 0

        @app.task(shared=False, name="add")
        def add(*numbers):
            app.runs.append(("add", numbers))
            return sum(numbers)

        @app.task(shared=False, name="total")
        def total(numbers):
            return sum(numbers)

        @app.task(shared=False, name="keep")
        def keep(values):
            return values

        @app.task(shared=False, name="flaky")
        def flaky(number):
            app.runs.append(("flaky", number))
            if app.failures:
                app.failures -= 1
                raise ConnectionError("down")
            return number

        @app.task(shared=False, name="told")
        def told(task_id):
            app.runs.append(("told", task_id))

        return app.tasks

    @pytest.mark.parametrize("failures", [0, 1, 2])
    def test_a_chain_is_run_again_from_its_begin(self, app, tasks, failures):
        app.failures = failures
        _, result = run(app, retried(chain(tasks["add"].s(1, 1), tasks["flaky"].s(), tasks["add"].s(5))).delay())
        assert result.get(timeout=1) == 7
        assert app.runs.count(("add", (1, 1))) == failures + 1
        assert app.runs.count(("add", (2, 5))) == 1

    def test_after_the_last_attempt_it_fails_with_the_error_and_tells_its_own_errbacks_once(self, app, tasks):
        app.failures = 99
        canvas = retried(chain(tasks["add"].s(1, 1), tasks["flaky"].s()), times=2).on_error(tasks["told"].s())
        _, result = run(app, canvas.delay())
        assert isinstance(result.result, ConnectionError)
        assert [run for run in app.runs if run[0] == "flaky"] == [("flaky", 2)] * 3
        assert [run for run in app.runs if run[0] == "told"] == [("told", result.id)]

    def test_a_group_is_run_again_with_all_of_its_members(self, app, tasks):
        app.failures = 1
        canvas = retried(group(tasks["add"].s(1, 1), tasks["flaky"].s(5), tasks["add"].s(2, 2)))
        _, result = run(app, canvas.delay())
        assert result.get(timeout=1) == [2, 5, 4]
        assert app.runs.count(("add", (1, 1))) == 2

    def test_a_chord_is_run_again_when_its_header_fails(self, app, tasks):
        app.failures = 2
        canvas = retried(chord([tasks["flaky"].s(1), tasks["flaky"].s(2)], tasks["total"].s()))
        _, result = run(app, canvas.delay())
        assert result.get(timeout=1) == 3

    def test_it_takes_what_comes_before_and_hands_on_what_comes_out(self, app, tasks):
        app.failures = 2
        canvas = chain(tasks["add"].s(1, 1), retried(tasks["add"].s(1) | tasks["flaky"].s()), tasks["add"].s(100))
        _, result = run(app, canvas.apply_async())
        assert result.get(timeout=1) == 103

    def test_in_a_chord_it_keeps_its_place(self, app, tasks):
        app.failures = 1
        header = [
            tasks["add"].s(1),
            retried(tasks["flaky"].s(2)),
            tasks["add"].s(3),
            retried(group(tasks["add"].s(4), tasks["add"].s(5))),
        ]
        _, result = run(app, chord(header, tasks["keep"].s()).apply_async())
        assert result.get(timeout=1) == [1, 2, 3, [4, 5]]

    def test_in_a_chord_its_failure_is_the_chords(self, app, tasks):
        app.failures = 99
        _, result = run(app, chord([tasks["add"].s(1), retried(tasks["flaky"].s(2))], tasks["keep"].s()).apply_async())
        assert result.state == "FAILURE"
        assert "ConnectionError" in str(result.result)

    def test_a_canvas_that_is_retried_may_hold_another_one(self, app, tasks):
        app.failures = 3
        inner = retried(tasks["flaky"].s(1), times=1)
        _, result = run(app, retried(inner | tasks["add"].s(1), times=1).delay())
        assert result.get(timeout=1) == 2
        assert len([run for run in app.runs if run[0] == "flaky"]) == 4

    def test_a_large_canvas_is_retried_from_the_shelf(self, app, tasks):
        app.failures = 2
        body = chain(tasks["add"].s(0), *(tasks["add"].s(1) for _ in range(60)), tasks["flaky"].s())
        canvas = chain(retried(body), *(tasks["add"].s(1) for _ in range(60)))
        _, result = run(app, canvas.apply_async(), limit=1000)
        assert result.get(timeout=1) == 120

    def test_what_a_further_attempt_needs_is_stored_once_and_not_in_each_step(self, app, tasks):
        with sent() as messages:
            retried(chain(tasks["add"].s(1) for _ in range(200))).delay()
        (first,) = messages
        worker = InlineWorker(app)
        retried(chain(tasks["add"].s(1) for _ in range(200))).delay()
        worker.run()
        later = [len(outcome.delivery.envelope.body) for outcome in worker.outcomes[1:]]
        assert len(later) == 201
        assert max(later) < 2000 < first.size

    def test_where_errors_are_not_stored_it_says_at_least_which_task_failed(self, app, tasks):
        @app.task(shared=False, name="quiet", ignore_result=True)
        def quiet():
            raise ConnectionError("down")

        _, result = run(app, retried(quiet.s(), times=1).delay())
        assert isinstance(result.result, RuntimeError)
        assert "failed; its error was not stored" in str(result.result)

    def test_a_retry_waits(self, app, tasks):
        app.failures = 1
        _, result = run(app, retried(tasks["flaky"].s(1), delay=3600).delay())
        assert result.state == "PENDING"
        assert len([run for run in app.runs if run[0] == "flaky"]) == 1

    def test_eagerly_it_is_retried_inline(self, app, tasks):
        app.failures = 2
        assert retried(tasks["add"].s(1, 1) | tasks["flaky"].s()).apply().get() == 2
        app.failures = 99
        with pytest.raises(ConnectionError):
            retried(tasks["flaky"].s(1), times=1).apply().get()

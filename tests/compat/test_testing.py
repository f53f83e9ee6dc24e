"""celery.contrib.testing and celery.contrib.pytest, as the tests of programs use them."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import textwrap
import threading
import uuid
from pathlib import Path
from typing import Any

import pytest

from compat_celery import _state, current_app, signals
from compat_celery.contrib.testing.app import TestApp, setup_default_app
from compat_celery.contrib.testing.manager import Manager, Sentinel
from compat_celery.contrib.testing.mocks import ContextMock, TaskMessage, TaskMessage1, task_message_from_sig
from compat_celery.contrib.testing.worker import start_worker
from compat_celery.worker import state

TIMEOUT = 20.0


@pytest.fixture
def app() -> Any:
    url = f"memory://{uuid.uuid4().hex}"
    made = TestApp(config={"broker_url": url, "result_backend": url})
    with setup_default_app(made):
        yield made


@pytest.mark.parametrize("pool", ["solo", "threads", "prefork"])
def test_tasks_run_in_the_tests_process(app: Any, pool: str, caplog: pytest.LogCaptureFixture) -> None:
    received: list[str] = []
    signals.task_received.connect(lambda request, **_: received.append(request.task_name), weak=False)
    pid = app.task(name="pid")(os.getpid)
    with caplog.at_level(logging.INFO), start_worker(app, pool=pool, loglevel="INFO"):
        result = pid.delay()
        assert result.get(timeout=TIMEOUT) == os.getpid()
        Manager(app).wait_for(lambda: _expect(result.id in state.successful_requests), (AssertionError,))
    assert "pid" in received
    assert f"Task pid[{result.id}] received" in caplog.text


def _expect(condition: bool) -> None:
    assert condition


def test_a_task_that_still_runs_at_the_end_is_named_as_the_reason(app: Any) -> None:
    begun, may_end = threading.Event(), threading.Event()

    @app.task(name="wait")
    def wait() -> None:
        begun.set()
        may_end.wait(TIMEOUT)

    started = start_worker(app, pool="threads", shutdown_timeout=0.05)
    started.__enter__()
    wait.delay()
    assert begun.wait(TIMEOUT)
    with pytest.raises(RuntimeError, match="shutdown_timeout"):
        started.__exit__(None, None, None)
    may_end.set()


def test_the_process_is_left_as_it_was_found() -> None:
    before = _state.default_app, _state._tls.current_app, set(_state._on_app_finalizers)
    app = TestApp()
    with setup_default_app(app):
        app.set_default()
        app.set_current()
        _state.connect_on_app_finalize(lambda _app: None)
    assert (_state.default_app, _state._tls.current_app, set(_state._on_app_finalizers)) == before


def test_the_trap_catches_who_relies_on_the_current_app() -> None:
    with setup_default_app(TestApp(), use_trap=True), pytest.raises(RuntimeError, match="current_app"):
        _ = current_app.conf


def test_a_manager_waits_until_the_worker_is_idle(app: Any) -> None:
    ended: list[bool] = []
    begun, may_end = threading.Event(), threading.Event()

    @app.task(name="wait")
    def wait() -> None:
        begun.set()
        may_end.wait(TIMEOUT)
        ended.append(True)

    with start_worker(app, pool="threads"):
        manager = Manager(app)
        result = wait.delay()
        assert begun.wait(TIMEOUT)
        manager.assert_accepted([result.id], interval=TIMEOUT)
        threading.Timer(0.2, may_end.set).start()
        manager.wait_until_idle()
        assert ended == [True]
        manager.join(result, timeout=TIMEOUT)
        assert result.state == "SUCCESS"
    with pytest.raises(Sentinel):
        manager.true_or_raise(lambda: False)


def test_messages_for_unit_tests(app: Any) -> None:
    message = TaskMessage("add", id="1", args=(1,), kwargs={"y": 2}, callbacks=[{"task": "x"}], group="g")
    assert (message.headers["task"], message.headers["id"], message.headers["group"]) == ("add", "1", "g")
    assert message.payload == ((1,), {"y": 2}, {"callbacks": [{"task": "x"}], "errbacks": None, "chain": None})
    assert TaskMessage1("add", args=(1,)).payload["args"] == (1,)
    add = app.task(name="add")(lambda x, y: x + y)
    made = task_message_from_sig(app, add.s(1, 2).set(countdown=10, expires=60))
    assert made.headers["eta"] < made.headers["expires"]
    with ContextMock(name="context") as context:
        assert context is not None


def test_the_fixtures_serve_a_program_that_imports_celery(tmp_path: Path) -> None:
    (tmp_path / "test_program.py").write_text(
        textwrap.dedent(
            """
            import pytest
            from celery import current_app, shared_task

            @pytest.fixture(scope="session")
            def celery_worker_pool():
                return "threads"

            @shared_task(name="double")
            def double(x):
                return 2 * x

            def test_a_worker_of_its_own(celery_app, celery_worker):
                @celery_app.task
                def mul(x, y):
                    return x * y

                celery_worker.reload()
                assert mul.delay(4, 4).get(timeout=20) == 16

            @pytest.mark.celery(result_expires=77)
            def test_settings_of_one_test(celery_app):
                assert celery_app.conf.result_expires == 77

            def test_the_sessions_worker(celery_session_app, celery_session_worker):
                assert double.delay(2).get(timeout=20) == 4

            def test_the_apps_own(celery_app, depends_on_current_app):
                assert current_app.conf is celery_app.conf
            """
        )
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\n")
    plugins = ["-p", "celery.contrib.pytest", "-p", "no:randomly", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *plugins, "-q", str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "COMPAT_CELERY": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert "4 passed" in done.stdout, done.stdout + done.stderr

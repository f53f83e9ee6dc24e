"""A worker inside the program that publishes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from compat_celery import Celery
from compat_celery.contrib.embedded import embedded_worker
from jumpstarter.errors import ConfigurationError
from tests.compat.inline_worker import make_app


@pytest.fixture
def app() -> Celery:
    return make_app()


@pytest.mark.parametrize("pool", ["threads", "async", "solo"])
def test_tasks_run_in_this_process(app: Celery, pool: str) -> None:
    pid = app.task(name="pid")(os.getpid)
    with embedded_worker(app, pool=pool):
        assert pid.delay().get(timeout=10) == os.getpid()


def test_prefork_runs_them_in_children(tmp_path: Path) -> None:
    app = make_app(f"sqlite:///{tmp_path}/queues.db", f"sqlite:///{tmp_path}/queues.db")
    pid = app.task(name="pid")(os.getpid)
    with embedded_worker(app, pool="prefork", concurrency=1):
        assert pid.delay().get(timeout=10) != os.getpid()


def test_a_task_may_wait_for_another_by_await(app: Celery) -> None:
    double = app.task(name="double")(lambda x: 2 * x)

    @app.task
    async def quadruple(x: int) -> Any:
        half_way = await double.adelay(x)
        return 2 * await half_way.aget(timeout=10)

    with embedded_worker(app):
        assert quadruple.delay(3).get(timeout=10) == 12


def test_it_stops_with_the_block_and_leaves_what_waits(app: Celery) -> None:
    task = app.task(name="noop")(lambda: None)
    with embedded_worker(app) as node:
        task.delay().get(timeout=10)
    assert node.actor.state.matches("stopped")
    result = task.delay()
    assert result.state == "PENDING"
    with embedded_worker(app):
        result.get(timeout=10)


def test_an_unknown_pool_is_named(app: Celery) -> None:
    with pytest.raises(ConfigurationError, match="'greenlets'"), embedded_worker(app, pool="greenlets"):
        pass

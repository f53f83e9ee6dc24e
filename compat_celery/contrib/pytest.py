"""Fixtures for pytest: apps, and a worker that runs in the test's own process. By Celery's names.

Load them with ``pytest_plugins = ("celery.contrib.pytest",)`` (or ``-p celery.contrib.pytest``); override those that say what the
apps and workers are like.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import pytest

from compat_celery.contrib.testing.app import TestApp, default_app
from compat_celery.contrib.testing.worker import start_worker

#: With this in the environment no fixture starts a worker: one of your own serves the tests.
NO_WORKER = os.environ.get("NO_WORKER")


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark ``celery`` known."""
    config.addinivalue_line("markers", "celery(**settings): settings of the app fixtures for this test")


# What to override.


@pytest.fixture(scope="session")
def celery_config() -> Mapping[str, Any]:
    """Settings of the apps."""
    return {}


@pytest.fixture(scope="session")
def celery_parameters() -> Mapping[str, Any]:
    """More arguments of :class:`celery.Celery` for the apps."""
    return {}


@pytest.fixture(scope="session")
def celery_enable_logging() -> bool:
    """Whether workers set up logging."""
    return False


@pytest.fixture(scope="session")
def use_celery_app_trap() -> bool:
    """Whether code that asks for the current app gets an error."""
    return False


@pytest.fixture(scope="session")
def celery_includes() -> Iterable[str]:
    """Modules to import before a worker starts."""
    return ()


@pytest.fixture(scope="session")
def celery_class_tasks() -> Iterable[Any]:
    """Task classes to register with the session's app."""
    return ()


@pytest.fixture(scope="session")
def celery_worker_pool() -> str:
    """The pool of workers; see :func:`celery.contrib.testing.worker.start_worker`."""
    return "solo"


@pytest.fixture(scope="session")
def celery_worker_parameters() -> Mapping[str, Any]:
    """More arguments of :func:`celery.contrib.testing.worker.start_worker`."""
    return {}


# What to use.


def _app(
    request: Any, config: Mapping[str, Any], parameters: Mapping[str, Any], enable_logging: bool, use_trap: bool
) -> AbstractContextManager[Any]:
    mark = request.node.get_closest_marker("celery")
    settings = {**config, **(mark.kwargs if mark else {})}
    return default_app(
        TestApp(set_as_current=False, enable_logging=enable_logging, config=settings, **parameters), use_trap=use_trap
    )


@pytest.fixture(scope="session")
def celery_session_app(
    request: pytest.FixtureRequest,
    celery_config: Mapping[str, Any],
    celery_parameters: Mapping[str, Any],
    celery_enable_logging: bool,
    use_celery_app_trap: bool,
) -> Iterator[Any]:
    """The app of the whole session, current and default unless the trap is set."""
    with _app(request, celery_config, celery_parameters, celery_enable_logging, use_celery_app_trap) as app:
        if not use_celery_app_trap:
            app.set_default()
            app.set_current()
        yield app


@pytest.fixture
def celery_app(
    request: pytest.FixtureRequest,
    celery_config: Mapping[str, Any],
    celery_parameters: Mapping[str, Any],
    celery_enable_logging: bool,
    use_celery_app_trap: bool,
) -> Iterator[Any]:
    """An app for one test."""
    with _app(request, celery_config, celery_parameters, celery_enable_logging, use_celery_app_trap) as app:
        yield app


@pytest.fixture(scope="session")
def celery_session_worker(
    celery_session_app: Any,
    celery_includes: Iterable[str],
    celery_class_tasks: Iterable[Any],
    celery_worker_pool: str,
    celery_worker_parameters: Mapping[str, Any],
) -> Iterator[Any]:
    """A worker that serves all tests of the session; None with ``NO_WORKER`` in the environment."""
    if NO_WORKER:
        yield None
        return
    for module in celery_includes:
        celery_session_app.loader.import_task_module(module)
    for task in celery_class_tasks:
        celery_session_app.register_task(task)
    with start_worker(celery_session_app, pool=celery_worker_pool, **celery_worker_parameters) as worker:
        yield worker


@pytest.fixture
def celery_worker(
    celery_app: Any, celery_includes: Iterable[str], celery_worker_pool: str, celery_worker_parameters: Mapping[str, Any]
) -> Iterator[Any]:
    """A worker for one test; None with ``NO_WORKER`` in the environment."""
    if NO_WORKER:
        yield None
        return
    for module in celery_includes:
        celery_app.loader.import_task_module(module)
    with start_worker(celery_app, pool=celery_worker_pool, **celery_worker_parameters) as worker:
        yield worker


@pytest.fixture
def depends_on_current_app(celery_app: Any) -> None:
    """Makes the test's app the current one."""
    celery_app.set_current()

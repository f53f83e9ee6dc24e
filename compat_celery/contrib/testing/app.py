"""Apps for tests, and a process that is left as it was found."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from compat_celery import Celery, _state
from compat_celery.app.log import Logging
from compat_celery.contrib.testing import tasks  # noqa: F401 - apps of tests know the task `celery.ping`

__all__ = ("DEFAULT_TEST_CONFIG", "TestApp", "Trap", "UnitLogging", "default_app", "set_trap", "setup_default_app")

#: Settings of apps in tests, where a test says nothing else.
DEFAULT_TEST_CONFIG: dict[str, Any] = {
    "worker_hijack_root_logger": False,
    "worker_log_color": False,
    "accept_content": {"json"},
    "enable_utc": True,
    "timezone": "UTC",
    "broker_url": "memory://",
    "result_backend": "cache+memory://",
    "broker_heartbeat": 0,
}


class Trap:
    """Stands where the current app would be: whoever uses it relied on the current app, and is told so."""

    def __getattr__(self, name: str) -> Any:
        if name in {"_is_coroutine", "_is_coroutine_mark", "__func__"}:  # unittest.mock looks for these
            return None
        raise RuntimeError("Test depends on current_app")


class UnitLogging(Logging):
    """Leaves logging to the tests."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.already_setup = True


def TestApp(  # noqa: N802 - Celery's name
    name: str | None = None,
    config: Mapping[str, Any] | None = None,
    enable_logging: bool = False,
    set_as_current: bool = False,
    log: Any = UnitLogging,
    backend: Any = None,
    broker: Any = None,
    **kwargs: Any,
) -> Celery:
    """An app for tests: broker and results in memory unless ``config`` (settings), ``broker`` or ``backend`` say otherwise."""
    settings = {**deepcopy(DEFAULT_TEST_CONFIG), **(config or {})}
    for value, setting in ((broker, "broker_url"), (backend, "result_backend")):
        if value is not None:
            settings.pop(setting, None)
    app = Celery(
        name or "celery.tests",
        set_as_current=set_as_current,
        log=None if enable_logging else log,
        broker=broker,
        backend=backend,
        **kwargs,
    )
    app.add_defaults(settings)
    return app


TestApp.__test__ = False  # type: ignore[attr-defined] # pytest collects by this


@contextmanager
def set_trap(app: Any) -> Iterator[None]:  # noqa: ARG001 - Celery's signature
    """No app is current while the block lasts: whoever asks for it gets a :class:`Trap`."""
    trap = Trap()
    before = _state._tls

    class EveryThread:
        current_app = trap

    _state.set_default_app(trap)  # type: ignore[arg-type] # that is what it is for
    _state._tls = EveryThread()  # type: ignore[assignment] # stands in its place
    try:
        yield
    finally:
        _state._tls = before


@contextmanager
def setup_default_app(app: Any, use_trap: bool = False) -> Iterator[None]:
    """Whatever the block does to the process's apps is undone; ``app`` is closed at its end."""
    current, default = _state._tls.current_app, _state.default_app
    finalizers, apps = dict(_state._on_app_finalizers), weakref.WeakSet(_state._apps)
    try:
        if use_trap:
            with set_trap(app):
                yield
        else:
            yield
    finally:
        _state.default_app = default
        _state._tls.current_app = current
        if app is not current:
            app.close()
        _state._on_app_finalizers.clear()
        _state._on_app_finalizers.update(finalizers)
        _state._apps.clear()
        _state._apps.update(apps)
        # Connections of results live as long as their backend.
        app._backend_cache = None
        app._local.backend = None


@contextmanager
def default_app(app: Any, *, use_trap: bool = False) -> Iterator[Any]:
    """:func:`setup_default_app` that yields the app."""
    with setup_default_app(app, use_trap=use_trap):
        yield app

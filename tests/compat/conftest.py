"""Every test finds the process without a current app, and with the shared tasks that it found it with."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from compat_celery import Celery, _state, signals
from compat_celery.app.publisher import broker_for
from compat_celery.utils.dispatch import Signal

_numbers = itertools.count()


@pytest.fixture(autouse=True)
def nobody_is_current() -> Iterator[None]:
    before = _state._tls.current_app, _state.default_app, dict(_state._on_app_finalizers), list(_state._apps)
    _state._tls.current_app = None
    _state.default_app = None
    # Apps of earlier tests that the garbage collector has not found yet would take part in this one's shared tasks.
    _state._apps.clear()
    yield
    _state._tls.current_app, _state.default_app, finalizers, apps = before
    _state._apps.clear()
    _state._apps.update(apps)
    _state._on_app_finalizers.clear()
    _state._on_app_finalizers.update(finalizers)


@pytest.fixture(autouse=True)
def nobody_listens() -> Iterator[None]:
    """Receivers are weak, but a traceback may keep one alive beyond its test."""
    everyone = [signal for signal in vars(signals).values() if isinstance(signal, Signal)]
    before = [list(signal.receivers) for signal in everyone]
    yield
    for signal, receivers in zip(everyone, before, strict=True):
        signal.receivers[:] = receivers


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app with a broker and results in this process, and nobody else's messages in them."""
    url = f"memory://test-{next(_numbers)}"
    with Celery("proj", broker=url, backend=url) as made:
        yield made


@pytest.fixture
def sent(app: Celery) -> Any:
    """A function that takes what waits in the app's queues: the envelopes."""

    def take(*queues: str) -> list[Any]:
        names = queues or ("celery",)
        deliveries = broker_for(app, write=True).claim(names, 10_000, incarnation="test", lease=30)
        return [delivery.envelope for delivery in deliveries]

    return take

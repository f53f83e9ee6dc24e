"""Signals: who is told, and what happens when they fail or die."""

from __future__ import annotations

import gc
import logging
import threading
from typing import Any

import pytest

from compat_celery import Celery, signals
from compat_celery.exceptions import CDeprecationWarning
from compat_celery.utils.dispatch import Signal
from compat_celery.utils.dispatch import signal as signal_module


@pytest.fixture
def signal() -> Signal:
    return Signal(name="test", providing_args={"value"})


def test_receivers_are_told_and_their_answers_given(signal: Signal) -> None:
    def receiver(value: int, **_: Any) -> int:
        return value * 2

    signal.connect(receiver)
    assert signal.send(sender=None, value=4) == [(receiver, 8)]


def test_connecting_works_as_a_decorator_with_and_without_options(signal: Signal) -> None:
    @signal.connect
    def plain(**_: Any) -> str:
        return "plain"

    @signal.connect(sender="me", weak=False)
    def optional(**_: Any) -> str:
        return "optional"

    assert [answer for _, answer in signal.send(sender="me")] == ["plain", "optional"]
    assert [answer for _, answer in signal.send(sender="somebody else")] == ["plain"]


def test_a_receiver_that_takes_no_keywords_is_refused(signal: Signal) -> None:
    with pytest.raises(ValueError, match="keyword arguments"):
        signal.connect(lambda: None)


def test_an_error_is_logged_and_the_others_are_told(signal: Signal, caplog: pytest.LogCaptureFixture) -> None:
    def broken(**_: Any) -> None:
        raise ValueError("receiver's own")

    def fine(**_: Any) -> str:
        return "told"

    signal.connect(broken)
    signal.connect(fine)
    with caplog.at_level(logging.ERROR, "celery"):
        answers = [answer for _, answer in signal.send(sender=None)]
    assert isinstance(answers[0], ValueError)
    assert answers[1] == "told"
    assert "receiver's own" in caplog.text


def test_receivers_are_held_weakly_by_default(signal: Signal) -> None:
    def receiver(**_: Any) -> None:
        pass

    signal.connect(receiver)
    assert signal.has_listeners()
    del receiver
    gc.collect()
    assert not signal.has_listeners()
    assert signal.receivers == []


def test_methods_live_as_long_as_their_object(signal: Signal) -> None:
    class Listener:
        def hear(self, **_: Any) -> str:
            return "heard"

    listener, other = Listener(), Listener()
    signal.connect(listener.hear)
    signal.connect(other.hear)
    signal.connect(listener.hear)
    assert len(signal.send(sender=None)) == 2
    del other
    gc.collect()
    assert len(signal.send(sender=None)) == 1


def test_a_dispatch_uid_connects_once(signal: Signal) -> None:
    signal.connect(lambda **_: 1, weak=False, dispatch_uid="only")
    signal.connect(lambda **_: 2, weak=False, dispatch_uid="only")
    assert [answer for _, answer in signal.send(sender=None)] == [1]
    assert signal.disconnect(dispatch_uid="only") is True
    assert signal.disconnect(dispatch_uid="only") is False


def test_a_disconnected_receiver_is_not_told(signal: Signal) -> None:
    def receiver(**_: Any) -> None:
        pass

    signal.connect(receiver, sender="me")
    assert signal.disconnect(receiver) is False
    assert signal.disconnect(receiver, sender="me") is True
    assert signal.send(sender="me") == []
    with pytest.warns(CDeprecationWarning, match="no effect"):
        signal.disconnect(receiver, weak=True)


def test_a_task_that_is_not_made_yet_may_be_the_sender(app: Celery, signal: Signal) -> None:
    @app.task
    def lazy() -> None:
        pass

    def receiver(**_: Any) -> str:
        return "told"

    signal.connect(receiver, sender=lazy)
    assert not lazy.__evaluated__()
    assert [answer for _, answer in signal.send(sender=app.tasks[lazy.name])] == ["told"]


def test_a_receiver_may_be_called_until_it_succeeds(signal: Signal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal_module, "RETRY_WAIT", (0.0, 0.0, 0.0))
    attempts = []

    def stubborn(**_: Any) -> str:
        attempts.append(1)
        if len(attempts) < 3:
            raise ConnectionError
        return "at last"

    signal.connect(stubborn, retry=True)
    assert [answer for _, answer in signal.send(sender=None)] == ["at last"]
    assert signal.disconnect(stubborn) is True


def test_receivers_may_be_connected_while_a_signal_is_sent(signal: Signal) -> None:
    def connecting(**_: Any) -> None:
        signal.connect(lambda **_: None, weak=False)

    signal.connect(connecting)
    for _ in range(3):
        signal.send(sender=None)
    assert len(signal.receivers) == 4


def test_threads_may_connect_and_send_at_once(signal: Signal) -> None:
    start = threading.Barrier(4)

    def work() -> None:
        start.wait()
        for _ in range(200):
            receiver = lambda **_: None  # noqa: E731 - a new object each time
            signal.connect(receiver)
            signal.send(sender=None)
            signal.disconnect(receiver)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert signal.receivers == []


def test_celerys_signals_are_all_there() -> None:
    names = set(signals.__all__) | {"task_sent", "user_preload_options"}
    assert {"task_prerun", "task_postrun", "worker_process_init", "setup_logging", "before_task_publish", "beat_init"} <= names
    assert all(getattr(signals, name).name == name for name in names)

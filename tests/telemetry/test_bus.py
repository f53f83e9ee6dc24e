"""The bus: who emits, who hears, and what it costs when nobody does."""

from __future__ import annotations

import logging
import os
import threading

import pytest

from jumpstarter.telemetry.bus import Bus, StateTransition
from jumpstarter.telemetry.bus import bus as process_bus
from jumpstarter.telemetry.log import log_transitions


def transition(**changes: object) -> StateTransition:
    facts: dict[str, object] = {
        "machine": "worker@host",
        "kind": "Worker",
        "region": "",
        "source": "starting",
        "target": "started",
        "trigger": "ready",
        "time": 1.0,
    }
    return StateTransition(**{**facts, **changes})


def test_a_subscriber_hears_every_transition_until_it_unsubscribes() -> None:
    bus, heard = Bus(), []
    unsubscribe = bus.subscribe(heard.append)
    first, second = transition(), transition(target="stopping")
    bus.emit(first)
    unsubscribe()
    unsubscribe()
    bus.emit(second)
    assert heard == [first]


def test_the_bus_is_active_while_somebody_listens_and_only_then() -> None:
    bus = Bus()
    assert not bus.active
    one, two = bus.subscribe(print), bus.subscribe(print)
    one()
    assert bus.active
    two()
    assert not bus.active


def test_the_same_function_may_subscribe_twice_and_leave_once() -> None:
    bus, heard = Bus(), []
    leave, _ = bus.subscribe(heard.append), bus.subscribe(heard.append)
    leave()
    bus.emit(transition())
    assert len(heard) == 1


def test_a_subscriber_that_fails_hurts_nobody_and_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    bus, heard = Bus(), []

    def fail(event: StateTransition) -> None:
        raise RuntimeError("observer out of order")

    bus.subscribe(fail)
    bus.subscribe(heard.append)
    with caplog.at_level(logging.WARNING):
        bus.emit(transition())
        bus.emit(transition())
    assert len(heard) == 2
    assert [record.message.count("said once") for record in caplog.records] == [1]


def test_a_subscriber_may_unsubscribe_while_it_is_told() -> None:
    bus, heard = Bus(), []

    def once(event: StateTransition) -> None:
        heard.append(event)
        leave()

    leave = bus.subscribe(once)
    bus.emit(transition())
    bus.emit(transition())
    assert len(heard) == 1


def test_subscribing_from_many_threads_loses_nobody() -> None:
    bus, heard = Bus(), []
    start = threading.Barrier(8)

    def subscribe_some() -> None:
        start.wait()
        for _ in range(50):
            bus.subscribe(heard.append)

    threads = [threading.Thread(target=subscribe_some) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bus.emit(transition())
    assert len(heard) == 400


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_child_that_was_forked_while_the_bus_was_locked_can_subscribe() -> None:
    with process_bus._lock:
        child = os.fork()
        if child == 0:
            signal_hang = threading.Timer(5, os._exit, (3,))
            signal_hang.start()
            process_bus.subscribe(print)
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_life_and_health_are_logged_at_their_severity_and_details_only_for_debugging(caplog: pytest.LogCaptureFixture) -> None:
    bus = Bus()
    stop = log_transitions(bus)
    with caplog.at_level(logging.DEBUG, "jumpstarter.transitions"):
        bus.emit(transition(source="starting", target="started", trigger="ready"))
        bus.emit(transition(region="started.health", target="started.health.degraded", severity="warning", detail="no cache"))
        bus.emit(transition(region="started.polling", target="started.polling.waiting"))
        bus.emit(transition(source="starting.resources", target="starting.tasks", trigger=""))
        bus.emit(transition(region="started.health", source="", target="started.health.healthy", trigger=""))
        bus.emit(transition(region="resources.db", source="acquiring", target="held", trigger=""))
        bus.emit(transition(region="resources.db", source="held", target="lost", trigger="", severity="warning"))
    stop()
    bus.emit(transition())
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("INFO", "worker@host: starting → started (ready)"),
        ("WARNING", "worker@host: starting → started.health.degraded (ready): no cache"),
        ("DEBUG", "worker@host: starting → started.polling.waiting (ready)"),
        ("DEBUG", "worker@host: starting.resources → starting.tasks"),
        ("DEBUG", "worker@host: · → started.health.healthy"),
        ("DEBUG", "worker@host resources.db: acquiring → held"),
        ("WARNING", "worker@host resources.db: held → lost"),
    ]


def test_a_logger_that_writes_nothing_leaves_the_bus_idle() -> None:
    bus = Bus()
    logger = logging.getLogger("jumpstarter.transitions")
    logger.setLevel(logging.CRITICAL + 1)
    try:
        assert log_transitions(bus) is None
        assert not bus.active
    finally:
        logger.setLevel(logging.NOTSET)

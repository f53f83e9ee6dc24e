"""Transitions, as a collector gets them: log events, spans of the life and health, metrics."""

from __future__ import annotations

import pytest

from tests.telemetry.collector import Collector
from tests.telemetry.conftest import Run

# A worker's day: (region, source, target, trigger, severity, attributes), a second apart.
DAY = """
    from jumpstarter.telemetry import StateTransition, bus, configure
    with configure("shop"):
        assert bus.active
        steps = [
            ("", "initializing", "starting.resources", "start", "info", {}),
            ("resources.db", "acquiring", "held", "", "info", {"duration": 0.5}),
            ("", "starting.resources", "started", "ready", "info", {"duration": 2}),
            ("started.polling", "started.polling.waiting", "started.polling.polling", "poll", "info", {}),
            ("started.health", "started.health.healthy", "started.health.degraded", "warn", "warning", {"source": "redis"}),
            ("started.polling", "started.polling.polling", "started.polling.suspended", "", "info", {"duration": 2}),
            ("", "started", "stopping", "fail", "error", {"duration": 4}),
            ("", "", "stopping.draining", "", "error", {}),
            ("", "stopping.draining", "crashed", "", "error", {}),
        ]
        for second, (region, source, target, trigger, severity, attributes) in enumerate(steps, start=1_000_000):
            bus.emit(StateTransition(
                machine="worker@host", kind="Worker", region=region, source=source, target=target, trigger=trigger, time=second,
                severity=severity, detail="why" if severity != "info" else "", attributes=attributes,
            ))
"""


@pytest.fixture
def day(run: Run, collector: Collector) -> Collector:
    run(DAY, collector.environment)
    return collector


def test_every_transition_is_a_log_event_with_what_happened_where(day: Collector) -> None:
    told = [
        (log.severity, *(log.attributes[f"jumpstarter.{key}"] for key in ("machine", "kind", "region", "from", "to", "trigger")))
        for log in day.transitions
    ]
    who = ("worker@host", "Worker")
    assert told == [
        ("INFO", *who, "", "initializing", "starting.resources", "start"),
        ("INFO", *who, "resources.db", "acquiring", "held", ""),
        ("INFO", *who, "", "starting.resources", "started", "ready"),
        ("INFO", *who, "started.polling", "started.polling.waiting", "started.polling.polling", "poll"),
        ("WARN", *who, "started.health", "started.health.healthy", "started.health.degraded", "warn"),
        ("INFO", *who, "started.polling", "started.polling.polling", "started.polling.suspended", ""),
        ("ERROR", *who, "", "started", "stopping", "fail"),
        ("ERROR", *who, "", "", "stopping.draining", ""),
        ("ERROR", *who, "", "stopping.draining", "crashed", ""),
    ]
    assert day.transitions[4].attributes["jumpstarter.source"] == "redis"
    assert [log.body for log in day.transitions][:1] + [log.body for log in day.transitions][-1:] == [
        "worker@host: initializing → starting.resources",
        "why",
    ]


def test_a_start_and_a_stop_are_one_trace_each_and_a_health_change_is_its_own(day: Collector) -> None:
    spans = {span.name: span for span in day.spans}
    assert len(spans) == len(day.spans)
    start, stop, health = spans["start Worker"], spans["stop Worker"], spans["Worker started.health.degraded"]
    assert (start.start, start.end) == (1_000_000, 1_000_002)
    assert (stop.start, stop.end, stop.is_error) == (1_000_006, 1_000_008, True)
    assert {name for name, span in spans.items() if span.parent_id == start.span_id} == {
        "Worker starting.resources",
        "acquire db",
        "Worker started",
    }
    assert {name for name, span in spans.items() if span.parent_id == stop.span_id} == {"Worker stopping", "Worker crashed"}
    assert spans["acquire db"].end - spans["acquire db"].start == 0.5
    assert len({start.trace_id, stop.trace_id, health.trace_id}) == 3


def test_no_span_covers_a_long_lived_state(day: Collector) -> None:
    spans = {span.name: span for span in day.spans}
    assert {name for name, span in spans.items() if span.end == span.start} == {
        "Worker starting.resources",
        "Worker started.health.degraded",
        "Worker stopping",
        "Worker crashed",
    }


def test_a_resource_that_cannot_be_acquired_is_a_failed_span(run: Run, collector: Collector) -> None:
    run(
        """
        from jumpstarter.telemetry import StateTransition, bus, configure
        with configure("shop"):
            facts = {"severity": "warning", "detail": "OSError('refused')", "attributes": {"duration": 1.5}}
            bus.emit(StateTransition("w", "Worker", "resources.db", "acquiring", "backing_off", "", 100.0, **facts))
        """,
        collector.environment,
    )
    (span,) = collector.spans
    assert (span.name, span.is_error, span.message, span.end - span.start) == ("acquire db", True, "OSError('refused')", 1.5)


def test_work_makes_log_events_but_no_spans(day: Collector) -> None:
    assert not [span.name for span in day.spans if "polling" in span.name]


def test_log_events_of_a_start_belong_to_its_trace(day: Collector) -> None:
    start = next(span for span in day.spans if span.name == "start Worker")
    assert {log.trace_id for log in day.transitions[:3]} == {start.trace_id}


def test_transitions_are_counted_and_states_are_timed_without_the_machines_name(day: Collector) -> None:
    last = {(point.name, *sorted(point.attributes.items())): point for point in day.points}
    transitions = [point for point in last.values() if point.name == "jumpstarter.actor.transitions"]
    assert sum(point.value for point in transitions) == 9
    durations = {
        point.attributes["jumpstarter.state"] for point in last.values() if point.name == "jumpstarter.actor.state.duration"
    }
    assert durations == {"acquiring", "starting.resources", "started", "started.polling.polling"}
    assert not any("jumpstarter.machine" in point.attributes for point in day.points)


def test_the_status_tells_how_many_actors_are_in_which_state_now(run: Run, collector: Collector) -> None:
    run(
        """
        from jumpstarter.telemetry import StateTransition, bus, configure
        telemetry = configure("shop")
        def step(machine, source, target, region=""):
            bus.emit(StateTransition(machine, "Worker", region, source, target, "go", 1.0))
        for machine in ("a", "b", "c"):
            step(machine, "initializing", "starting")
            step(machine, "starting", "started")
        step("a", "acquiring", "held", "resources.db")
        step("a", "started.health.healthy", "started.health.degraded", "started.health")
        step("b", "started", "stopping")
        step("c", "started", "stopping")
        step("c", "stopping", "stopped")
        telemetry.shutdown()
        """,
        {**collector.environment, "OTEL_METRIC_EXPORT_INTERVAL": "60000"},
    )
    status = {
        (point.attributes["jumpstarter.region"], point.attributes["jumpstarter.state"]): point.value
        for point in collector.points
        if point.name == "jumpstarter.actor.status"
    }
    assert status == {
        ("", "started"): 1,
        ("resources.db", "held"): 1,
        ("started.health", "started.health.degraded"): 1,
        ("", "stopping"): 1,
    }


def test_a_restart_is_one_trace_from_the_stop_to_the_new_start_and_is_counted(run: Run, collector: Collector) -> None:
    run(
        """
        from jumpstarter.telemetry import StateTransition, bus, configure
        with configure("shop"):
            path = ["started", "restarting", "restarting.backing_off", "starting", "starting.tasks", "started"]
            for second, (source, target) in enumerate(zip(path, path[1:])):
                bus.emit(StateTransition("w", "Worker", "", source, target, "go", 100.0 + second))
        """,
        collector.environment,
    )
    (restart,) = [span for span in collector.spans if span.name == "restart Worker"]
    assert restart.end - restart.start == 4
    assert len({span.trace_id for span in collector.spans}) == 1
    assert [point.value for point in collector.points if point.name == "jumpstarter.actor.restarts"][-1] == 1


def test_how_many_messages_wait_and_how_many_are_dead_is_told_by_class(run: Run, collector: Collector) -> None:
    run(
        """
        import anyio
        from jumpstarter.actors import Actor, Event, Mailbox, handles, hosted
        from jumpstarter.telemetry import configure

        class Note(Event):
            pass

        class Slow(Actor):
            mailbox = Mailbox(3, when_full="drop_newest")

            @handles(Note, during="degraded")
            async def note(self, message):
                pass

        async def main():
            async with hosted(Slow()) as one, hosted(Slow()) as other:
                for _ in range(5):
                    one.tell_nowait(Note())
                other.tell_nowait(Note())
                telemetry.shutdown()

        telemetry = configure("shop")
        anyio.run(main)
        """,
        collector.environment,
    )
    last = {point.name: point for point in collector.points}
    depth, dead = last["jumpstarter.actor.mailbox.depth"], last["jumpstarter.actor.dead_letters"]
    assert (depth.value, depth.attributes) == (4, {"jumpstarter.kind": "Slow"})
    assert (dead.value, dead.attributes) == (2, {"jumpstarter.kind": "Slow", "jumpstarter.reason": "full"})

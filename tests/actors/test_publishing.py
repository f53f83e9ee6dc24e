"""What an actor tells the telemetry bus, and how its state reads."""

import anyio
import pytest

from jumpstarter.actors import Actor, hosted, resource
from jumpstarter.actors import publish as publish_module
from jumpstarter.clock import SYSTEM_CLOCK
from jumpstarter.telemetry.bus import bus
from tests.actors.parts import Diary

pytestmark = pytest.mark.anyio


class Shop(Actor):
    @resource
    def db(self):
        return Diary().around("db", enter=1)

    def regions(self):
        return {
            "slot": {
                "states": ["idle", "busy"],
                "initial": "idle",
                "transitions": [["begin", "idle", "busy"], ["end", "busy", "idle"]],
            }
        }


@pytest.fixture
def events():
    seen = []
    unsubscribe = bus.subscribe(seen.append)
    yield seen
    unsubscribe()


def one(events, **wanted):
    """The one event with these attributes."""
    found = [event for event in events if all(getattr(event, name) == value for name, value in wanted.items())]
    assert len(found) == 1, list(events)
    return found[0]


async def test_a_transition_tells_machine_kind_region_states_trigger_time_and_detail(events):
    before = SYSTEM_CLOCK.now()
    async with hosted(Shop(name="shop@here")) as actor:
        actor.post("begin", tag="t1", size=3)
        await actor.wait("busy")
    event = one(events, trigger="begin")
    assert (event.machine, event.kind, event.region) == ("shop@here", "Shop", "started.slot")
    assert (event.source, event.target) == ("started.slot.idle", "started.slot.busy")
    assert event.detail == "tag=t1, size=3"
    assert event.severity == "info"
    assert before <= event.time <= SYSTEM_CLOCK.now()


async def test_lifecycle_steps_carry_durations(events):
    async with hosted(Shop()):
        pass
    ready = one(events, trigger="ready", target="started")
    assert (ready.region, ready.source, ready.target) == ("", "starting.tasks", "started")
    assert ready.attributes["duration"] == 0
    assert one(events, trigger="resources_acquired").attributes["duration"] == 1
    assert one(events, region="resources.db", target="held").attributes["duration"] == pytest.approx(1)


async def test_each_region_tells_where_it_begins(events):
    async with hosted(Shop()):
        pass
    assert one(events, target="started.slot.idle").source == ""
    assert one(events, target="started.health.healthy").region == "started.health"


async def test_trouble_is_a_warning_and_worse_trouble_an_error(events):
    async with hosted(Shop()) as actor:
        actor.report_warning("disk", "90 % full")
        actor.report_problem("api")
        await actor.wait("unhealthy")
        actor.fail(ValueError("gone"))
        await actor.wait("crashed")
        await actor.restart()
    degraded = one(events, target="started.health.degraded")
    assert (degraded.severity, degraded.detail) == ("warning", "source=disk, detail=90 % full")
    assert one(events, target="started.health.unhealthy").severity == "error"
    failing = one(events, trigger="fail", source="started")
    assert (failing.severity, failing.detail) == ("error", "ValueError('gone')")
    assert one(events, target="crashed").severity == "error"


async def test_nothing_is_built_while_nobody_listens(monkeypatch):
    def refuse(**_):
        raise AssertionError("built an event for nobody")

    monkeypatch.setattr(publish_module, "StateTransition", refuse)
    assert not bus.active
    async with hosted(Shop()) as actor:
        actor.post("begin")
        await actor.wait("busy")
        assert actor.failure is None


async def test_who_begins_to_listen_late_is_told_no_wrong_duration():
    seen = []
    unsubscribe = bus.subscribe(seen.append)
    async with hosted(Shop()) as actor:
        unsubscribe()
        await anyio.sleep(10)
        actor.post("begin")
        actor.post("end")
        await anyio.sleep(10)
        unsubscribe = bus.subscribe(seen.append)
        actor.post("begin")
        await anyio.sleep(5)
        actor.post("end")
        await anyio.sleep(1)
        unsubscribe()
    assert "duration" not in one(seen, trigger="begin").attributes, "idle was entered while nobody listened"
    assert one(seen, trigger="end").attributes["duration"] == 5


async def test_a_state_reads_as_its_leaves():
    actor = Shop()
    async with hosted(actor):
        assert str(actor.state) == "started.health.healthy | started.flow.running | started.slot.idle"
        assert actor.state.leaves == ("started.health.healthy", "started.flow.running", "started.slot.idle")
        assert actor.state.active[:2] == ("started", "started.health")
        before = actor.state
        actor.post("begin")
        await actor.wait("busy")
        assert before.matches("idle")
        assert before != actor.state
        assert repr(actor) == f"<Shop {actor.name!r}: started.health.healthy | started.flow.running | started.slot.busy>"
        actor.post("end")
        await actor.wait("idle")
        assert before == actor.state
        assert len({before, actor.state}) == 1

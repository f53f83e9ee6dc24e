"""State machines for hypothesis: they pass on what is right, and find what is wrong."""

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test

from jumpstarter.actors import Actor, Event, Mailbox, handles, resource
from jumpstarter.states import Chart, simple_paths
from jumpstarter.testing.machines import actor_machine, chart_machine

SHORT = settings(max_examples=20, stateful_step_count=15, deadline=None, database=None, derandomize=True)
#: Enough to find something; making it small takes ten times as long.
FINDING = settings(SHORT, phases=[Phase.generate])

DOOR = {
    "name": "door",
    "initial": "closed",
    "states": ["closed", {"name": "open", "initial": "ajar", "children": ["ajar", "wide"]}, "locked"],
    "transitions": [
        ["push", "closed", "open"],
        {"trigger": "push", "source": "open_ajar", "dest": "open_wide", "after": "count"},
        ["pull", "open", "closed"],
        {"trigger": "turn", "source": "closed", "dest": "locked", "conditions": "has_key"},
        ["turn", "locked", "closed"],
    ],
}


class Door:
    pushes = 0
    limit = 1000

    def count(self):
        self.pushes += 1
        assert self.pushes < self.limit

    def has_key(self):
        return self.pushes % 2 == 0


def test_a_chart_that_is_right_passes():
    run_state_machine_as_test(chart_machine(Chart.compile(DOOR), Door), settings=SHORT)


def test_a_hook_that_fails_is_found():
    class Weak(Door):
        limit = 2

    with pytest.raises(AssertionError):
        run_state_machine_as_test(chart_machine(Chart.compile(DOOR), Weak), settings=FINDING)


def test_what_the_user_checks_is_found():
    def never_wide(instance):
        assert not instance.matches("wide")

    with pytest.raises(AssertionError):
        run_state_machine_as_test(chart_machine(Chart.compile(DOOR), Door, check=never_wide), settings=FINDING)


def test_ways_through_a_chart():
    ways = [[stimulus.event for stimulus in way[1:]] for way in simple_paths(Chart.compile(DOOR))]
    assert sorted(ways) == [["push", "push"], ["turn"]]
    assert len(list(simple_paths(Chart.compile(DOOR), longest=1))) == 2


class Note(Event):
    number: int


class Steady(Actor):
    mailbox = Mailbox(5, when_full="drop_oldest")
    limit = 1000
    sum = 0

    @resource
    async def thing(self):
        yield "thing"

    @classmethod
    def regions(cls):
        return {
            "door": {
                "initial": "closed",
                "states": ["closed", "open"],
                "transitions": [["push", "closed", "open"], ["pull", "open", "closed"]],
            }
        }

    @handles(Note)
    async def note(self, message):
        assert self.thing == "thing"
        self.sum += message.number
        if self.sum > self.limit:
            raise ValueError("too much")


MESSAGES = [st.builds(Note, st.integers(0, 5))]


def test_an_actor_that_is_right_passes():
    machine = actor_machine(Steady, messages=MESSAGES, events=["push", "pull"])
    run_state_machine_as_test(machine, settings=SHORT)


def test_an_actor_that_crashes_is_found():
    class Weak(Steady):
        limit = 6

    with pytest.raises(AssertionError, match="crashed"):
        run_state_machine_as_test(actor_machine(Weak, messages=MESSAGES), settings=FINDING)
    run_state_machine_as_test(actor_machine(Weak, messages=MESSAGES, may_crash=True), settings=SHORT)


def test_what_the_user_checks_of_an_actor_is_found():
    def never_open(actor):
        assert actor.state.active[0] != "started" or not actor.state.matches("door.open")

    with pytest.raises(AssertionError):
        run_state_machine_as_test(actor_machine(Steady, events=["push"], check=never_open), settings=FINDING)

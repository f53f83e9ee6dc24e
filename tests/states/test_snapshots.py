"""Snapshots, the pure step, and the shortest ways through a chart."""

from __future__ import annotations

import json

import pytest

from jumpstarter.errors import ChartError
from jumpstarter.states import Chart, Stimulus, shortest_paths

WORK = {
    "name": "work",
    "initial": "idle",
    "states": [
        {"name": "idle", "postpone": "later"},
        {
            "name": "busy",
            "parallel": [
                {"name": "r", "initial": "1", "states": ["1", "2"], "transitions": [["t", "1", "2"]]},
                {"name": "s", "initial": "1", "states": ["1", {"name": "2", "on_enter": "hook"}], "transitions": [["u", "1", "2"]]},
                {"name": "h", "history": "deep"},
            ],
        },
    ],
    "transitions": [
        {"trigger": "go", "source": "idle", "dest": "busy", "conditions": "allowed"},
        ["rest", "busy", "idle"],
        ["back", "idle", "busy.h"],
        ["later", "busy", "idle"],
    ],
}


class Model:
    def __init__(self):
        self.calls = 0

    def allowed(self):
        self.calls += 1
        return True

    def hook(self):
        self.calls += 1


@pytest.fixture
def chart():
    return Chart.compile(WORK, model_class=Model)


def test_a_snapshot_goes_through_json_and_brings_everything_back(chart):
    first = chart.instance(Model())
    first.start()
    for event in ("go", "t", "rest"):
        first.send(event)
    first.send("later", number=5)
    stored = json.dumps(first.snapshot())
    assert json.loads(stored) == {
        "chart": "work",
        "active": ["idle"],
        "history": {"busy.h": ["busy.r.2", "busy.s.1"]},
        "postponed": [["later", {"number": 5}]],
    }
    second = chart.instance(Model())
    second.restore(json.loads(stored))
    assert second.active == ("idle",)
    assert [transition.trigger for transition in second.send("back").transitions] == ["back", "later"]
    second.send("back")
    assert second.matches("busy.r.2")


def test_restoring_runs_no_hooks(chart):
    model = Model()
    instance = chart.instance(model)
    instance.restore({"chart": "work", "active": ["busy.r.1", "busy.s.2"], "history": {}, "postponed": []})
    assert instance.matches("busy.s.2")
    assert model.calls == 0


@pytest.mark.parametrize(
    "snapshot",
    [
        {"active": ["nowhere"]},
        {"active": ["busy.r.1"]},
        {"active": ["idle", "busy.r.1", "busy.s.1"]},
        {"active": []},
        {"active": ["idle"], "history": {"idle.h": ["idle"]}},
        {"active": ["idle"], "history": {"busy.h": ["gone"]}},
    ],
)
def test_a_snapshot_that_does_not_fit_is_refused(chart, snapshot):
    instance = chart.instance(Model())
    with pytest.raises(ChartError, match="work: a snapshot of 'other' does not fit"):
        instance.restore({"chart": "other", "history": {}, "postponed": [], **snapshot})
    assert instance.active == ()


def test_a_snapshot_is_taken_at_rest():
    taken = []
    definition = {
        "states": ["a"],
        "transitions": [{"trigger": "t", "source": "a", "dest": None, "after": lambda instance: taken.append(instance.snapshot())}],
    }
    instance = Chart.compile(definition).instance()
    with pytest.raises(ChartError, match="a machine at rest"):
        instance.snapshot()
    instance.start()
    with pytest.raises(ChartError, match="a machine at rest"):
        instance.send("t")
    assert taken == []


def test_the_pure_step_runs_no_hooks_and_asks_no_guards(chart):
    snapshot, step = chart.step(None, None)
    assert step.entered == ("idle",)
    snapshot, step = chart.step(snapshot, "go", {"allowed": True})
    assert snapshot["active"] == ["busy.r.1", "busy.s.1"]
    _, step = chart.step(snapshot, "u")
    assert step.transitions[0].target == "busy.s.2"
    assert snapshot["active"] == ["busy.r.1", "busy.s.1"]


def test_the_pure_step_needs_the_answers_of_guards(chart):
    snapshot, _ = chart.step(None, None)
    with pytest.raises(ChartError, match="depends on guard 'allowed'"):
        chart.step(snapshot, "go")
    _, step = chart.step(snapshot, "go", lambda name: name != "allowed")
    assert not step.handled


def test_the_pure_step_starts_without_an_event(chart):
    with pytest.raises(ChartError, match="without a snapshot there is only the start"):
        chart.step(None, "go")


def test_the_pure_step_follows_done_events():
    work = {"name": "a", "initial": "x", "states": ["x", {"name": "end", "final": True}], "transitions": [["t", "x", "end"]]}
    chart = Chart.compile({"states": [work, "b"], "transitions": [["done.a", "a", "b"]]})
    snapshot, _ = chart.step(None, None)
    snapshot, _ = chart.step(snapshot, "t")
    assert snapshot["active"] == ["b"]


def test_every_configuration_has_a_shortest_way(chart):
    ways = shortest_paths(chart)
    assert set(ways) == {
        ("idle",),
        *(("busy", "busy.r", f"busy.r.{r}", "busy.s", f"busy.s.{s}") for r in "12" for s in "12"),
    }
    start, go = Stimulus("", {}), Stimulus("back", {})
    assert ways["idle",] == (start,)
    assert ways["busy", "busy.r", "busy.r.1", "busy.s", "busy.s.1"] == (start, go)
    assert [stimulus.event for stimulus in ways["busy", "busy.r", "busy.r.2", "busy.s", "busy.s.2"]][1:] == ["back", "t", "u"]


def test_a_way_leads_where_it_says(chart):
    for active, way in shortest_paths(chart).items():
        snapshot = None
        for stimulus in way:
            snapshot, _ = chart.step(snapshot, stimulus.event or None, stimulus.guards)
        assert chart.active_in(snapshot) == active


def test_ways_tell_what_guards_must_answer():
    chart = Chart.compile(
        {
            "states": ["a", "b", "c"],
            "transitions": [
                {"trigger": "t", "source": "a", "dest": "b", "conditions": "g"},
                {"trigger": "t", "source": "a", "dest": "c", "unless": "g"},
                {"trigger": "", "source": "c", "dest": "a", "conditions": "g"},
            ],
        }
    )
    assert shortest_paths(chart)["b",][-1] == Stimulus("t", {"g": True})
    assert shortest_paths(chart)["c",][-1] == Stimulus("t", {"g": False})
    assert set(shortest_paths(chart, events=[])) == {("a",)}


def test_too_many_configurations_are_refused():
    region = {"initial": "1", "states": ["1", "2"]}
    regions = [{"name": f"r{number}", **region, "transitions": [[f"t{number}", "1", "2"]]} for number in range(8)]
    with pytest.raises(ChartError, match="more than 100 configurations"):
        shortest_paths(Chart.compile({"name": "wide", "parallel": regions}), limit=100)

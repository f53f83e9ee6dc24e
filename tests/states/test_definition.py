"""What may be written to define a chart, and what it means."""

from __future__ import annotations

from enum import Enum

import pytest
from transitions import Machine
from transitions.extensions import HierarchicalMachine
from transitions.extensions.markup import HierarchicalMarkupMachine
from transitions.extensions.nesting import NestedState
from transitions.extensions.states import Tags, Timeout, add_state_features

from jumpstarter.errors import DefinitionError
from jumpstarter.states import Chart

DOOR = {
    "name": "door",
    "initial": "closed",
    "states": ["open", {"name": "closed", "initial": "unlocked", "children": ["unlocked", "locked"]}],
    "transitions": [
        ["open", "closed.unlocked", "open"],
        {"trigger": "close", "source": "open", "dest": "closed"},
        {"trigger": "lock", "source": "closed.unlocked", "dest": "closed.locked"},
        {"trigger": "unlock", "source": "closed.locked", "dest": "closed.unlocked"},
    ],
}


def started(chart, model=None):
    instance = chart.instance(model)
    instance.start()
    return instance


def run(chart, *events, model=None):
    instance = started(chart, model)
    for event in events:
        instance.send(event)
    return instance.active


def test_states_are_listed_by_path_in_document_order():
    chart = Chart.compile(DOOR)
    assert chart.name == "door"
    assert chart.states == ("open", "closed", "closed.unlocked", "closed.locked")
    assert chart.events == {"open", "close", "lock", "unlock"}


def test_the_initial_state_is_entered_down_to_a_leaf():
    assert run(Chart.compile(DOOR)) == ("closed", "closed.unlocked")


def test_without_an_initial_state_the_first_one_is_entered():
    assert run(Chart.compile({"states": ["a", "b"], "transitions": [["t", "a", "b"]]})) == ("a",)


def test_an_initial_state_may_lie_deep_inside():
    definition = {"states": [{"name": "a", "states": ["x", {"name": "y", "states": ["z"]}]}], "initial": "a.y.z", "lenient": True}
    assert run(Chart.compile(definition)) == ("a", "a.y", "a.y.z")


def test_a_state_with_children_and_no_initial_one_is_entered_alone_as_in_transitions():
    definition = {"states": [{"name": "a", "states": ["x"]}], "initial": "a", "transitions": [["t", "a", "a.x"]]}
    chart = Chart.compile(definition)
    assert run(chart) == ("a",)
    assert run(chart, "t") == ("a", "a.x")


def test_a_list_of_initial_states_makes_a_parallel_state():
    definition = {"states": [{"name": "p", "initial": ["a", "b"], "states": ["a", "b"]}], "initial": "p"}
    assert run(Chart.compile(definition)) == ("p", "p.a", "p.b")
    assert Chart.compile(definition).kind("p") == "parallel"


def test_a_chart_may_be_parallel_at_the_top():
    definition = {
        "parallel": ["a", {"name": "b", "states": ["x", "y"], "initial": "x", "transitions": [["t", "x", "y"]]}],
    }
    assert run(Chart.compile(definition), "t") == ("a", "b", "b.y")


def test_initial_states_of_a_parallel_state_may_lie_deeper():
    definition = {
        "initial": ["a.2", "b"],
        "states": [{"name": "a", "states": ["1", "2"], "initial": "1"}, "b"],
        "transitions": [["t", "a.2", "a.1"]],
    }
    assert run(Chart.compile(definition)) == ("a", "a.2", "b")


def test_a_name_with_a_dot_makes_a_child():
    chart = Chart.compile({"states": ["a", "a.b", "c.d"], "initial": "a.b", "lenient": True})
    assert chart.states == ("a", "a.b", "c", "c.d")


def test_a_star_as_source_is_each_state_of_the_list_that_is_not_final():
    definition = {
        "states": ["a", "b", {"name": "end", "final": True}],
        "initial": "a",
        "transitions": [["next", "*", "b"], ["stop", "*", "end"]],
    }
    chart = Chart.compile(definition)
    assert run(chart, "next", "next") == ("b",)
    assert run(chart, "next", "stop", "next") == ("end",)


def test_an_equal_sign_as_destination_leaves_and_enters_the_source():
    chart = Chart.compile({"states": ["a", "b"], "initial": "a", "transitions": [["again", "*", "="], ["t", "a", "b"]]})
    step = started(chart).send("again")
    assert (step.exited, step.entered) == (("a",), ("a",))


def test_a_star_with_an_equal_sign_means_the_nested_states_too():
    definition = {"states": [{"name": "a", "states": ["x"], "initial": "x"}], "transitions": [["again", "*", "="]]}
    step = started(Chart.compile(definition)).send("again")
    assert (step.exited, step.entered) == (("a.x",), ("a.x",))


def test_no_destination_leaves_and_enters_nothing():
    seen = []
    definition = {
        "states": ["a"],
        "transitions": [{"trigger": "t", "source": "a", "dest": None, "after": lambda: seen.append("after")}],
    }
    step = started(Chart.compile(definition)).send("t")
    assert (step.handled, step.exited, step.entered, seen) == (True, (), (), ["after"])
    assert step.transitions[0].target is None


def test_sources_may_be_many():
    definition = {"states": ["a", "b", "c"], "initial": "a", "transitions": [["t", ["a", "b"], "c"], ["u", "a", "b"]]}
    assert run(Chart.compile(definition), "u", "t") == ("c",)


def test_a_nested_transition_without_a_source_belongs_to_the_state_around_it():
    definition = {
        "states": ["out", {"name": "a", "initial": "x", "states": ["x"], "transitions": [{"trigger": "leave", "dest": "out"}]}],
        "initial": "a",
    }
    step = started(Chart.compile(definition)).send("leave")
    assert step.transitions[0].source == "a"


def test_names_in_a_nested_list_are_looked_for_from_the_inside_out():
    inner = {"name": "a", "initial": "x", "states": ["x", "y"], "transitions": [["t", "x", "y"], ["u", "y", "z"]]}
    definition = {"states": [inner, "y", "z"], "initial": "a", "transitions": [["v", "z", "y"]]}
    assert run(Chart.compile(definition), "t") == ("a", "a.y")
    assert run(Chart.compile(definition), "t", "u", "v") == ("y",)


def test_a_unique_ending_of_a_path_names_a_state():
    definition = {"states": ["off", DOOR | {"name": "door"}], "initial": "off", "transitions": [["go", "off", "locked"]]}
    chart = Chart.compile(
        {**definition, "states": ["off", {key: DOOR[key] for key in ("name", "initial", "states", "transitions")}]}
    )
    assert run(chart, "go") == ("door", "door.closed", "door.closed.locked")
    instance = started(chart)
    instance.send("go")
    assert instance.matches("locked")
    assert instance.matches("closed.locked")
    assert instance.matches("door.closed.locked")
    assert not instance.matches("off")


def test_triggers_may_be_a_list_or_parted_by_spaces():
    definition = {"states": ["a", "b", "c"], "initial": "a", "transitions": [["x y", "a", "b"], [["x", "y"], "b", "c"]]}
    assert run(Chart.compile(definition), "y", "x") == ("c",)


@pytest.mark.parametrize(
    ("pattern", "event", "expected"),
    [
        ("order", "order", True),
        ("order", "order.paid", False),
        ("order.*", "order", True),
        ("order.*", "order.paid", True),
        ("order.*", "order.paid.late", True),
        ("order.*", "orders", False),
        ("*", "anything", True),
    ],
)
def test_a_star_at_the_end_of_a_trigger_matches_a_prefix(pattern, event, expected):
    chart = Chart.compile({"states": ["a", "b"], "initial": "a", "transitions": [[pattern, "a", "b"]]})
    assert started(chart).send(event).handled is expected


class Light(Enum):
    RED = 1
    GREEN = 2


def test_an_enum_class_is_a_definition():
    chart = Chart.compile({"name": "light", "states": Light, "initial": Light.RED, "transitions": [["go", Light.RED, Light.GREEN]]})
    instance = started(chart)
    instance.send("go")
    assert instance.matches(Light.GREEN)
    assert instance.matches("GREEN")
    with pytest.raises(DefinitionError, match="unreachable"):
        Chart.compile(Light, name="light")


def test_an_enum_may_nest_another():
    class Inner(Enum):
        ONE = 1
        TWO = 2

    class Outer(Enum):
        A = Inner
        B = {"initial": "X", "children": ["X"]}  # noqa: RUF012 - the value of an enum member

    definition = {"states": Outer, "initial": Outer.B, "transitions": [["t", Outer.B, Inner.ONE], ["u", Inner.ONE, Inner.TWO]]}
    assert run(Chart.compile(definition), "t", "u") == ("A", "A.TWO")


def test_a_machine_is_a_definition():
    machine = HierarchicalMachine(
        states=["a", {"name": "b", "children": ["1", "2"], "initial": "1"}], initial="a", auto_transitions=False
    )
    machine.add_transition("go", "a", "b_2")
    machine.add_transition("back", "b_2", "b_1")
    chart = Chart.compile(machine)
    assert chart.states == ("a", "b", "b.1", "b.2")
    assert run(chart, "go", "back") == ("b", "b.1")


def test_a_machine_of_enums_takes_transitions_added_later():
    machine = HierarchicalMachine(states=Light, initial=Light.RED, auto_transitions=False)
    machine.add_transition("go", Light.RED, Light.GREEN)
    machine.add_transition("again", Light.GREEN, "=")
    instance = started(Chart.compile(machine))
    instance.send("go")
    assert instance.send("again").entered == ("GREEN",)
    assert instance.matches(Light.GREEN)


def test_a_flat_machine_is_a_definition_too():
    machine = Machine(states=["a", "b"], initial="a", transitions=[["t", "a", "b"]], auto_transitions=False)
    assert run(Chart.compile(machine), "t") == ("b",)


def test_the_events_to_each_state_that_a_machine_makes_by_itself_work():
    machine = HierarchicalMachine(states=["a", {"name": "b", "children": ["c"]}, {"name": "end", "final": True}], initial="a")
    chart = Chart.compile(machine)
    assert run(chart, "to_b_c") == ("b", "b.c")
    assert run(chart, "to_end", "to_a") == ("end",)


def test_a_mapping_makes_them_when_it_asks_for_them():
    chart = Chart.compile({"states": ["a", {"name": "b", "states": ["c"]}], "initial": "a", "auto_transitions": True})
    assert run(chart, "to_b_c") == ("b", "b.c")
    assert run(Chart.compile({"states": ["a"]}), "to_a") == ("a",)


def test_underscores_in_names_do_not_confuse_paths_that_are_joined_by_them():
    states = [{"name": "backing_off", "children": ["long_wait"], "initial": "long_wait"}, "a"]
    chart = Chart.compile({"states": states, "initial": "a", "transitions": [["t", "a", "backing_off_long_wait"]]})
    assert run(chart, "t") == ("backing_off", "backing_off.long_wait")


def test_a_machine_may_have_a_separator_of_its_own():
    class Arrow(NestedState):
        separator = "↦"

    class ArrowMachine(HierarchicalMachine):
        state_cls = Arrow

    machine = ArrowMachine(
        states=["a", {"name": "b", "children": ["c"]}], initial="a", transitions=[["t", "a", "b↦c"]], auto_transitions=False
    )
    assert run(Chart.compile(machine), "t") == ("b", "b.c")


def test_the_markup_of_a_machine_is_a_definition():
    states = ["a", {"name": "p", "parallel": [{"name": "x", "children": ["1", "2"], "initial": "1"}, "y"]}]
    machine = HierarchicalMarkupMachine(
        states=states, initial="a", transitions=[["t", "a", "p"]], auto_transitions=False, name="marked"
    )
    chart = Chart.compile(machine.markup | {"lenient": True})
    assert run(chart, "t") == ("p", "p.x", "p.x.1", "p.y")


COUNTER = {
    "states": ["1", "2", {"name": "done"}],
    "initial": "1",
    "transitions": [["increase", "1", "2"], ["increase", "2", "done"]],
}


def counter_machine():
    return HierarchicalMachine(**COUNTER, auto_transitions=False)


@pytest.mark.parametrize("children", [counter_machine, lambda: COUNTER, lambda: [COUNTER]])
def test_children_may_be_a_machine_of_their_own(children):
    definition = {
        "states": ["waiting", {"name": "counting", "children": children()}],
        "initial": "counting",
        "transitions": [["r", "*", "waiting"]],
    }
    assert run(Chart.compile(definition), "increase") == ("counting", "counting.2")


@pytest.mark.parametrize("children", [counter_machine, lambda: COUNTER])
def test_states_of_an_embedded_machine_may_be_remapped_to_states_outside(children):
    counting = {"name": "counting", "children": children(), "remap": {"done": "finished"}}
    chart = Chart.compile({"states": ["finished", counting], "initial": "counting"})
    assert chart.states == ("finished", "counting", "counting.1", "counting.2")
    assert run(chart, "increase", "increase") == ("finished",)


def test_a_machine_that_nests_and_remaps_a_machine_is_a_definition():
    counting = {"name": "counting", "children": counter_machine(), "remap": {"done": "finished"}}
    machine = HierarchicalMachine(states=["finished", counting], initial="counting", auto_transitions=False)
    assert run(Chart.compile(machine), "increase", "increase") == ("finished",)


def test_timeouts_and_tags_are_kept_as_data():
    chart = Chart.compile(
        {
            "states": [{"name": "a", "timeout": 2.5, "tags": ["busy"]}, "b"],
            "initial": "a",
            "transitions": [["timeout.a", "a", "b"]],
        }
    )
    assert chart.timeouts == {"a": 2.5}
    assert chart.tags == {"a": ("busy",)}
    assert run(chart, chart.timeout_event("a")) == ("b",)


def test_timeout_states_of_a_machine_keep_their_seconds_and_hooks():
    @add_state_features(Timeout, Tags)
    class Timed(HierarchicalMachine):
        pass

    seen = []
    states = [{"name": "a", "timeout": 3, "on_timeout": lambda: seen.append("late"), "tags": ["t"]}]
    chart = Chart.compile(Timed(states=states, initial="a", auto_transitions=False))
    started(chart).send(chart.timeout_event("a"))
    assert (dict(chart.timeouts), seen) == ({"a": 3.0}, ["late"])


def test_a_nested_timeout_is_named_by_any_name_of_its_state():
    definition = {
        "states": [
            {"name": "a", "initial": "x", "states": [{"name": "x", "timeout": 1}], "transitions": [["timeout.x", "x", "b"]]},
            "b",
        ],
        "initial": "a",
    }
    chart = Chart.compile(definition)
    assert chart.timeout_event("x") == "timeout.a.x"
    assert run(chart, "timeout.a.x") == ("b",)


def test_a_chart_knows_parents_children_regions_and_kinds():
    regions = [
        {"name": "r", "states": ["x", {"name": "end", "final": True}], "initial": "x", "transitions": [["t", "x", "end"]]},
        "s",
    ]
    chart = Chart.compile(
        {"states": [{"name": "a", "initial": "p", "states": [{"name": "p", "parallel": regions}]}], "initial": "a"}
    )
    assert [chart.parent(state) for state in ("a", "p", "x")] == [None, "a", "a.p.r"]
    assert [chart.region(state) for state in ("a", "p", "r", "x", "s")] == ["", "", "a.p.r", "a.p.r", "a.p.s"]
    assert [chart.kind(state) for state in ("a", "p", "x", "end")] == ["compound", "parallel", "atomic", "final"]
    assert chart.children("p") == ("a.p.r", "a.p.s")
    assert chart.children() == ("a",)


def test_matching_a_state_that_is_not_there_says_what_may_be_meant():
    chart = Chart.compile(
        {"name": "m", "states": ["degraded", "healthy"], "initial": "healthy", "transitions": [["t", "healthy", "degraded"]]}
    )
    with pytest.raises(DefinitionError, match=r"m: state 'degrade' is not a state\. Did you mean 'degraded'\?"):
        started(chart).matches("degrade")


def test_matching_a_short_name_that_two_states_have_names_both():
    regions = [{"name": "r", "states": ["x"], "initial": "x"}, {"name": "s", "states": ["x"], "initial": "x"}]
    instance = started(Chart.compile({"parallel": regions}))
    with pytest.raises(DefinitionError, match=r"'x' is ambiguous: it may be r\.x, s\.x"):
        instance.matches("x")


def test_matching_a_history_state_is_an_error():
    inner = {"name": "a", "initial": "x", "states": ["x", {"name": "h", "history": "deep"}]}
    instance = started(Chart.compile({"states": [inner]}))
    with pytest.raises(DefinitionError, match="history state, which is never active"):
        instance.matches("h")


def test_compiling_does_not_change_the_definition():
    before = repr(DOOR)
    Chart.compile(DOOR)
    assert repr(DOOR) == before


def test_of_two_transitions_of_a_state_the_one_written_further_inside_comes_first():
    inner = {
        "name": "a",
        "initial": "x",
        "states": ["x", "y"],
        "transitions": [{"trigger": "t", "source": "x", "dest": "y", "unless": lambda: False}],
    }
    guarded = {"trigger": "t", "source": "a.x", "dest": "b", "conditions": lambda: True}
    outer = [{"name": "a", "initial": "x", "states": ["x", "y"]}, "b"]
    assert run(Chart.compile({"states": [inner, "b"], "transitions": [guarded]}), "t") == ("a", "a.y")
    assert run(Chart.compile({"states": outer, "transitions": [guarded], "lenient": True}), "t") == ("b",)
    before = {
        "states": [
            {"name": "p", "initial": "a", "states": [{**inner, "transitions": []}], "transitions": inner["transitions"]},
            "b",
        ]
    }
    before["states"][0]["transitions"] = [{**inner["transitions"][0], "source": "a.x", "dest": "a.y"}]
    before["states"].reverse()
    before["initial"] = "p"
    assert run(Chart.compile({**before, "transitions": [{**guarded, "source": "p.a.x"}]}), "t") == ("p", "p.a", "p.a.y")


def test_a_name_that_several_states_have_means_the_nearest_one_around():
    inner = {"name": "b", "initial": "x", "states": ["x"], "transitions": [["t", "x", "y"]]}
    outer = {"name": "a", "initial": "b", "states": [inner, "y"]}
    other = {"name": "c", "initial": "y", "states": ["y"]}
    chart = Chart.compile({"states": [outer, other], "initial": "a", "transitions": [["u", "a", "c"]]})
    assert run(chart, "t") == ("a", "a.y")

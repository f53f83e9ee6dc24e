"""Contradictions are found when a chart is compiled; the error names the chart, the state, and what to do."""

from __future__ import annotations

import pytest

from jumpstarter.errors import DefinitionError
from jumpstarter.states import Chart


class Model:
    limit = 3
    declared: bool

    def hook(self) -> None: ...

    async def slow(self) -> None: ...

    @property
    def ready(self) -> bool:
        return True


def nested(**attributes):
    return {"states": [{"name": "a", "initial": "x", "states": ["x"], **attributes}, "b"], "transitions": [["go", "a", "b"]]}


def with_history(**attributes):
    return {"states": [{"name": "a", "initial": "x", "states": ["x", {"name": "h", **attributes}]}]}


def one(*transitions, states=("a", "b")):
    return {"states": list(states), "initial": "a", "transitions": [["t", "a", "b"], *transitions]}


CASES = {
    "no definition at all": (7, None, "a mapping, a machine of `transitions` or an enum class, not int"),
    "no states": ({"states": []}, None, "no states"),
    "unknown key of the chart": ({"states": ["a"], "sates": []}, None, "a chart has no 'sates'"),
    "unknown key of a state": ({"states": [{"name": "a", "on_entry": "x"}]}, "a", "a state has no 'on_entry'"),
    "unknown key of a transition": (
        one({"trigger": "u", "source": "a", "dest": "b", "guard": "x"}),
        None,
        "a transition has no 'guard'",
    ),
    "state of no known form": ({"states": [3]}, None, "a state is a name"),
    "empty name": ({"states": [{"name": ""}]}, None, "cannot be the name of a state"),
    "name with a dot": ({"states": [{"name": "a.b"}]}, None, "without dots"),
    "defined twice": ({"states": ["a", "a"]}, "a", "defined twice"),
    "unknown initial": ({"states": ["a"], "initial": "z"}, None, "initial 'z' is not a state"),
    "initial elsewhere": (nested(initial="b"), "a", "initial 'b' is not a state inside it"),
    "initial without children": ({"states": [{"name": "a", "initial": "a"}]}, "a", "is not a state inside it"),
    "unknown source": (one(["u", "z", "b"]), None, "source 'z' is not a state"),
    "unknown destination": (one(["u", "a", "z"]), "a", "dest 'z' is not a state"),
    "destination that is no name": (one(["u", "a", 3]), "a", "dest must be the name of a state, not 3"),
    "no destination": (one({"trigger": "u", "source": "a"}), None, "has no 'dest' \\(None leaves and enters nothing\\)"),
    "no trigger": (one({"source": "a", "dest": "b"}), None, "has no 'trigger'"),
    "no source": (one({"trigger": "u", "dest": "b"}), None, "has no source; '\\*' means every state"),
    "transition of no known form": (one("u"), None, "a transition is a mapping or a list"),
    "empty trigger in a list": (one([["u", ""], "a", "b"]), None, "is empty"),
    "star in the middle": (one(["u*v", "a", "b"]), None, "a star stands alone"),
    "type unknown": (one({"trigger": "u", "source": "a", "dest": "b", "type": "deep"}), "a", "local, external or internal"),
    "internal to a state outside": (one({"trigger": "u", "source": "a", "dest": "b", "internal": True}), "a", "inside its source"),
    "unreachable": ({"states": ["a", "b"], "initial": "a"}, "b", "unreachable; lead a transition to it or remove it"),
    "unreachable for want of an initial": (
        {"states": [{"name": "a", "states": ["x"]}], "initial": "a"},
        "a.x",
        "or give 'a' an `initial`",
    ),
    "ambiguous": (one(["t", "a", "a"]), "a", "ambiguous: a transition on 't' leads from a to b, and .* from a to a"),
    "ambiguous without triggers": (one([None, "a", "b"], ["", "a", "a.x"], states=["a", "b", "a.x"]), "a", "ambiguous"),
    "history without a parent": ({"states": ["a", {"name": "h", "history": "deep"}]}, "h", "needs a parent"),
    "history of an unknown kind": (with_history(history="wide"), "a.h", "'shallow' or 'deep'"),
    "history with hooks": (with_history(history="deep", on_enter="x"), "a.h", "never active"),
    "history that leads outside": (
        {
            "states": [{"name": "a", "initial": "x", "states": ["x", {"name": "h", "history": "deep", "default": "b"}]}, "b"],
            "transitions": [["t", "a", "b"]],
        },
        "a.h",
        "its default 'b' is not inside 'a'",
    ),
    "history that leads nowhere": (
        {"states": [{"name": "a", "states": ["x", {"name": "h", "history": True}]}], "transitions": [["t", "a", "a.x"]]},
        "a.h",
        "give it a `default`",
    ),
    "history that is left": (
        {
            "states": [
                {"name": "a", "initial": "x", "states": ["x", {"name": "h", "history": True}], "transitions": [["t", "h", "x"]]}
            ]
        },
        "a.h",
        "never active, but a transition on 't'",
    ),
    "default of a state": ({"states": [{"name": "a", "default": "b"}]}, "a", "only a history state has a `default`"),
    "initial of a history": (with_history(history=True, initial="x"), "a.h", "its `default`"),
    "nothing but history": (
        {"states": [{"name": "a", "states": [{"name": "h", "history": True, "default": "a"}]}]},
        "a",
        "nothing inside it",
    ),
    "final with children": ({"states": [{"name": "a", "final": True, "initial": "x", "states": ["x"]}]}, "a", "no states inside"),
    "final that is left": (one(["u", "b", "a"], states=["a", {"name": "b", "final": True}]), "b", "a final state is not left, but"),
    "final that postpones": ({"states": [{"name": "a", "final": True, "postpone": "x"}]}, "a", "cannot postpone"),
    "parallel without regions": ({"states": [{"name": "a", "parallel": True}]}, "a", "needs regions"),
    "parallel without all regions": (
        {"states": [{"name": "p", "initial": ["a", "b"], "states": ["a", "b", "c"]}]},
        "p",
        "leaves out p.c",
    ),
    "two targets in one region": (one({"trigger": "u", "source": "a", "dest": ["a", "b"]}), "a", "cannot be entered together"),
    "two targets of which one is inside": (
        one({"trigger": "u", "source": "a", "dest": ["b", "b.x"]}, states=["a", "b", "b.x"]),
        "a",
        "cannot be entered together",
    ),
    "loop without end": (one({"trigger": "", "source": "b", "dest": "="}), "b", "would be taken for ever"),
    "loop without end that goes nowhere": (one({"trigger": None, "source": "b", "dest": None}), "b", "would be taken for ever"),
    "timeout that is no number": ({"states": [{"name": "a", "timeout": "5"}]}, "a", "a number of seconds above 0"),
    "timeout that is not above 0": ({"states": [{"name": "a", "timeout": -1}]}, "a", "above 0"),
    "on_timeout without timeout": ({"states": [{"name": "a", "on_timeout": "hook"}]}, "a", "no timeout"),
    "postpone limit": ({"states": ["a"], "postpone_limit": 0}, None, "postpone_limit must be a whole number above 0"),
    "done of an unknown state": (one(["done.state.z", "a", "b"]), None, "names no state"),
    "In() of an unknown state": (
        one({"trigger": "u", "source": "a", "dest": "b", "conditions": "In(z)"}),
        "a",
        "In\\(\\) 'z' is not a state",
    ),
    "guard that cannot be called": (
        one({"trigger": "u", "source": "a", "dest": "b", "conditions": [3]}),
        None,
        "3 is neither \\(it is not callable\\)",
    ),
    "hook that cannot be called": ({"states": [{"name": "a", "on_enter": [3]}]}, "a", "not callable"),
    "unknown callback": (
        {"states": [{"name": "a", "on_enter": "hok"}]},
        "a",
        "'hok' is neither an attribute of Model nor an import path",
    ),
    "unknown guard": (
        one({"trigger": "u", "source": "a", "dest": "b", "unless": "redy"}),
        "a",
        "'redy' is neither an attribute of Model",
    ),
    "unknown import path": ({"states": [{"name": "a", "on_exit": "no.such.module"}]}, "a", "nor an import path"),
    "callback that is no function": ({"states": [{"name": "a", "on_enter": "limit"}]}, "a", "'limit' is not callable, it is 3"),
    "coroutine as a hook": ({"states": [{"name": "a", "on_enter": "slow"}]}, "a", "asynchronous"),
    "unknown hook around events": ({"states": ["a"], "prepare_event": "hok"}, None, "'hok' is neither"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_contradiction_is_named(case):
    definition, state, why = CASES[case]
    with pytest.raises(DefinitionError, match=why) as raised:
        Chart.compile(definition, name="chart", model_class=Model)
    assert raised.value.owner == "chart"
    assert raised.value.state == state
    assert str(raised.value).startswith(f"chart, state '{state}': " if state else "chart: ")


def test_names_of_callbacks_that_a_model_has_are_accepted():
    states = [{"name": "a", "on_enter": "hook", "on_exit": "tests.states.test_definition_errors.nested"}, "b"]
    guards = {"conditions": ["ready", "limit", "declared", "In(a)"]}
    chart = Chart.compile(one({"trigger": "u", "source": "a", "dest": "b", **guards}, states=states), model_class=Model)
    assert chart.guards == ("ready", "limit", "declared")


def test_without_a_model_class_names_are_checked_when_an_instance_is_made():
    chart = Chart.compile({"name": "late", "states": [{"name": "a", "on_enter": "hok"}]})
    with pytest.raises(
        DefinitionError, match=r"late: callback 'hok' is neither an attribute of the model \(Model\) nor an import path"
    ):
        chart.instance(Model())
    with pytest.raises(DefinitionError, match="NoneType"):
        chart.instance()


def test_a_lenient_definition_may_be_ambiguous_and_have_states_that_are_never_reached():
    chart = Chart.compile({"states": ["a", "b", "c"], "transitions": [["t", "a", "b"], ["t", "a", "c"]], "lenient": True})
    instance = chart.instance()
    instance.start()
    instance.send("t")
    assert instance.active == ("b",)


def test_a_macrostep_limit_below_one_is_refused():
    with pytest.raises(DefinitionError, match="macrostep_limit must be at least 1, not 0"):
        Chart.compile({"states": ["a"]}, macrostep_limit=0)

"""A machine of `transitions` and the chart compiled from it, side by side on the same events. No parallel states: there it is
wrong."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transitions.extensions import HierarchicalMachine

from jumpstarter.states import Chart
from jumpstarter.states.machines import describe_machine

EVENTS = ("e", "f", "g", "h")


@st.composite
def definitions(draw: st.DrawFn) -> dict[str, Any]:
    """What both understand: nested states, guards, reflexive and internal transitions, lists of sources, `*` and `=`."""
    counter = iter(range(1_000))
    states = [draw(_states(counter, depth=0)) for _ in range(draw(st.integers(1, 3)))]
    paths = [path for state in states for path in _paths(state, "")]
    transitions = [draw(_transitions(paths)) for _ in range(draw(st.integers(1, 12)))]
    return {"states": states, "initial": draw(st.sampled_from(paths)), "transitions": transitions}


@st.composite
def _states(draw: st.DrawFn, counter: Any, depth: int) -> dict[str, Any]:
    name = f"s{next(counter)}"
    state: dict[str, Any] = {"name": name, "on_enter": f"note+{name}", "on_exit": f"note-{name}"}
    if depth < 2 and draw(st.booleans()):
        state["children"] = [draw(_states(counter, depth + 1)) for _ in range(draw(st.integers(1, 3)))]
        if draw(st.booleans()):
            state["initial"] = draw(st.sampled_from([child["name"] for child in state["children"]]))
    return state


def _paths(state: dict[str, Any], prefix: str) -> list[str]:
    path = prefix + state["name"]
    return [path, *(found for child in state.get("children", ()) for found in _paths(child, f"{path}_"))]


@st.composite
def _transitions(draw: st.DrawFn, paths: list[str]) -> dict[str, Any]:
    return {
        "trigger": draw(st.sampled_from(EVENTS)),
        "source": draw(
            st.one_of(st.just("*"), st.sampled_from(paths), st.lists(st.sampled_from(paths), min_size=1, max_size=2, unique=True))
        ),
        "dest": draw(st.one_of(st.none(), st.just("="), st.sampled_from(paths))),
        "conditions": draw(st.lists(st.sampled_from(["yes", "no", "asked"]), max_size=2)),
        "unless": draw(st.lists(st.sampled_from(["no", "asked"]), max_size=1)),
        "before": "note<",
        "after": "note>",
    }


class Model:
    """Writes down every hook that runs, in order."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def yes(self, **_: Any) -> bool:
        return True

    def no(self, **_: Any) -> bool:
        return False

    def asked(self, answer: bool) -> bool:
        return answer

    def __getattr__(self, name: str) -> Any:
        if name.startswith("note"):
            return lambda **_: self.log.append(name[4:])
        raise AttributeError(name)


def theirs(definition):
    model = Model()
    machine = HierarchicalMachine(model, **definition, auto_transitions=False, ignore_invalid_triggers=True)
    return machine, model


@settings(max_examples=400, deadline=None)
@given(definitions(), st.lists(st.tuples(st.sampled_from(EVENTS), st.booleans()), max_size=15))
@pytest.mark.filterwarnings("ignore")
def test_a_chart_goes_where_the_machine_goes_and_runs_the_same_hooks(definition, events):
    machine, their_model = theirs(definition)
    chart = Chart.compile({**describe_machine(machine), "lenient": True})
    model = Model()
    instance = chart.instance(model)
    instance.start()
    model.log.clear()
    assert _leaf(instance) == their_model.state
    for event, answer in events:
        handled = their_model.trigger(event, answer=answer) if machine.has_trigger(event) else False
        step = instance.send(event, answer=answer)
        assert _leaf(instance) == their_model.state
        assert model.log == their_model.log
        assert step.handled == handled


def _leaf(instance):
    return instance.active[-1].replace(".", "_")


def test_a_stated_failure_of_an_invalid_trigger_is_kept():
    machine = HierarchicalMachine(
        states=["a", "b"], initial="a", auto_transitions=False, transitions=[["t", "a", "b"]], ignore_invalid_triggers=False
    )
    instance = Chart.compile(machine).instance()
    instance.start()
    instance.send("t")
    with pytest.raises(Exception, match="means nothing in b"):
        instance.send("t")


def test_callbacks_of_a_machine_run_in_its_order():
    log = []

    def note(name):
        return lambda: log.append(name)

    machine = HierarchicalMachine(
        states=["a", {"name": "b", "on_enter": note("+b"), "final": True, "on_final": note("final b")}],
        initial="a",
        auto_transitions=False,
        transitions=[{"trigger": "t", "source": "a", "dest": "b", **{key: note(key) for key in ("prepare", "before", "after")}}],
        prepare_event=note("prepare_event"),
        before_state_change=note("before_state_change"),
        after_state_change=note("after_state_change"),
        finalize_event=note("finalize_event"),
        on_final=note("final"),
    )
    instance = Chart.compile(machine).instance()
    instance.start()
    instance.send("t")
    ours = log.copy()
    log.clear()
    machine.t()
    assert ours == log


def test_what_a_machine_does_on_an_exception_becomes_on_error():
    log = []

    def fail(_):
        raise ValueError("broken")

    machine = HierarchicalMachine(
        states=["a"],
        initial="a",
        auto_transitions=False,
        send_event=True,
        transitions=[{"trigger": "t", "source": "a", "dest": None, "after": fail}],
        on_exception=lambda event: log.append(str(event.error)),
    )
    instance = Chart.compile(machine).instance()
    instance.start()
    with pytest.raises(ValueError, match="broken"):
        instance.send("t")
    assert log == ["broken"]

"""Charts that nobody would write, for properties that must hold for all of them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

EVENTS = ("e", "f", "g")
GUARDS = ("p", "q")
KINDS = ("local", "external")


@st.composite
def definitions(draw: st.DrawFn) -> dict[str, Any]:
    """A definition with nested, parallel, final and history states, and any transitions between them."""
    counter = iter(range(1_000))
    states = [draw(_states(counter, depth=0)) for _ in range(draw(st.integers(1, 3)))]
    paths = [path for state in states for path in _paths(state, "")]
    transitions = draw(st.lists(_transitions(paths), max_size=12))
    return {"name": "random", "lenient": True, "states": states, "transitions": transitions}


@st.composite
def _states(draw: st.DrawFn, counter: Any, depth: int) -> dict[str, Any]:
    state: dict[str, Any] = {"name": f"s{next(counter)}"}
    kind = draw(st.sampled_from(["atomic", "compound", "parallel"] if depth < 3 else ["atomic"]))
    if kind == "atomic":
        state["postpone"] = draw(st.lists(st.sampled_from(EVENTS), max_size=1))
        return state
    children = [draw(_states(counter, depth + 1)) for _ in range(draw(st.integers(1, 3)))]
    state["states"] = children
    if kind == "parallel":
        state["parallel"] = True
    else:
        if draw(st.booleans()):
            children.append({"name": f"s{next(counter)}", "final": True})
        state["initial"] = draw(st.sampled_from([child["name"] for child in children]))
    if draw(st.booleans()):
        children.append({"name": f"s{next(counter)}", "history": draw(st.sampled_from(["shallow", "deep"]))})
    return state


def _paths(state: dict[str, Any], prefix: str) -> list[tuple[str, dict[str, Any]]]:
    path = prefix + state["name"]
    return [(path, state), *(found for child in state.get("states", ()) for found in _paths(child, f"{path}."))]


@st.composite
def _transitions(draw: st.DrawFn, paths: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    sources = [path for path, state in paths if not state.get("final") and not state.get("history")]
    eventless = draw(st.integers(0, 9)) == 0
    return {
        "trigger": "" if eventless else draw(st.sampled_from([*EVENTS, "done.state.*"])),
        "source": draw(st.sampled_from(sources)),
        "dest": draw(st.one_of(st.none(), st.sampled_from([path for path, _ in paths]))),
        "type": draw(st.sampled_from(KINDS)),
        "conditions": draw(st.sampled_from(GUARDS)) if eventless else draw(st.lists(st.sampled_from(GUARDS), max_size=2)),
    }

"""Describe machines and states of the `transitions` library as plain mappings.

Comes from: whoever defines a chart with ``transitions``. Goes to: reader, which reads mappings only.

The library itself is never imported here: an object can only be one of its machines when somebody else imported it already. That
keeps the start of a process that defines its charts as mappings free of it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeGuard

#: Attributes that a state of ``transitions`` may carry, under the names of our mappings.
_STATE_ATTRIBUTES = ("on_enter", "on_exit", "on_final", "ignore_invalid_triggers", "timeout", "on_timeout", "tags", "label")
_MACHINE_CALLBACKS = ("before_state_change", "after_state_change", "prepare_event", "finalize_event", "on_final")


def is_machine(item: object) -> TypeGuard[Any]:
    """Whether the object is a machine of ``transitions``, of any kind."""
    core = sys.modules.get("transitions.core")
    return core is not None and isinstance(item, core.Machine)


def is_state(item: object) -> TypeGuard[Any]:
    """Whether the object is a state of ``transitions``, nested or not."""
    core = sys.modules.get("transitions.core")
    return core is not None and isinstance(item, core.State)


def describe_machine(machine: Any) -> dict[str, Any]:
    """The machine as a mapping that :func:`jumpstarter.states.reader.read` understands. The machine is not changed."""
    separator = getattr(machine.state_cls, "separator", "_")
    described = _describe_scope(machine, separator, auto=machine.auto_transitions)
    described["separator"] = separator
    described["send_event"] = machine.send_event
    described["ignore_invalid_triggers"] = machine.ignore_invalid_triggers
    described["on_error"] = list(machine.on_exception)
    described.update({key: list(getattr(machine, key)) for key in _MACHINE_CALLBACKS})
    if machine.name:
        described["name"] = machine.name.removesuffix(": ")
    return described


def describe_state(state: Any, separator: str | None = None) -> dict[str, Any]:
    """The state, with all that is nested in it, as a mapping."""
    separator = separator or str(getattr(state, "separator", "_"))
    described = _describe_scope(state, separator, auto=False)
    described["name"] = state.value
    described["final"] = bool(state.final)
    for key in _STATE_ATTRIBUTES:
        value = getattr(state, key, None)
        if value not in (None, [], ()) and not (key == "timeout" and value == 0):
            described[key] = value
    return described


def _describe_scope(scope: Any, separator: str, *, auto: bool) -> dict[str, Any]:
    states = getattr(scope, "states", {})
    described: dict[str, Any] = {
        "states": [describe_state(state, separator) for state in states.values()],
        "transitions": list(_describe_events(scope, auto=auto)),
    }
    initial = getattr(scope, "initial", None)
    if initial not in (None, [], ()):
        described["initial"] = initial
    return described


def _describe_events(scope: Any, *, auto: bool) -> Iterator[dict[str, Any]]:
    for event in getattr(scope, "events", {}).values():
        for transition in _in_order(event.transitions):
            # `to_<state>` exists from every state, also from final ones, where only the library thinks that it can be taken.
            if auto and event.name == f"to_{transition.dest}" and _is_final(scope, transition.source):
                continue
            yield _describe_transition(event.name, transition)


def _in_order(by_source: Mapping[str, Iterable[Any]]) -> Iterator[Any]:
    for transitions in by_source.values():
        yield from transitions


def _is_final(scope: Any, source: str) -> bool:
    state = scope.states.get(source)
    return state is not None and bool(state.final)


def _describe_transition(trigger: str, transition: Any) -> dict[str, Any]:
    return {
        "trigger": [trigger],  # a list, so that a name with a space in it stays one name
        "source": transition.source,
        "dest": transition.dest,
        "conditions": [condition.func for condition in transition.conditions if condition.target],
        "unless": [condition.func for condition in transition.conditions if not condition.target],
        "prepare": list(transition.prepare),
        "before": list(transition.before),
        "after": list(transition.after),
    }

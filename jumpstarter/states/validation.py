"""Find the contradictions of a definition before anything runs on it.

Comes from: reader. Goes to: tables. Each check raises DefinitionError, which names the chart, the state and what to do.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, combinations

from jumpstarter.errors import DefinitionError
from jumpstarter.states.definition import Callback, Definition, StateSpec, TransitionSpec
from jumpstarter.states.guards import parse_in
from jumpstarter.states.hooks import problem_with


def validate(definition: Definition, model_class: type | None) -> None:
    """Check everything.

    :raises DefinitionError: at the first thing that is wrong.
    """
    for state in definition.root.walk():
        _check_state(definition, state)
    for transition in definition.transitions:
        _check_transition(definition, transition)
    _check_callbacks(definition, model_class)
    if not definition.lenient:
        _check_ambiguity(definition)
        _check_reachability(definition)


def adopt_methods(definition: Definition, model_class: type) -> None:
    """Make the model's ``on_enter_<state>``, ``on_exit_<state>`` and ``on_final_<state>`` methods hooks; parts of a path are
    joined by underscores."""
    for state in definition.root.walk():
        if state.history or state is definition.root:
            continue
        for kind in ("on_enter", "on_exit", "on_final"):
            name = f"{kind}_{state.path.replace('.', '_')}"
            hooks: list[Callback] = getattr(state, kind)
            if inspect.isfunction(inspect.getattr_static(model_class, name, None)) and name not in hooks:
                hooks.append(name)


def _check_state(definition: Definition, state: StateSpec) -> None:
    if state.history:
        _check_history(definition, state)
        return
    if state.final:
        _check_final(definition, state)
    if state.initial and not state.children:
        raise _wrong(definition, state, "it has an initial state but no states inside; give it `states` or leave `initial` out")
    if state.parallel:
        _check_parallel(definition, state)
    elif state.children and all(child.history for child in state.children):
        raise _wrong(definition, state, "there is nothing inside it but history; give it states")


def _check_history(definition: Definition, state: StateSpec) -> None:
    parent = state.parent
    assert parent is not None
    if parent is definition.root:
        raise _wrong(definition, state, "a history state needs a parent whose history it is; put it inside a state")
    if state.children or state.final or state.on_enter or state.on_exit or state.postpone or state.timeout is not None:
        raise _wrong(
            definition, state, "a history state is never active: it has no states, hooks, postpone or timeout, and is not final"
        )
    if not state.initial:
        raise _wrong(definition, state, "nothing says where it leads before anything is recorded; give it a `default`")
    for target in state.initial:
        if target is not parent and parent not in target.ancestors():
            raise _wrong(definition, state, f"its default {target.path!r} is not inside {parent.path!r}, whose history it is")


def _check_final(definition: Definition, state: StateSpec) -> None:
    if state.children:
        raise _wrong(definition, state, "a final state has no states inside; make one of its children final instead")
    if state.postpone:
        raise _wrong(definition, state, "a final state cannot postpone events: it would never be left")


def _check_parallel(definition: Definition, state: StateSpec) -> None:
    regions = [child for child in state.children if not child.history]
    if len(regions) < 1:
        raise _wrong(definition, state, "a parallel state needs regions; list them under `parallel`")
    if state.initial:
        entered = {region for target in state.initial for region in regions if region is target or region in target.ancestors()}
        missing = [region.path for region in regions if region not in entered]
        if missing and not any(target.history for target in state.initial):
            why = f"a parallel state enters all that is inside it, and `initial` leaves out {', '.join(missing)}"
            raise _wrong(definition, state, f"{why}; add it, or name one initial state")
    _check_together(definition, state, state.initial)


def _check_transition(definition: Definition, transition: TransitionSpec) -> None:
    source = transition.source
    if source.final:
        raise _wrong(definition, source, f"a final state is not left, but {_described(transition)}; remove one of the two")
    if source.history:
        raise _wrong(definition, source, f"a history state is never active, but {_described(transition)}; use its `default`")
    if not transition.triggers and not transition.conditions and (not transition.targets or transition.targets == [source]):
        raise _wrong(definition, source, f"{_described(transition)} would be taken for ever; give it a condition or a trigger")
    _check_together(definition, source, transition.targets)


def _check_together(definition: Definition, state: StateSpec, targets: Sequence[StateSpec]) -> None:
    """Several targets of one transition must be in different regions."""
    for one, other in combinations(targets, 2):
        inner = {id(ancestor) for ancestor in chain([one], one.ancestors())}
        common = next(ancestor for ancestor in chain([other], other.ancestors()) if id(ancestor) in inner)
        if not common.parallel or common in (one, other):
            raise _wrong(definition, state, f"{one.path!r} and {other.path!r} cannot be entered together; they are not parallel")


def _check_callbacks(definition: Definition, model_class: type | None) -> None:
    for state in definition.root.walk():
        hooks = chain(state.on_enter, state.on_exit, state.on_final, state.on_error, state.on_timeout)
        _check_hooks(definition, state, hooks, model_class)
    frame = (definition.before_state_change, definition.after_state_change, definition.prepare_event, definition.finalize_event)
    _check_hooks(definition, None, chain(*frame), model_class)
    for transition in definition.transitions:
        hooks = chain(transition.prepare, transition.before, transition.action, transition.after)
        _check_hooks(definition, transition.source, hooks, model_class)
        for guard, _ in transition.conditions:
            _check_guard(definition, transition, guard, model_class)


def _check_hooks(definition: Definition, state: StateSpec | None, hooks: Iterable[Callback], model_class: type | None) -> None:
    for hook in hooks:
        problem = problem_with(hook, model_class, guard=False)
        if problem:
            raise _wrong(definition, state, problem)


def _check_guard(definition: Definition, transition: TransitionSpec, guard: Callback, model_class: type | None) -> None:
    inside = parse_in(guard)
    if inside is not None:
        definition.lookup.find(transition.source, inside[0], what="In()", where=transition.source.path)
        return
    problem = problem_with(guard, model_class, guard=True)
    if problem:
        raise _wrong(definition, transition.source, problem)


def _check_ambiguity(definition: Definition) -> None:
    """Two transitions of one state, for one event, that nothing tells apart: the second could never be taken."""
    seen: dict[tuple[StateSpec, str], TransitionSpec] = {}
    for transition in definition.transitions:
        if transition.conditions:
            continue
        for trigger in transition.triggers or ("",):
            key = (transition.source, trigger)
            if key in seen:
                why = f"ambiguous: {_described(seen[key])}, and {_described(transition)}; guard the first one or remove one"
                raise _wrong(definition, transition.source, why)
            seen[key] = transition


def _check_reachability(definition: Definition) -> None:
    reached = _reached(definition)
    for state in definition.root.walk():
        if state not in reached and not state.history:
            parent = state.parent
            assert parent is not None
            remedy = "lead a transition to it or remove it"
            if parent in reached and not parent.initial and not parent.parallel:
                remedy += f", or give {parent.path!r} an `initial`: it has none, so it is entered alone"
            raise _wrong(definition, state, f"it is unreachable; {remedy}")


def _reached(definition: Definition) -> set[StateSpec]:
    """All states that can be entered, whatever the guards say."""
    outgoing: dict[StateSpec, list[TransitionSpec]] = {}
    for transition in definition.transitions:
        outgoing.setdefault(transition.source, []).append(transition)
    reached: set[StateSpec] = set()
    waiting: list[StateSpec] = [definition.root]
    while waiting:
        state = waiting.pop()
        if state not in reached:
            reached.add(state)
            waiting += _brought_along(state)
            waiting += (target for transition in outgoing.get(state, ()) for target in transition.targets)
    return reached


def _brought_along(state: StateSpec) -> Iterator[StateSpec]:
    """What is entered with a state: what is around it, and what is inside by default."""
    if state.parent is not None:
        yield state.parent
    yield from state.initial
    if state.parallel:
        yield from (child for child in state.children if not child.history)


def _described(transition: TransitionSpec) -> str:
    trigger = "/".join(transition.triggers)
    target = " ".join(target.path for target in transition.targets) or "nothing"
    return f"a transition {f'on {trigger!r}' if trigger else 'without a trigger'} leads from {transition.source.path} to {target}"


def _wrong(definition: Definition, state: StateSpec | None, why: str) -> DefinitionError:
    return DefinitionError(definition.name, why, state=state.path or None if state else None)

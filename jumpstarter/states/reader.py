"""Read a definition (a mapping, an enum, a machine of `transitions`) into one tree of states and one list of transitions.

Comes from: Chart.compile. Goes to: validation, then tables. The form of the mappings is described in ``docs/reference/charts.md``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import Enum, EnumMeta
from typing import Any, Literal

from jumpstarter.errors import DefinitionError
from jumpstarter.states import machines
from jumpstarter.states.definition import (
    Callback,
    Definition,
    Lookup,
    StateSpec,
    TransitionSpec,
    TransitionType,
    done_event,
    text_of,
    timeout_event,
)

_SCOPE_KEYS = frozenset({"name", "initial", "states", "children", "parallel", "transitions", "on_final", "on_error"})
_STATE_KEYS = _SCOPE_KEYS | {
    "on_enter",
    "on_exit",
    "final",
    "history",
    "default",
    "postpone",
    "timeout",
    "on_timeout",
    "ignore_invalid_triggers",
    "tags",
    "label",
    "remap",
}
_CHART_KEYS = _SCOPE_KEYS | {
    "separator",
    "send_event",
    "ignore_invalid_triggers",
    "before_state_change",
    "after_state_change",
    "prepare_event",
    "finalize_event",
    "on_exception",
    "auto_transitions",
    "lenient",
    "postpone_limit",
    # In the markup of `transitions`; they say nothing about a chart.
    "models",
    "model_attribute",
    "model_override",
    "queued",
}
_TRANSITION_KEYS = frozenset(
    {"trigger", "source", "dest", "conditions", "unless", "prepare", "before", "action", "after", "internal", "type", "label"}
)
_POSITIONS = ("trigger", "source", "dest", "conditions", "unless", "before", "after", "prepare")
_DEFAULT_POSTPONE_LIMIT = 1_000


def read(source: object, name: str | None = None) -> Definition:
    """Read a definition in any accepted form.

    :param source: a mapping, a machine of ``transitions``, or an enum class whose members are the states.
    :param name: the chart's name; defaults to the definition's own ``name``, then to ``chart``.
    :raises DefinitionError: it cannot be understood.
    """
    if machines.is_machine(source):
        source = machines.describe_machine(source)
    elif isinstance(source, EnumMeta):
        source = {"states": source, "initial": next(iter(source), None)}
    if not isinstance(source, Mapping):
        raise DefinitionError(
            name or "chart", f"a definition is a mapping, a machine of `transitions` or an enum class, not {type(source).__name__}"
        )
    owner = name or str(source.get("name") or "chart")
    return _Reader(owner, str(source.get("separator") or "_")).read(source)


def listed(value: object) -> list[Any]:
    """One thing or many as a list; None is none."""
    if value is None:
        return []
    if isinstance(value, EnumMeta | list | tuple | set | frozenset):
        return list(value)
    return [value]


class _Reader:
    """Two passes: the tree of states first, then everything that refers to them."""

    def __init__(self, owner: str, separator: str) -> None:
        self._owner = owner
        self._lookup = Lookup(owner, separator)
        self._initials: list[tuple[StateSpec, list[Any]]] = []
        #: States that ignore invalid triggers although the chart does not.
        self._tolerant: set[StateSpec] = set()
        self._transitions: list[tuple[StateSpec, Any, Mapping[str, Any]]] = []

    def read(self, body: Mapping[str, Any]) -> Definition:
        self._only(body, _CHART_KEYS, "a chart", None)
        root = StateSpec(name=self._owner, path="", parent=None)
        self._scope(root, body)
        root.on_final = self._callbacks(body, "on_final", None)
        root.on_error = self._callbacks(body, "on_error", None) + self._callbacks(body, "on_exception", None)
        if not root.children:
            raise DefinitionError(self._owner, "it has no states; give it at least one under `states`")
        self._strictness(root, body.get("ignore_invalid_triggers"))
        self._resolve_initials(root)
        transitions = self._resolve_transitions()
        transitions += [_timeout_transition(state) for state in root.walk() if state.on_timeout]
        if body.get("auto_transitions"):
            transitions += _auto_transitions(root)
        return Definition(
            name=self._owner,
            root=root,
            transitions=transitions,
            send_event=bool(body.get("send_event")),
            lenient=bool(body.get("lenient")),
            postpone_limit=self._postpone_limit(body.get("postpone_limit", _DEFAULT_POSTPONE_LIMIT)),
            before_state_change=self._callbacks(body, "before_state_change", None),
            after_state_change=self._callbacks(body, "after_state_change", None),
            prepare_event=self._callbacks(body, "prepare_event", None),
            finalize_event=self._callbacks(body, "finalize_event", None),
            lookup=self._lookup,
        )

    # -- first pass: the tree --

    def _scope(self, scope: StateSpec, body: Mapping[str, Any]) -> None:
        """Read what a chart and a state have in common: children, their initial and their transitions."""
        parallel = body.get("parallel")
        children = parallel if parallel and parallel is not True else body.get("children", body.get("states"))
        scope.parallel = bool(parallel)
        remap = {text_of(old) or "": new for old, new in dict(body.get("remap") or {}).items()}
        self._initials.append((scope, listed(body.get("default" if scope.history else "initial"))))
        for item in listed(children):
            self._item(scope, item, remap)
        for transition in _transition_list(body.get("transitions")):
            self._transitions.append((scope, transition, remap))

    def _item(self, scope: StateSpec, item: Any, remap: Mapping[str, Any]) -> None:
        """Read one element of a list of states."""
        if machines.is_machine(item):
            self._embed(scope, machines.describe_machine(item), remap)
        elif machines.is_state(item):
            self._state(scope, machines.describe_state(item), remap)
        elif isinstance(item, str):
            self._text(scope, item, remap)
        elif isinstance(item, Enum):
            self._state(scope, _enum_body(item), remap)
        elif isinstance(item, Mapping) and "name" not in item and ("states" in item or "children" in item):
            self._embed(scope, item, remap)
        elif isinstance(item, Mapping):
            self._state(scope, item, remap)
        else:
            why = f"a state is a name, a mapping, an enum member or a machine, not {item!r}"
            raise DefinitionError(self._owner, why, state=scope.path or None)

    def _embed(self, scope: StateSpec, body: Mapping[str, Any], remap: Mapping[str, Any]) -> None:
        """Read a whole machine whose states become children of this scope. ``remap``: its states that are states outside it."""
        for item in listed(body.get("states", body.get("children"))):
            self._item(scope, item, remap)
        for transition in _transition_list(body.get("transitions")):
            self._transitions.append((scope, transition, remap))
        for known, initial in self._initials:
            if known is scope and not initial:
                initial.extend(listed(body.get("initial")))

    def _text(self, scope: StateSpec, text: str, remap: Mapping[str, Any]) -> None:
        """Read a state that is only a name; ``a.b`` is a child of ``a``, which is made when it is not there."""
        first, dot, rest = text.partition(".")
        known = next((child for child in scope.children if child.name == first), None)
        if known is None or not dot:
            self._state(scope, {"name": first}, remap)
        if dot:
            self._text(scope.children[-1] if known is None else known, rest, remap)

    def _state(self, scope: StateSpec, body: Mapping[str, Any], remap: Mapping[str, Any]) -> None:
        value = body.get("name")
        name = text_of(value)
        if name in remap:
            return
        self._only(body, _STATE_KEYS, "a state", name)
        if not name or "." in name or name != name.strip():
            why = f"{value!r} cannot be the name of a state: it must be a word without dots (they separate the parts of a path)"
            raise DefinitionError(self._owner, why, state=scope.path or None)
        path = f"{scope.path}.{name}" if scope.path else name
        if any(child.name == name for child in scope.children):
            raise DefinitionError(self._owner, "it is defined twice; rename one of them", state=path)
        state = StateSpec(name=name, path=path, parent=scope, value=value if isinstance(value, Enum) else None)
        scope.children.append(state)
        self._lookup.add(state)
        self._attributes(state, body)
        self._scope(state, body)

    def _attributes(self, state: StateSpec, body: Mapping[str, Any]) -> None:
        for key in ("on_enter", "on_exit", "on_final", "on_error", "on_timeout"):
            setattr(state, key, self._callbacks(body, key, state.path))
        state.final = bool(body.get("final"))
        state.history = self._history(state, body.get("history"))
        path = state.path
        if "default" in body and not state.history:
            raise DefinitionError(self._owner, "only a history state has a `default`; it may have an `initial`", state=path)
        if "initial" in body and state.history:
            raise DefinitionError(
                self._owner, "a history state has no `initial`; where it leads at first is its `default`", state=path
            )
        state.postpone = self._events(body.get("postpone"), "postpone", state.path)
        state.timeout = self._timeout(state, body.get("timeout"))
        state.tags = tuple(str(tag) for tag in listed(body.get("tags")))
        state.label = None if body.get("label") is None else str(body["label"])
        ignore = body.get("ignore_invalid_triggers")
        state.strict = ignore is False
        if ignore is True:
            self._tolerant.add(state)

    def _strictness(self, root: StateSpec, ignore: object) -> None:
        """``ignore_invalid_triggers=False`` of the chart counts for each state that does not say otherwise."""
        if ignore is False:
            for state in root.walk():
                state.strict = state not in self._tolerant

    def _history(self, state: StateSpec, value: object) -> Literal["shallow", "deep"] | None:
        if value in (None, False):
            return None
        if value == "shallow" or value is True:
            return "shallow"
        if value == "deep":
            return "deep"
        raise DefinitionError(self._owner, f"history must be 'shallow' or 'deep', not {value!r}", state=state.path)

    def _timeout(self, state: StateSpec, value: object) -> float | None:
        if value is None:
            if state.on_timeout:
                raise DefinitionError(self._owner, "it has on_timeout hooks but no timeout (seconds)", state=state.path)
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise DefinitionError(self._owner, f"timeout must be a number of seconds above 0, not {value!r}", state=state.path)
        return float(value)

    def _postpone_limit(self, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise DefinitionError(self._owner, f"postpone_limit must be a whole number above 0, not {value!r}")
        return value

    def _callbacks(self, body: Mapping[str, Any], key: str, where: str | None) -> list[Callback]:
        found = listed(body.get(key))
        for callback in found:
            if not isinstance(callback, str) and not callable(callback):
                why = f"{key} must be a callable or the name of one, and {callback!r} is neither (it is not callable)"
                raise DefinitionError(self._owner, why, state=where)
        return found

    def _events(self, value: object, what: str, where: str | None) -> tuple[str, ...]:
        """Names of events, some with a ``*`` at their end; one string may hold several, parted by spaces."""
        # A list holds names as they are; `transitions` allows any attribute name there.
        names = [str(name) for name in listed(value)] if not isinstance(value, str) else value.split()
        for name in names:
            if "*" in name and name != "*" and (not name.endswith(".*") or "*" in name[:-1]):
                why = f"{what} {name!r}: a star stands alone (any event) or at the end (`order.*`)"
                raise DefinitionError(self._owner, why, state=where)
        return tuple(names)

    def _only(self, body: Mapping[str, Any], known: Iterable[str], what: str, where: str | None) -> None:
        unknown = sorted(str(key) for key in body if key not in known)
        if unknown:
            raise DefinitionError(
                self._owner, f"{what} has no {', '.join(map(repr, unknown))}; it may have {', '.join(sorted(known))}", state=where
            )

    # -- second pass: what refers to states --

    def _resolve_initials(self, root: StateSpec) -> None:
        for scope, references in self._initials:
            if scope.history:
                continue
            scope.initial = [self._inner(scope, reference) for reference in references]
            if len({_child_towards(scope, state) for state in scope.initial}) > 1:
                scope.parallel = True  # a list of initial states is how `transitions` says parallel
        if not root.initial and not root.parallel:
            root.initial = [next((child for child in root.children if not child.history), root.children[0])]
        for scope, references in self._initials:
            if scope.history:
                scope.initial = self._history_default(scope, references)

    def _inner(self, scope: StateSpec, reference: object) -> StateSpec:
        """The state below this scope that ``initial`` means."""
        text = text_of(reference)
        hit = self._lookup.below(scope, text) if text is not None else None
        if hit is None:
            hit = self._lookup.find(scope, reference, what="initial")
        if scope not in hit.ancestors():
            raise DefinitionError(self._owner, f"initial {hit.path!r} is not a state inside it", state=scope.path or None)
        return hit

    def _history_default(self, state: StateSpec, references: list[Any]) -> list[StateSpec]:
        parent = state.parent
        assert parent is not None
        if references:
            return [self._lookup.find(parent, reference, what="the default", where=state.path) for reference in references]
        return list(parent.initial) or ([parent] if parent.parallel else [])

    def _resolve_transitions(self) -> list[TransitionSpec]:
        # Scopes were read from the inside out. So of the transitions of one state those written further inside come first, as in
        # `transitions`, and of those in one list the first.
        return [
            spec
            for scope, body, remap in self._transitions
            for spec in self._transition(scope, self._transition_body(scope, body), remap)
        ]

    def _transition_body(self, scope: StateSpec, body: Any) -> Mapping[str, Any]:
        if isinstance(body, list | tuple):
            body = dict(zip(_POSITIONS, body, strict=False))
        if not isinstance(body, Mapping):
            raise DefinitionError(self._owner, f"a transition is a mapping or a list, not {body!r}", state=scope.path or None)
        self._only(body, _TRANSITION_KEYS, "a transition", scope.path or None)
        for key in ("trigger", "dest"):
            if key not in body:
                remedy = "'' makes it eventless" if key == "trigger" else "None leaves and enters nothing"
                raise DefinitionError(
                    self._owner, f"the transition {dict(body)!r} has no {key!r} ({remedy})", state=scope.path or None
                )
        return body

    def _transition(self, scope: StateSpec, body: Mapping[str, Any], remap: Mapping[str, Any]) -> Iterator[TransitionSpec]:
        where = scope.path or None
        callbacks = {
            key: self._callbacks(body, key, where) for key in ("conditions", "unless", "prepare", "before", "action", "after")
        }
        conditions = [(guard, True) for guard in callbacks.pop("conditions")] + [
            (guard, False) for guard in callbacks.pop("unless")
        ]
        for source in self._sources(scope, body, remap):
            targets = self._targets(scope, source, body["dest"], remap)
            yield TransitionSpec(
                source=source,
                targets=targets,
                triggers=self._triggers(scope, body["trigger"]),
                type=self._type(source, targets, body),
                conditions=conditions,
                **callbacks,
            )

    def _sources(self, scope: StateSpec, body: Mapping[str, Any], remap: Mapping[str, Any]) -> list[StateSpec]:
        reference = body.get("source")
        if reference is None:
            if scope.parent is None:
                raise DefinitionError(self._owner, f"the transition {dict(body)!r} has no source; '*' means every state")
            return [scope]
        if reference == "*":
            states = scope.walk() if body["dest"] == "=" else iter(scope.children)
            return [state for state in states if state is not scope and not state.final and not state.history]
        references = [one for one in listed(reference) if text_of(one) not in remap]
        return [self._lookup.find(scope, one, what="source") for one in references]

    def _targets(self, scope: StateSpec, source: StateSpec, dest: Any, remap: Mapping[str, Any]) -> list[StateSpec]:
        if dest == "=":
            return [source]
        found = []
        for reference in listed(dest):
            name = text_of(reference)
            if name is not None and name in remap and scope.parent is not None:
                found.append(self._lookup.find(scope.parent, remap[name], what="the remapped state", where=scope.path))
            else:
                found.append(self._lookup.find(scope, reference, what="dest", where=source.path))
        return found

    def _type(self, source: StateSpec, targets: list[StateSpec], body: Mapping[str, Any]) -> TransitionType:
        kind: TransitionType = body.get("type") or ("internal" if body.get("internal") else "local")
        if kind not in ("local", "external", "internal"):
            raise DefinitionError(self._owner, f"type must be local, external or internal, not {kind!r}", state=source.path)
        if kind == "internal" and not all(source in target.ancestors() for target in targets):
            why = (
                "an internal transition leads to a state inside its source; use dest=None to enter nothing, or leave `internal` out"
            )
            raise DefinitionError(self._owner, why, state=source.path)
        return kind

    def _triggers(self, scope: StateSpec, value: object) -> tuple[str, ...]:
        if value is None or value == "":
            return ()
        names = self._events(value, "trigger", scope.path or None)
        if "" in names or not names:
            raise DefinitionError(self._owner, f"a trigger in {value!r} is empty", state=scope.path or None)
        return tuple(self._canonical(scope, name) for name in names)

    def _canonical(self, scope: StateSpec, name: str) -> str:
        """``done.<state>`` and ``timeout.<state>`` with the state's full path, under which the kernel raises them."""
        kind, dot, rest = name.partition(".")
        if not dot or kind not in ("done", "timeout") or rest.endswith("*"):
            return name
        explicit = kind == "done" and rest.startswith("state.") and self._lookup.look(scope, rest) is None
        state = self._lookup.look(scope, rest.removeprefix("state.") if explicit else rest)
        if explicit and state is None:
            raise DefinitionError(
                self._owner, f"trigger {name!r} names no state{self._lookup.hint(rest)}", state=scope.path or None
            )
        if state is None or (kind == "timeout" and state.timeout is None) or (kind == "done" and not state.children):
            return name
        return done_event(state.path) if kind == "done" else timeout_event(state.path)


def _transition_list(value: object) -> list[Any]:
    """A list of transitions; one that is a list of strings itself is still one transition."""
    return [value] if isinstance(value, Mapping) else listed(value)


def _enum_body(member: Enum) -> dict[str, Any]:
    """An enum member as a state: its value may be an enum of children or a mapping of the state's attributes."""
    if isinstance(member.value, EnumMeta):
        return {"name": member, "children": member.value}
    return {**member.value, "name": member} if isinstance(member.value, Mapping) else {"name": member}


def _child_towards(scope: StateSpec, state: StateSpec) -> StateSpec:
    """The child of the scope in which the state lies."""
    while state.parent is not scope:
        assert state.parent is not None
        state = state.parent
    return state


def _timeout_transition(state: StateSpec) -> TransitionSpec:
    """The hooks in ``on_timeout`` run when the timeout's event comes; nothing is left or entered."""
    return TransitionSpec(state, [], (timeout_event(state.path),), "local", [], [], [], list(state.on_timeout), [])


def _auto_transitions(root: StateSpec) -> list[TransitionSpec]:
    """``to_<path>`` from every top-level state, as ``transitions`` makes them."""
    sources = [child for child in root.children if not child.final and not child.history]
    targets = [state for state in root.walk() if state is not root and not state.history]
    return [
        TransitionSpec(source, [target], (f"to_{target.path.replace('.', '_')}",), "local", [], [], [], [], [])
        for target in targets
        for source in sources
    ]

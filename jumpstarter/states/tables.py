"""Turn a valid definition into tables of numbers: states are bits of an integer, relations between them are masks.

Comes from: validation. Goes to: kernel, which interprets the tables. A configuration is one integer, so that the questions of the
algorithm (which active states lie below this one? do these exit sets meet?) are single operations however many regions there are.

State 0 is the chart itself; it is always active and never reported. Bits follow document order: ancestors come before descendants.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from jumpstarter.states.definition import Callback, Definition, StateSpec, TransitionSpec
from jumpstarter.states.guards import parse_in
from jumpstarter.states.hooks import label_of

#: Where an entry leads: a state, or (from -1 downwards) a history state.
Target = int


@dataclass(frozen=True, slots=True)
class Check:
    """One condition of a transition: what must come out of a guard.

    :ivar mask: for ``In(state)``, the bit of that state; 0 for a guard that is called.
    :ivar guard: index into :attr:`Tables.guards`; -1 with a mask.
    """

    guard: int
    expected: bool
    mask: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Edge:
    """A transition of one source state. Hooks are indexes into :attr:`Tables.hooks`."""

    number: int
    source: int
    targets: tuple[Target, ...]
    triggers: tuple[str, ...]
    type: str
    checks: tuple[Check, ...]
    before: tuple[int, ...]
    action: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class History:
    """A history state. ``scope``: the bits it records, which are all descendants or the children of its parent."""

    path: str
    parent: int
    deep: bool
    scope: int
    default: tuple[Target, ...]


@dataclass(frozen=True, slots=True)
class Guard:
    """Something that is asked before a transition is chosen.

    :ivar hook: what is called; -1 when ``prepare`` is all of it.
    :ivar prepare: hooks to run; the answer is then True.
    """

    label: str
    hook: int
    prepare: tuple[int, ...] = ()


@dataclass(slots=True)
class Tables:
    """The chart as numbers. Written once by :func:`build`, then only read."""

    name: str
    paths: list[str] = field(default_factory=list)
    specs: list[StateSpec] = field(default_factory=list)
    parent: list[int] = field(default_factory=list)
    #: By state: its proper ancestors, its proper descendants, its children, as masks.
    above: list[int] = field(default_factory=list)
    below: list[int] = field(default_factory=list)
    children: list[int] = field(default_factory=list)
    initial: list[tuple[Target, ...]] = field(default_factory=list)
    histories: list[History] = field(default_factory=list)
    #: By state: its own transitions in document order.
    edges: list[list[Edge]] = field(default_factory=list)
    #: By state: the events it postpones.
    postpone: list[tuple[str, ...]] = field(default_factory=list)
    on_enter: list[tuple[int, ...]] = field(default_factory=list)
    on_exit: list[tuple[int, ...]] = field(default_factory=list)
    on_final: list[tuple[int, ...]] = field(default_factory=list)
    on_error: list[tuple[int, ...]] = field(default_factory=list)
    #: Masks over all states.
    parallel: int = 0
    final: int = 0
    atomic: int = 0
    #: Compound states without an initial one: entered alone, they rest there.
    resting: int = 0
    #: States that take it as an error when an event has no transition.
    strict: int = 0
    #: States that have eventless transitions.
    eventless: int = 0
    postponing: int = 0
    hooks: list[Callback] = field(default_factory=list)
    guards: list[Guard] = field(default_factory=list)
    #: Run for each external event: before guards are asked; after all is done.
    prepare_event: tuple[int, ...] = ()
    finalize_event: tuple[int, ...] = ()
    send_event: bool = False
    postpone_limit: int = 0
    lookup: dict[str | Enum, int] = field(default_factory=dict)


def bits(mask: int) -> list[int]:
    """The numbers of the bits that are set, ascending."""
    found = []
    while mask:
        low = mask & -mask
        found.append(low.bit_length() - 1)
        mask ^= low
    return found


def build(definition: Definition) -> Tables:
    """The tables of a definition that was validated."""
    return _Builder(definition).build()


class _Builder:
    def __init__(self, definition: Definition) -> None:
        self._definition = definition
        self._tables = Tables(name=definition.name)
        self._number: dict[StateSpec, int] = {}
        self._hook_numbers: dict[int | str, int] = {}
        self._guard_numbers: dict[int, int] = {}

    def build(self) -> Tables:
        tables, definition = self._tables, self._definition
        tables.send_event = definition.send_event
        tables.postpone_limit = definition.postpone_limit
        self._count_states(definition.root)
        for state, number in self._number.items():
            if number >= 0:
                self._state(state, number)
        self._histories()
        for transition in definition.transitions:
            self._edge(transition)
        tables.prepare_event = self._hooks(definition.prepare_event)
        tables.finalize_event = self._hooks(definition.finalize_event)
        tables.lookup = {name: self._number[state] for name, state in definition.lookup.names() if not state.history}
        return tables

    def _count_states(self, root: StateSpec) -> None:
        """Number the states in document order, and history states from -1 downwards."""
        real, histories = 0, -1
        for state in root.walk():
            if state.history:
                self._number[state] = histories
                histories -= 1
            else:
                self._number[state] = real
                real += 1

    def _state(self, state: StateSpec, number: int) -> None:
        tables = self._tables
        bit = 1 << number
        ancestors = [self._number[ancestor] for ancestor in state.ancestors()]
        tables.paths.append(state.path)
        tables.specs.append(state)
        tables.parent.append(ancestors[0] if ancestors else 0)
        tables.above.append(_mask(ancestors))
        tables.below.append(0)
        tables.children.append(_mask(self._number[child] for child in state.children if not child.history))
        for ancestor in ancestors:
            tables.below[ancestor] |= bit
        tables.initial.append(tuple(self._number[target] for target in state.initial))
        tables.edges.append([])
        tables.postpone.append(state.postpone)
        tables.on_enter.append(self._hooks(state.on_enter))
        tables.on_exit.append(self._hooks(state.on_exit))
        tables.on_final.append(self._hooks(state.on_final))
        tables.on_error.append(self._hooks(state.on_error))
        tables.parallel |= bit * (state.kind == "parallel")
        tables.final |= bit * (state.kind == "final")
        tables.atomic |= bit * (not state.children)
        tables.resting |= bit * (state.kind == "compound" and not state.initial)
        tables.strict |= bit * state.strict
        tables.postponing |= bit * bool(state.postpone)

    def _histories(self) -> None:
        for state, number in self._number.items():
            if number < 0:
                assert state.parent is not None
                parent = self._number[state.parent]
                deep = state.history == "deep"
                scope = self._tables.below[parent] if deep else self._tables.children[parent]
                default = tuple(self._number[target] for target in state.initial)
                if default == (parent,):  # a parallel parent without a stated default: all its regions
                    default = tuple(bits(self._tables.children[parent]))
                self._tables.histories.append(History(state.path, parent, deep, scope, default))

    def _edge(self, spec: TransitionSpec) -> None:
        tables, definition = self._tables, self._definition
        source = self._number[spec.source]
        edge = Edge(
            number=sum(map(len, tables.edges)),
            source=source,
            targets=tuple(self._number[target] for target in spec.targets),
            triggers=spec.triggers,
            type=spec.type,
            checks=self._checks(spec),
            before=self._hooks([*definition.before_state_change, *spec.before]),
            action=self._hooks(spec.action),
            after=self._hooks([*spec.after, *definition.after_state_change]),
        )
        tables.edges[source].append(edge)
        if not spec.triggers:
            tables.eventless |= 1 << source

    def _checks(self, spec: TransitionSpec) -> tuple[Check, ...]:
        checks = []
        if spec.prepare:
            prepare = self._hooks(spec.prepare)
            self._tables.guards.append(Guard("prepare", -1, prepare))
            checks.append(Check(len(self._tables.guards) - 1, expected=True))
        for callback, expected in spec.conditions:
            inside = parse_in(callback)
            if inside is None:
                checks.append(Check(self._guard(callback), expected))
            else:
                name, positive = inside
                state = self._definition.lookup.find(spec.source, name, what="In()", where=spec.source.path)
                checks.append(Check(-1, expected == positive, 1 << self._number[state]))
        return tuple(checks)

    def _guard(self, callback: Callback) -> int:
        hook = self._hook(callback)
        if hook not in self._guard_numbers:
            self._guard_numbers[hook] = len(self._tables.guards)
            self._tables.guards.append(Guard(self._guard_label(callback), hook))
        return self._guard_numbers[hook]

    def _guard_label(self, callback: Callback) -> str:
        """A name of its own for each guard: several lambdas of one function would share theirs."""
        label = label_of(callback)
        taken = sum(guard.label == label or guard.label.startswith(f"{label}#") for guard in self._tables.guards)
        return f"{label}#{taken + 1}" if taken else label

    def _hooks(self, callbacks: Sequence[Callback]) -> tuple[int, ...]:
        return tuple(self._hook(callback) for callback in callbacks)

    def _hook(self, callback: Callback) -> int:
        # By identity, as callables need not be hashable. The list of hooks keeps them alive, so that ids stay theirs. A bound
        # method is a new object at each access and gets a number each time, which costs nothing.
        key = callback if isinstance(callback, str) else id(callback)
        if key not in self._hook_numbers:
            self._hook_numbers[key] = len(self._tables.hooks)
            self._tables.hooks.append(callback)
        return self._hook_numbers[key]


def _mask(numbers: Iterable[int]) -> int:
    mask = 0
    for number in numbers:
        mask |= 1 << number
    return mask

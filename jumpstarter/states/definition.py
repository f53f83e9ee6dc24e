"""What was defined, with every name resolved: a tree of states, a list of transitions, and how states are found by name.

Comes from: reader. Goes to: validation, tables, diagram. Nothing after the reader knows how a state was spelled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

from jumpstarter.errors import DefinitionError
from jumpstarter.states import machines

Callback = str | Callable[..., Any]
TransitionType = Literal["local", "external", "internal"]


@dataclass(slots=True, eq=False)
class StateSpec:
    """A state as it was defined. The chart itself is the root, with an empty path."""

    name: str
    path: str
    parent: StateSpec | None
    value: Enum | None = None
    children: list[StateSpec] = field(default_factory=list)
    parallel: bool = False
    final: bool = False
    history: Literal["shallow", "deep"] | None = None
    #: Where a default entry leads; for a history state, where it leads while nothing is recorded.
    initial: list[StateSpec] = field(default_factory=list)
    on_enter: list[Callback] = field(default_factory=list)
    on_exit: list[Callback] = field(default_factory=list)
    on_final: list[Callback] = field(default_factory=list)
    on_error: list[Callback] = field(default_factory=list)
    on_timeout: list[Callback] = field(default_factory=list)
    postpone: tuple[str, ...] = ()
    timeout: float | None = None
    tags: tuple[str, ...] = ()
    label: str | None = None
    strict: bool = False

    @property
    def kind(self) -> str:
        """One word: shallow, deep, final, parallel, compound or atomic."""
        if self.history:
            return self.history
        if self.final:
            return "final"
        if self.parallel:
            return "parallel"
        return "compound" if self.children else "atomic"

    def ancestors(self) -> Iterator[StateSpec]:
        """From the parent up to the root."""
        state = self.parent
        while state is not None:
            yield state
            state = state.parent

    def walk(self) -> Iterator[StateSpec]:
        """The state and all below it, in document order."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(slots=True, eq=False)
class TransitionSpec:
    """A transition of one source. No triggers: eventless. No targets: nothing is left or entered."""

    source: StateSpec
    targets: list[StateSpec]
    triggers: tuple[str, ...]
    type: TransitionType
    conditions: list[tuple[Callback, bool]]
    prepare: list[Callback]
    before: list[Callback]
    action: list[Callback]
    after: list[Callback]


@dataclass(slots=True, eq=False)
class Definition:
    """All that was defined, with every name resolved."""

    name: str
    root: StateSpec
    transitions: list[TransitionSpec]
    send_event: bool
    lenient: bool
    postpone_limit: int
    before_state_change: list[Callback]
    after_state_change: list[Callback]
    prepare_event: list[Callback]
    finalize_event: list[Callback]
    lookup: Lookup


class Lookup:
    """Finds states by path, by any unique ending of a path, and by enum member."""

    def __init__(self, owner: str, separator: str) -> None:
        self.owner = owner
        self._separators = (".",) if separator == "." else (".", separator)
        self._endings: dict[str, list[StateSpec]] = {}
        self._values: dict[Enum, StateSpec] = {}

    def add(self, state: StateSpec) -> None:
        """Make the state known under its path and all endings of it."""
        parts = state.path.split(".")
        for start in range(len(parts)):
            self._endings.setdefault(".".join(parts[start:]), []).append(state)
        if state.value is not None:
            self._values[state.value] = state

    def names(self) -> Iterator[tuple[str | Enum, StateSpec]]:
        """Every name that means exactly one state: full paths, unique endings, enum members."""
        for ending, found in self._endings.items():
            exact = [state for state in found if state.path == ending]
            if exact or len(found) == 1:
                yield ending, (exact or found)[0]
        yield from self._values.items()

    def find(self, scope: StateSpec, reference: object, *, what: str, where: str | None = None) -> StateSpec:
        """The state that is meant in this scope: looked for in the scope, then in those around it, then anywhere.

        :raises DefinitionError: there is none, or more than one.
        """
        where = scope.path or None if where is None else where
        if isinstance(reference, Enum) and reference in self._values:
            return self._values[reference]
        text = text_of(reference)
        if text is None:
            raise DefinitionError(self.owner, f"{what} must be the name of a state, not {reference!r}", state=where)
        hit = self.look(scope, text)
        if hit is not None:
            return hit
        found = self._endings.get(text, [])
        if len(found) > 1:
            paths = ", ".join(state.path for state in found)
            raise DefinitionError(self.owner, f"{what} {text!r} is ambiguous: it may be {paths}. Write its path.", state=where)
        raise DefinitionError(self.owner, f"{what} {text!r} is not a state{self.hint(text)}", state=where)

    def look(self, scope: StateSpec, text: str) -> StateSpec | None:
        """As :meth:`find`, but None when there is no such state or no single one."""
        for start in (scope, *scope.ancestors()):
            hit = self.below(start, text)
            if hit is not None:
                return hit
        found = self._endings.get(text, ())
        return found[0] if len(found) == 1 else None

    def below(self, scope: StateSpec, text: str) -> StateSpec | None:
        """The state at the relative path, its parts joined by a dot or by the separator of the machine that it came from."""
        for separator in self._separators:
            hit = _descend(scope, text, separator)
            if hit is not None:
                return hit
        return None

    def hint(self, text: str) -> str:
        """What to say after the name of a state that is not there."""
        # Imported here: it costs 2 ms, and only somebody who made a mistake needs it.
        import difflib  # noqa: PLC0415

        close = difflib.get_close_matches(text, [ending for ending in self._endings if ending], n=1)
        return f". Did you mean {close[0]!r}?" if close else f". There are: {', '.join(sorted(self._paths()))}."

    def _paths(self) -> Iterator[str]:
        return (ending for ending, found in self._endings.items() if any(state.path == ending for state in found))


def _descend(scope: StateSpec, text: str, separator: str) -> StateSpec | None:
    for child in scope.children:
        if child.name == text:
            return child
    # Names may contain an underscore, which is also the separator of many machines: try each child that the text begins with.
    for child in scope.children:
        if text.startswith(child.name + separator):
            hit = _descend(child, text[len(child.name) + len(separator) :], separator)
            if hit is not None:
                return hit
    return None


def text_of(reference: object) -> str | None:
    """The name in a reference: a string itself, an enum member's or a state object's name."""
    if isinstance(reference, str):
        return reference
    if isinstance(reference, Enum):
        return reference.name
    if machines.is_state(reference):
        return str(reference.name)
    return None


def done_event(path: str) -> str:
    """The name of the event that is raised when the state is done."""
    return f"done.state.{path}"


def timeout_event(path: str) -> str:
    """The name of the event that a host sends when the state was active for its ``timeout``."""
    return f"timeout.{path}"

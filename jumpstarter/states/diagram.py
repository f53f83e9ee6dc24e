"""Draw a chart as a Mermaid state diagram. Comes from: a definition. Goes to: documentation, and the inspector's live page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from itertools import chain

from jumpstarter.states.definition import Callback, Definition, StateSpec, TransitionSpec
from jumpstarter.states.hooks import label_of

#: Of an arrow; no target: the state is not left.
Ends = tuple[StateSpec, StateSpec | None]

_ACTIVE_STYLE = "classDef active fill:#2f855a,color:#fff,stroke:#22543d"


def mermaid(definition: Definition, *, active: AbstractSet[str] = frozenset()) -> str:
    """The text of a ``stateDiagram-v2``."""
    return "\n".join(_Drawing(definition).lines(active)) + "\n"


class _Drawing:
    def __init__(self, definition: Definition) -> None:
        self._definition = definition
        self._names = _names(definition.root)
        self._outgoing: dict[StateSpec, list[TransitionSpec]] = {}
        self._arrows: dict[StateSpec, dict[Ends, list[TransitionSpec]]] = {}
        for transition in definition.transitions:
            source = transition.source
            self._outgoing.setdefault(source, []).append(transition)
            for target in transition.targets or (None,):
                arrows = self._arrows.setdefault(_frame(source, target or source), {})
                arrows.setdefault((source, target), []).append(transition)

    def lines(self, active: AbstractSet[str]) -> Iterator[str]:
        yield "stateDiagram-v2"
        # Before any arrow: Mermaid takes a state that it was shown already for a plain one.
        for state in self._definition.root.walk():
            if self._is_choice(state):
                yield f"    state {self._names[state]} <<choice>>"
        yield from self._inside(self._definition.root, "    ")
        # Frames stay as they are: their titles would be white on white.
        shown = [self._names[state] for state in self._definition.root.walk() if state.path in active and not state.children]
        if shown:
            yield f"    {_ACTIVE_STYLE}"
            yield f"    class {','.join(shown)} active"

    def _inside(self, scope: StateSpec, indent: str) -> Iterator[str]:
        """What is in the frame of a state, or of the whole."""
        regions = [child for child in scope.children if not child.history]
        # Arrows come first: Mermaid draws a state in the frame in which it was mentioned last.
        if not scope.parallel:
            for first in scope.initial:
                yield f"{indent}[*] --> {self._names[first]}"
        for (source, target), transitions in self._arrows.get(scope, {}).items():
            label = "<br/>".join(_labels(transitions)) + (" (stays)" if target is None else "")
            yield f"{indent}{self._names[source]} --> {self._names[target or source]}" + (f" : {label}" if label else "")
        for child in scope.children:
            if scope.parallel and child in regions[1:]:
                yield f"{indent}--"
            yield from self._state(child, indent)

    def _state(self, state: StateSpec, indent: str) -> Iterator[str]:
        name = self._names[state]
        if state.history:
            yield f'{indent}state "{"H*" if state.history == "deep" else "H"}" as {name}'
            for target in state.initial:
                yield f"{indent}{name} --> {self._names[target]} : default"
            return
        if self._is_choice(state):
            return
        label, notes = _quoted(state.label or state.name), list(_notes(state))
        if state.children:
            # Mermaid takes no lines of text for a state that has others inside.
            yield f'{indent}state "{" · ".join([label, *notes])}" as {name}'
            yield f"{indent}state {name} {{"
            yield from self._inside(state, indent + "    ")
            yield f"{indent}}}"
        else:
            yield f'{indent}state "{label}" as {name}'
            yield from (f"{indent}{name} : {line}" for line in notes)
        if state.final:
            yield f"{indent}{name} --> [*]"

    def _is_choice(self, state: StateSpec) -> bool:
        """A state that is always left at once by one of several ways, and does nothing else, is a choice."""
        outgoing = self._outgoing.get(state, ())
        idle = not (state.children or state.final or state.on_enter or state.on_exit)
        at_once = [transition for transition in outgoing if not transition.triggers]
        return idle and len(at_once) == len(outgoing) > 1 and not all(transition.conditions for transition in at_once)


def _frame(source: StateSpec, target: StateSpec) -> StateSpec:
    """The innermost state around both ends. Between regions Mermaid draws nothing, so then the nearest one that is not parallel."""
    around = list(source.ancestors())
    frame = next(state for state in target.ancestors() if state in around)
    while frame.parallel and frame.parent is not None and source is not target:
        frame = frame.parent
    return frame


def _names(root: StateSpec) -> dict[StateSpec, str]:
    """An identifier for each state that Mermaid accepts, all of them different."""
    names: dict[StateSpec, str] = {}
    taken: set[str] = {"state", "note", "end", "class", "direction", "as"}  # words of Mermaid's own
    for state in root.walk():
        plain = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in state.path) or "root"
        name, count = plain, 2
        while name.lower() in taken:
            name, count = f"{plain}_{count}", count + 1
        taken.add(name.lower())
        names[state] = name
    return names


def _labels(transitions: Sequence[TransitionSpec]) -> Iterator[str]:
    """What leads from one state to another, a line each. Those that differ in their triggers only are one: the labels of arrows
    between the same states would lie on each other."""
    by_rest: dict[str, list[TransitionSpec]] = {}
    for transition in transitions:
        by_rest.setdefault(_guards_and_hooks(transition), []).append(transition)
    for rest, alike in by_rest.items():
        needs_trigger = all(transition.triggers for transition in alike)
        triggers = dict.fromkeys(trigger for transition in alike for trigger in transition.triggers) if needs_trigger else ()
        label = _plain(" ".join(part for part in (" / ".join(triggers), rest) if part))
        if label:
            yield label


def _guards_and_hooks(transition: TransitionSpec) -> str:
    guards = [("" if expected else "not ") + label_of(guard).lstrip("_") for guard, expected in transition.conditions]
    hooks = _public(chain(transition.before, transition.action, transition.after))
    return " ".join([*([f"[{' and '.join(guards)}]"] if guards else []), *([f"/ {', '.join(hooks)}"] if hooks else [])])


def _notes(state: StateSpec) -> Iterator[str]:
    """What a state does, one line each."""
    for word, hooks in (("entry", state.on_enter), ("exit", state.on_exit)):
        if labels := _public(hooks):
            yield _plain(f"{word} / {', '.join(labels)}")
    if state.postpone:
        yield _plain(f"postpones {', '.join(state.postpone)}")
    if state.timeout is not None:
        yield _plain(f"timeout {state.timeout:g} s")


def _public(hooks: Iterable[Callback]) -> list[str]:
    """The labels of those that are not private: what a class does for itself tells its readers nothing."""
    return [label for label in map(label_of, hooks) if not label.startswith("_")]


def _plain(text: str) -> str:
    """Text after a colon: Mermaid takes another colon, a semicolon, and angle brackets for its own."""
    for letter in ";:<>":
        text = text.replace(letter, f"#{ord(letter)};" if letter != ";" else ",")
    return " ".join(text.split())


def _quoted(text: str) -> str:
    return text.replace('"', "'")

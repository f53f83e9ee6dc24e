"""Draw a chart as a Mermaid state diagram. Comes from: a definition. Goes to: documentation, and the inspector's live page."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from itertools import chain

from jumpstarter.states.definition import Definition, StateSpec, TransitionSpec
from jumpstarter.states.hooks import label_of

_ACTIVE_STYLE = "classDef active fill:#2f855a,color:#fff,stroke:#22543d"


def mermaid(definition: Definition, *, active: AbstractSet[str] = frozenset()) -> str:
    """The text of a ``stateDiagram-v2``."""
    return "\n".join(_Drawing(definition).lines(active)) + "\n"


class _Drawing:
    def __init__(self, definition: Definition) -> None:
        self._definition = definition
        self._names = _names(definition.root)
        self._by_frame: dict[StateSpec, list[TransitionSpec]] = {}
        self._outgoing: dict[StateSpec, list[TransitionSpec]] = {}
        for transition in definition.transitions:
            self._outgoing.setdefault(transition.source, []).append(transition)
            for frame in {self._frame(transition, target) for target in transition.targets or [transition.source]}:
                self._by_frame.setdefault(frame, []).append(transition)

    def lines(self, active: AbstractSet[str]) -> Iterator[str]:
        yield "stateDiagram-v2"
        yield from self._inside(self._definition.root, "    ")
        shown = [self._names[state] for state in self._definition.root.walk() if state.path in active and state.path]
        if shown:
            yield f"    {_ACTIVE_STYLE}"
            yield f"    class {','.join(shown)} active"

    def _inside(self, scope: StateSpec, indent: str) -> Iterator[str]:
        """What is in the frame of a state, or of the whole."""
        regions = [child for child in scope.children if not child.history]
        for child in scope.children:
            if scope.parallel and child in regions[1:]:
                yield f"{indent}--"
            yield from self._state(child, indent)
        if not scope.parallel:
            for target in scope.initial:
                yield f"{indent}[*] --> {self._names[target]}"
        for transition in self._by_frame.get(scope, ()):
            yield from self._transition(transition, scope, indent)

    def _state(self, state: StateSpec, indent: str) -> Iterator[str]:
        name = self._names[state]
        if state.history:
            yield f'{indent}state "{"H*" if state.history == "deep" else "H"}" as {name}'
            for target in state.initial:
                yield f"{indent}{name} --> {self._names[target]} : default"
            return
        if self._is_choice(state):
            yield f"{indent}state {name} <<choice>>"
            return
        yield f'{indent}state "{_quoted(state.label or state.name)}" as {name}'
        if state.children:
            yield f"{indent}state {name} {{"
            yield from self._inside(state, indent + "    ")
            yield f"{indent}}}"
        for line in _notes(state):
            yield f"{indent}{name} : {line}"
        if state.final:
            yield f"{indent}{name} --> [*]"

    def _is_choice(self, state: StateSpec) -> bool:
        """A state that is left at once by one of several ways, and does nothing else, is a choice."""
        outgoing = self._outgoing.get(state, ())
        idle = not (state.children or state.final or state.on_enter or state.on_exit)
        return idle and len(outgoing) > 1 and not any(transition.triggers for transition in outgoing)

    def _transition(self, transition: TransitionSpec, frame: StateSpec, indent: str) -> Iterator[str]:
        source = self._names[transition.source]
        label = _label(transition)
        if not transition.targets:
            yield f"{indent}{source} --> {source} : {label} (stays)"
        for target in transition.targets:
            if self._frame(transition, target) is frame:
                yield f"{indent}{source} --> {self._names[target]}" + (f" : {label}" if label else "")

    def _frame(self, transition: TransitionSpec, target: StateSpec) -> StateSpec:
        """The innermost state around both ends. Between regions Mermaid draws nothing, so then the nearest one that is not
        parallel."""
        around = list(transition.source.ancestors())
        frame = next(state for state in target.ancestors() if state in around)
        while frame.parallel and frame.parent is not None and transition.source is not target:
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


def _label(transition: TransitionSpec) -> str:
    guards = [label_of(guard) if expected else f"not {label_of(guard)}" for guard, expected in transition.conditions]
    hooks = [label_of(hook) for hook in chain(transition.before, transition.action, transition.after)]
    parts = [
        " / ".join(transition.triggers),
        f"[{' and '.join(guards)}]" if guards else "",
        f"/ {', '.join(hooks)}" if hooks else "",
    ]
    return _plain(" ".join(part for part in parts if part))


def _notes(state: StateSpec) -> Iterator[str]:
    """What a state does, one line each."""
    for word, hooks in (("entry", state.on_enter), ("exit", state.on_exit)):
        if hooks:
            yield _plain(f"{word} / {', '.join(map(label_of, hooks))}")
    if state.postpone:
        yield _plain(f"postpones {', '.join(state.postpone)}")
    if state.timeout is not None:
        yield _plain(f"timeout {state.timeout:g} s")


def _plain(text: str) -> str:
    """Text after a colon: Mermaid takes another colon, a semicolon, and angle brackets for its own."""
    for letter in ";:<>":
        text = text.replace(letter, f"#{ord(letter)};" if letter != ";" else ",")
    return " ".join(text.split())


def _quoted(text: str) -> str:
    return text.replace('"', "'")

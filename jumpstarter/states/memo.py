"""Remember what the kernel found: a graph of configurations whose edges are events and answers of guards.

Comes from: kernel. Goes to: instance, which walks the graph. A step that was taken once costs a lookup by event and one by answer.

The memory is bounded: a chart with a hundred parallel slots has 2**100 configurations. When `limit` results are held, all are
forgotten; instances keep the node that they stand on, and go on from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from jumpstarter.states import kernel
from jumpstarter.states.kernel import Histories, Listeners, Microstep, Op
from jumpstarter.states.step import Step
from jumpstarter.states.tables import Tables, bits

_LIMIT = 4_096
#: Names of events are open when a chart listens to patterns.
_LISTENERS_LIMIT = 1_024


@dataclass(frozen=True, slots=True)
class Refusal:
    """An event that leads nowhere from a configuration, and how."""

    step: Step
    invalid: bool = False


NOTHING: Final = Refusal(Step(handled=False))
INVALID: Final = Refusal(Step(handled=False), invalid=True)
POSTPONED: Final = Refusal(Step(handled=True, postponed=True))
FINISHED: Final = Refusal(Step(handled=False, done=True))


class Node:
    """A configuration, with what is known to follow from it. ``moves``: by event, empty for eventless transitions."""

    __slots__ = ("_active", "_names", "done", "eventless", "histories", "mask", "moves", "tables")

    def __init__(self, tables: Tables, mask: int, histories: Histories, *, eventless: bool) -> None:
        self.tables = tables
        self.mask = mask
        self.histories = histories
        self.moves: dict[str, Found] = {}
        #: False: whatever guards answer, no eventless transition is enabled here.
        self.eventless = eventless
        #: True: the final state at the top is reached, and no event means anything any more.
        self.done = kernel.is_done(tables, mask, 0)
        self._active: tuple[str, ...] | None = None
        self._names: frozenset[str] | None = None

    @property
    def active(self) -> tuple[str, ...]:
        """The active paths in document order."""
        if self._active is None:
            self._active = paths_of(self.tables, self.mask)
        return self._active

    @property
    def names(self) -> frozenset[str]:
        """The active paths as a set."""
        if self._names is None:
            self._names = frozenset(self.active)
        return self._names


class Move:
    """A microstep that is ready to be carried out."""

    __slots__ = ("node", "ops", "plain", "step")

    def __init__(self, node: Node, step: Step, ops: tuple[Op, ...]) -> None:
        self.node = node
        #: The step that this is when nothing follows it.
        self.step = step
        self.ops = ops
        #: True: nothing to run and nothing to follow.
        self.plain = not ops and not node.eventless and not node.tables.prepare_event and not node.tables.finalize_event


class Choice:
    """A guard to ask. ``yes`` and ``no`` are filled in when they are first needed."""

    __slots__ = ("answers", "guard", "no", "yes")

    def __init__(self, guard: int, answers: dict[int, bool]) -> None:
        self.guard = guard
        self.answers = answers
        self.yes: Found | None = None
        self.no: Found | None = None


Found = Move | Choice | Refusal


def paths_of(tables: Tables, mask: int) -> tuple[str, ...]:
    """The paths of a configuration in document order, without the chart itself."""
    return tuple([tables.paths[state] for state in bits(mask & ~1)])


class Memo:
    """All nodes of a chart. Shared by its instances; safe between threads, where at worst something is computed twice."""

    def __init__(self, tables: Tables, *, limit: int = _LIMIT) -> None:
        self._tables = tables
        self._limit = limit
        self._nodes: dict[tuple[int, Histories], Node] = {}
        self._filled: list[Node] = []
        self._held = 0
        self._listeners: dict[str, Listeners] = {}
        self._initial: Move | None = None

    def __len__(self) -> int:
        return self._held

    def node(self, mask: int, histories: Histories) -> Node:
        """The one node of a configuration."""
        key = (mask, histories)
        found = self._nodes.get(key)
        if found is None:
            found = self._nodes[key] = Node(self._tables, mask, histories, eventless=self._is_restless(mask))
            self._hold()
        return found

    def _is_restless(self, mask: int) -> bool:
        """Whether an eventless transition may be enabled. Most of them wait for ``In()``, whose answer is known here."""
        return bool(mask & self._tables.eventless) and kernel.select(self._tables, mask, self._heard(""), {}) != []

    def start(self) -> Move:
        """The entry into the initial configuration."""
        if self._initial is None:
            self._initial = self._move(kernel.start(self._tables))
        return self._initial

    def find(self, node: Node, event: str) -> Found:
        """What the event leads to, found out if need be."""
        if node.done:
            return FINISHED
        found = node.moves.get(event)
        if found is None:
            heard = self._heard(event)
            if not (heard.sources | heard.postponing) & node.mask:
                # Not kept: names of events may be without number.
                return self._refuse(node.mask, event)
            found = self.explore(node, event, {})
            if not node.moves:
                self._filled.append(node)
            node.moves[event] = found
        return found

    def follow(self, node: Node, event: str, choice: Choice, *, answer: bool) -> Found:
        """What a guard's answer leads to, found out if need be."""
        found = choice.yes if answer else choice.no
        if found is None:
            found = self.explore(node, event, {**choice.answers, choice.guard: answer})
            if answer:
                choice.yes = found
            else:
                choice.no = found
        return found

    def explore(self, node: Node, event: str, answers: dict[int, bool]) -> Found:
        """Ask the kernel, with these answers of guards."""
        tables, mask = self._tables, node.mask
        heard = self._heard(event)
        selected = kernel.select(tables, mask, heard, answers)
        self._hold()
        if isinstance(selected, kernel.Question):
            return Choice(selected.guard, answers)
        if kernel.deferred(tables, mask, heard, selected):
            return POSTPONED
        if not selected:
            return NOTHING
        prevailing = kernel.prevail(tables, mask, node.histories, selected)
        return self._move(kernel.microstep(tables, mask, node.histories, prevailing, event))

    def _move(self, micro: Microstep) -> Move:
        paths = self._tables.paths
        step = Step(
            handled=True,
            transitions=micro.transitions,
            exited=tuple([paths[state] for state in micro.exited]),
            entered=tuple([paths[state] for state in micro.entered]),
            done=micro.done,
        )
        # A done event that nobody listens to would cost each instance a round through its queue.
        ops = tuple([op for op in micro.ops if op.hook >= 0 or self._heard(op.event).sources])
        return Move(self.node(micro.mask, micro.histories), step, ops)

    def _refuse(self, mask: int, event: str) -> Refusal:
        strict = event and kernel.leaves(self._tables, mask) & self._tables.strict
        return INVALID if strict else NOTHING

    def _heard(self, event: str) -> Listeners:
        found = self._listeners.get(event)
        if found is None:
            if len(self._listeners) >= _LISTENERS_LIMIT:
                self._listeners.clear()
            found = self._listeners[event] = kernel.listeners(self._tables, event)
        return found

    def _hold(self) -> None:
        self._held += 1
        if self._held > self._limit:
            self.forget()

    def forget(self) -> None:
        """Drop everything that was remembered."""
        for node in self._filled:
            node.moves.clear()
        self._filled.clear()
        self._nodes.clear()
        self._initial = None
        self._held = 0

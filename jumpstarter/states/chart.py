"""The compiled chart: immutable, shared by all instances of an actor class.

Comes from: reader → validation → tables. Goes to: instances, diagrams, paths. What changes in here is only memory of what was
found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from jumpstarter.errors import ChartError, DefinitionError
from jumpstarter.states import diagram, hooks, kernel, tables, validation
from jumpstarter.states.definition import Definition, timeout_event
from jumpstarter.states.instance import Instance, Rehearsal
from jumpstarter.states.memo import Memo, Node
from jumpstarter.states.reader import read
from jumpstarter.states.step import Snapshot, Step

if TYPE_CHECKING:
    from transitions.extensions import HierarchicalMachine

#: Answers of guards for :meth:`Chart.step`: by name, or a function of the name.
Answers = Mapping[str, bool] | Callable[[str], bool] | None


class Chart:
    """A hierarchical state machine, compiled. Make one with :meth:`compile`.

    :ivar name: what it is called in errors and diagrams.
    :ivar states: the paths of all states in document order, without history states, which are never active.
    :ivar events: all names and patterns that its transitions listen to.
    :ivar guards: the names of its guards, as :meth:`step` asks for them.
    :ivar timeouts: by path, the seconds after which a host sends :meth:`timeout_event`, unless the state was left.
    :ivar tags: by path, the tags of the states that have some.
    :ivar macrostep_limit: microsteps after which a step that does not come to rest is ended.
    """

    def __init__(self, definition: Definition, *, macrostep_limit: int) -> None:
        self.tables = tables.build(definition)
        self.memo = Memo(self.tables)
        self.name = definition.name
        self.macrostep_limit = macrostep_limit
        self.definition = definition
        self.states: tuple[str, ...] = tuple(self.tables.paths[1:])
        self.events: frozenset[str] = frozenset(name for transition in definition.transitions for name in transition.triggers)
        self.guards: tuple[str, ...] = tuple(guard.label for guard in self.tables.guards if guard.hook >= 0)
        self.timeouts: Mapping[str, float] = MappingProxyType(
            {spec.path: spec.timeout for spec in self.tables.specs if spec.timeout is not None}
        )
        self.tags: Mapping[str, tuple[str, ...]] = MappingProxyType(
            {spec.path: spec.tags for spec in self.tables.specs if spec.tags}
        )
        #: By every name of a state, its bit; see :meth:`bit`.
        self.bits: Mapping[str | Enum, int] = {name: 1 << number for name, number in self.tables.lookup.items()}
        # Bound once per class, as signatures are looked at then. Weak: classes made in a function may go.
        self._bound: WeakKeyDictionary[type, tuple[hooks.Call, ...]] = WeakKeyDictionary()

    @classmethod
    def compile(
        cls,
        definition: HierarchicalMachine | type[Enum] | Mapping[str, Any],
        *,
        name: str | None = None,
        model_class: type | None = None,
        macrostep_limit: int = 1000,
    ) -> Chart:
        """Compile a definition.

        :param definition: a mapping (see ``docs/reference/charts.md``), a machine of ``transitions``, or an enum class of states.
        :param name: the chart's name; defaults to the definition's.
        :param model_class: the class of the models, on which the names of callbacks are checked, and whose ``on_enter_<state>``,
            ``on_exit_<state>`` and ``on_final_<state>`` methods are hooks, as ``transitions`` has it. Without it, names are
            checked when an instance is made.
        :param macrostep_limit: microsteps after which :class:`~jumpstarter.errors.MacrostepLimit` is raised.
        :raises DefinitionError: the definition contradicts itself; it names the chart, the state and what to do.
        """
        if macrostep_limit < 1:
            raise DefinitionError(name or "chart", f"macrostep_limit must be at least 1, not {macrostep_limit!r}")
        specification = read(definition, name)
        if model_class is not None:
            validation.adopt_methods(specification, model_class)
        validation.validate(specification, model_class)
        return cls(specification, macrostep_limit=macrostep_limit)

    def __repr__(self) -> str:
        return f"<Chart {self.name}: {len(self.states)} states, {len(self.events)} events>"

    def instance(self, model: object | None = None) -> Instance:
        """A machine of this chart, not started.

        :param model: the object that has the callbacks which the definition names.
        :raises DefinitionError: it lacks one.
        """
        return Instance(self, model)

    def step(self, snapshot: Snapshot | None, event: str | None, guards: Answers = None) -> tuple[Snapshot, Step]:
        """The pure kernel: what the event would lead to, with no hook run and no guard called.

        :param snapshot: where to begin; None enters the initial configuration (then there is no event).
        :param event: what is sent; None only lets eventless transitions happen.
        :param guards: the answers of guards, by name (see :attr:`guards`).
        :raises ChartError: the answer of a guard is needed and not there, or the snapshot does not fit.
        :raises MacrostepLimit: with these answers it does not come to rest.
        """
        rehearsal = Rehearsal(self, self._answering(guards))
        if snapshot is None:
            if event:
                raise ChartError(
                    f"{self.name}: without a snapshot there is only the start; {event!r} can be sent to what comes out of it"
                )
            return self._after(rehearsal, rehearsal.start())
        rehearsal.restore(snapshot)
        return self._after(rehearsal, rehearsal.send(event or ""))

    def _after(self, rehearsal: Rehearsal, step: Step) -> tuple[Snapshot, Step]:
        return rehearsal.snapshot(), step

    def _answering(self, guards: Answers) -> Callable[[str], bool]:
        if callable(guards):
            return guards
        known = guards or {}

        def answer(name: str) -> bool:
            try:
                return known[name]
            except KeyError:
                raise ChartError(f"{self.name}: what comes next depends on guard {name!r}; give its answer in `guards`") from None

        return answer

    def parent(self, state: str | Enum) -> str | None:
        """The path of the state around this one; None at the top."""
        return self.tables.paths[self.tables.parent[self.number(state)]] or None

    def children(self, state: str | Enum | None = None) -> tuple[str, ...]:
        """The paths of the states directly inside; of the top-level ones without an argument."""
        number = 0 if state is None else self.number(state)
        return tuple(self.tables.paths[child] for child in tables.bits(self.tables.children[number]))

    def region(self, state: str | Enum) -> str:
        """The path of the region that the state lies in or is: the innermost child of a parallel state. Empty: the whole chart."""
        return self.tables.paths[kernel.region_of(self.tables, self.number(state))]

    def kind(self, state: str | Enum) -> str:
        """One of ``atomic``, ``compound``, ``parallel``, ``final``."""
        return self.tables.specs[self.number(state)].kind

    def path(self, state: str | Enum) -> str:
        """The full path of a state that is named in any way.

        :raises DefinitionError: there is no such state, or several.
        """
        return self.tables.paths[self.number(state)]

    def active_in(self, snapshot: Snapshot) -> tuple[str, ...]:
        """The paths of all states that are active in a snapshot, in document order.

        :raises ChartError: it does not fit this chart.
        """
        return self.recall(snapshot).active

    def timeout_event(self, state: str | Enum) -> str:
        """The event to send when the state was active for its timeout."""
        return timeout_event(self.path(state))

    def mermaid(self, *, active: Iterable[str] = ()) -> str:
        """The chart as a Mermaid ``stateDiagram-v2``; ``active`` states stand out."""
        return diagram.mermaid(self.definition, active={self.path(state) for state in active})

    # -- for instances --

    def number(self, state: str | Enum) -> int:
        """The state's number in the tables.

        :raises DefinitionError: there is no such state, or several.
        """
        return self.bit(state).bit_length() - 1

    def bit(self, state: str | Enum) -> int:
        """The state's bit in a configuration.

        :raises DefinitionError: there is no such state, or several.
        """
        bit = self.bits.get(state)
        if bit is None:
            found = self.definition.lookup.find(self.definition.root, state, what="state")
            raise DefinitionError(self.name, f"{found.path!r} is a history state, which is never active", state=found.path)
        return bit

    def bind(self, model: object) -> tuple[hooks.Call, ...]:
        """The hooks, ready to be called for models of the class of this one."""
        bound = self._bound.get(type(model))
        if bound is None:
            bound = hooks.bind(self.tables.hooks, model, self.name, send_event=self.tables.send_event)
            self._bound[type(model)] = bound
        return bound

    def error_hooks(self, mask: int) -> list[int]:
        """The ``on_error`` hooks of a configuration, from the inside out."""
        return [hook for state in reversed(tables.bits(mask | 1)) for hook in self.tables.on_error[state]]

    def describe(self, node: Node, postponed: Sequence[tuple[str, Mapping[str, Any]]]) -> Snapshot:
        """A place in the chart as a snapshot."""
        paths = self.tables.paths
        return Snapshot(
            chart=self.name,
            active=[paths[state] for state in tables.bits(kernel.leaves(self.tables, node.mask))],
            history={
                history.path: [paths[state] for state in tables.bits(recorded)]
                for history, recorded in zip(self.tables.histories, node.histories, strict=True)
                if recorded
            },
            postponed=[(event, dict(data)) for event, data in postponed],
        )

    def recall(self, snapshot: Snapshot) -> Node:
        """The place that a snapshot describes.

        :raises ChartError: it does not fit this chart.
        """
        histories = {history.path: history for history in self.tables.histories}
        try:
            mask = self._mask(snapshot["active"])
            recorded = {path: self._recorded(paths) for path, paths in snapshot["history"].items()}
        except DefinitionError as error:
            raise ChartError(f"{self.name}: a snapshot of {snapshot.get('chart')!r} does not fit: {error}") from error
        if recorded.keys() - histories.keys() or not kernel.is_legal(self.tables, mask):
            raise ChartError(
                f"{self.name}: a snapshot of {snapshot['chart']!r} does not fit: {snapshot['active']} is no configuration of it"
            )
        return self.memo.node(mask, tuple(recorded.get(path, 0) for path in histories))

    def _mask(self, paths: Iterable[str]) -> int:
        mask = 1
        for path in paths:
            number = self.number(path)
            mask |= 1 << number | self.tables.above[number]
        return mask

    def _recorded(self, paths: Iterable[str]) -> int:
        mask = 0
        for path in paths:
            mask |= self.bit(path)
        return mask

"""One running machine: a place in its chart, the hooks of its model, and its queues.

Comes from: Chart.instance. Goes to: actors, which hang their activities on the steps. Everything is synchronous; an instance
belongs to one thread at a time, but :meth:`Instance.matches`, :attr:`Instance.active` and :attr:`Instance.configuration` may be
read from any.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from jumpstarter.errors import ChartError, MacrostepLimit, PostponeLimit, UnhandledEvent
from jumpstarter.states.memo import INVALID, POSTPONED, Choice, Found, Move, Node, Refusal, paths_of
from jumpstarter.states.step import Snapshot, Step, Transition

if TYPE_CHECKING:
    from jumpstarter.states.chart import Chart

_QUEUED: Final = Step(handled=True, queued=True)
_NO_DATA: Final[Mapping[str, Any]] = {}
_Waiting = tuple[str, Mapping[str, Any]]


class Instance:
    """A machine of a chart. Made by :meth:`Chart.instance`; between its steps it is at rest.

    :ivar chart: the chart that it runs.
    :ivar model: the object whose attributes the chart's callbacks are.
    :ivar event: name of the event that is under way; eventless transitions leave that of the event which led to them.
    :ivar data: the data that was sent with it.
    :ivar transition: the transition whose hook is running.
    """

    __slots__ = (
        "__weakref__",
        "_busy",
        "_calls",
        "_count",
        "_external",
        "_failing",
        "_internal",
        "_mask",
        "_node",
        "_postponed",
        "chart",
        "data",
        "event",
        "model",
        "transition",
    )

    def __init__(self, chart: Chart, model: object | None = None) -> None:
        self.chart = chart
        self.model = model
        self.event = ""
        self.data = _NO_DATA
        self.transition: Transition | None = None
        self._calls = self._bind()
        self._node: Node | None = None
        #: What is active at this moment: in hooks, between two nodes.
        self._mask = 0
        self._busy = False
        self._failing = False
        self._count = 0
        # Made when first needed: an empty deque takes 0.7 KB.
        self._internal: deque[_Waiting] | None = None
        self._external: deque[_Waiting] | None = None
        self._postponed: tuple[_Waiting, ...] = ()

    def __repr__(self) -> str:
        return f"<Instance of {self.chart.name}: {', '.join(self.active) or 'not started'}>"

    # -- reading --

    @property
    def active(self) -> tuple[str, ...]:
        """The paths of all active states in document order; empty before the start. In a hook: what is active at that moment."""
        node, mask = self._node, self._mask
        return node.active if node is not None and node.mask == mask else paths_of(self.chart.tables, mask)

    @property
    def configuration(self) -> frozenset[str]:
        """The paths of all active states, atomic ones and their ancestors, as a set."""
        node, mask = self._node, self._mask
        return node.names if node is not None and node.mask == mask else frozenset(paths_of(self.chart.tables, mask))

    @property
    def done(self) -> bool:
        """Whether the final state at the top was reached; events mean nothing any more."""
        return self._node is not None and self._node.done

    def matches(self, state: str | Enum) -> bool:
        """Whether a state is active, named by its path, by an ending of it that is unique (``degraded``), or by its enum member.

        :raises DefinitionError: the chart has no such state, or several.
        """
        bit = self.chart.bits.get(state)
        return self._mask & (self.chart.bit(state) if bit is None else bit) != 0

    def can(self, event: str, /, **data: Any) -> bool:
        """Whether the event would be handled now, by a transition or by being postponed. Guards are asked, nothing else happens."""
        if self._node is None:
            return False
        event_before, data_before = self.event, self.data
        self.event, self.data = event, data
        try:
            self._run_hooks(self.chart.tables.prepare_event)
            found = self._choose(self._node, event)
        finally:
            self.event, self.data = event_before, data_before
        return not isinstance(found, Refusal) or found.step.handled

    # -- running --

    def start(self, /, **data: Any) -> Step:
        """Enter the initial configuration, and go on until it is at rest.

        :param data: for the hooks of the states that are entered.
        :raises ChartError: it was started already.
        """
        if self._node is not None or self._busy:
            raise ChartError(f"{self.chart.name} is started already; make another instance")
        return self._run("", data, self._enter)

    def send(self, event: str, /, **data: Any) -> Step:
        """Handle an event, and all that follows from it, to completion. All or nothing: when a hook or a guard raises, everything
        is as it was before, ``on_error`` hooks run, and the error is raised here.

        From inside a hook: the event is queued, behind those that are queued already, and handled before the outer ``send``
        returns.

        :param data: for hooks and guards, which get those items that they have parameters for.
        :raises ChartError: it was not started, or an ``on_error`` hook tries to send.
        :raises MacrostepLimit: it does not come to rest.
        :raises UnhandledEvent: nothing listens, and ``ignore_invalid_triggers`` is False.
        """
        if self._busy:
            self._queue(event, data)
            return _QUEUED
        node = self._node
        if node is None:
            raise ChartError(f"{self.chart.name} is not started; call start() before send({event!r})")
        found = node.moves.get(event)
        if type(found) is Move and found.plain and not self._postponed:
            self._node = target = found.node
            self._mask = target.mask
            return found.step
        return self._run(event, data, self._handle)

    def raise_(self, event: str, /, **data: Any) -> None:
        """From inside a hook: queue an event that is handled before all that came from outside.

        :raises ChartError: no hook is running.
        """
        if not self._busy:
            raise ChartError(f"{self.chart.name}: raise_({event!r}) is for hooks; from outside, send it")
        self._refuse_failing(event)
        if self._internal is None:
            self._internal = deque()
        self._internal.append((event, data))

    def snapshot(self) -> Snapshot:
        """All that it has to remember, for :meth:`restore`.

        :raises ChartError: a hook is running, or it was not started.
        """
        if self._node is None or self._busy:
            raise ChartError(f"{self.chart.name}: a snapshot needs a machine at rest, after start() and outside its hooks")
        return self.chart.describe(self._node, self._postponed)

    def restore(self, snapshot: Snapshot) -> None:
        """Be where the snapshot was taken. No hooks run.

        :raises ChartError: the snapshot does not fit the chart, or a hook is running.
        """
        if self._busy:
            raise ChartError(f"{self.chart.name}: restore() cannot be called from a hook")
        node = self.chart.recall(snapshot)
        self._postponed = tuple((event, dict(data)) for event, data in snapshot["postponed"])
        self._node = node
        self._mask = node.mask

    # -- what hooks see: overridden by rehearsals --

    def _bind(self) -> Sequence[Callable[[Instance], Any]]:
        return self.chart.bind(self.model)

    def _ask(self, guard: int) -> bool:
        asked = self.chart.tables.guards[guard]
        if asked.hook < 0:
            self._run_hooks(asked.prepare)
            return True
        return bool(self._calls[asked.hook](self))

    def _perform(self, move: Move) -> None:
        """Carry out a microstep: its hooks in order, each seeing the configuration as it is at that moment."""
        if move.ops:
            calls = self._calls
            for mask, hook, transition, event in move.ops:
                if hook < 0:
                    self.raise_(event)
                else:
                    self._mask = mask
                    self.transition = transition
                    calls[hook](self)
            self.transition = None
        self._node = node = move.node
        self._mask = node.mask

    def _run_hooks(self, hooks: Sequence[int]) -> None:
        for hook in hooks:
            self._calls[hook](self)

    # -- the way of an event --

    def _run(self, event: str, data: Mapping[str, Any], first: Callable[[str, Mapping[str, Any]], Step]) -> Step:
        """Run to completion, or put everything back as it was."""
        node, postponed = self._node, self._postponed
        self._busy = True
        self._count = 0
        try:
            step = first(event, data)
            if self._external or self._postponed:
                step = self._drain(step, node)
        except BaseException as error:
            self._roll_back(node, postponed)
            if isinstance(error, Exception):
                self._report(error)
            raise
        finally:
            self._busy = False
            self.event = ""
            self.data = _NO_DATA
            self.transition = None
        return step

    def _handle(self, event: str, data: Mapping[str, Any]) -> Step:
        """One event from outside."""
        self.event = event
        self.data = data
        tables = self.chart.tables
        if not tables.prepare_event and not tables.finalize_event:
            return self._macrostep(event)
        try:
            self._run_hooks(tables.prepare_event)
            return self._macrostep(event)
        finally:
            self.event, self.data = event, data
            self._run_hooks(tables.finalize_event)

    def _enter(self, event: str, data: Mapping[str, Any]) -> Step:
        self.event = event
        self.data = data
        move = self.chart.memo.start()
        self._perform(move)
        return self._settle([move])

    def _macrostep(self, event: str) -> Step:
        assert self._node is not None
        found = self._choose(self._node, event)
        if type(found) is Refusal:
            return self._refuse(found, event)
        assert type(found) is Move
        self._perform(found)
        if not found.node.eventless and not self._internal:
            return found.step
        return self._settle([found])

    def _choose(self, node: Node, event: str) -> Move | Refusal:
        """What the event means here, by the answers that guards give now."""
        memo = self.chart.memo
        found: Found = node.moves.get(event) or memo.find(node, event)
        while isinstance(found, Choice):
            answer = self._ask(found.guard)
            found = (found.yes if answer else found.no) or memo.follow(node, event, found, answer=answer)
        return found

    def _settle(self, moves: list[Move]) -> Step:
        """Take eventless transitions, and handle raised events, until there are none."""
        while not moves[-1].node.done:
            assert self._node is not None
            found = self._choose(self._node, "") if self._node.eventless else None
            if not isinstance(found, Move):
                if not self._internal:
                    break
                self.event, self.data = self._internal.popleft()
                found = self._choose(self._node, self.event)
                if not isinstance(found, Move):
                    continue
            self._perform(found)
            moves.append(found)
            self._tick(found.step)
        if self._internal:
            self._internal.clear()
        return moves[0].step if len(moves) == 1 else _joined([move.step for move in moves])

    def _drain(self, step: Step, before: Node | None) -> Step:
        """Handle what hooks sent, and what waited for another configuration."""
        steps = [step]
        mask = before.mask if before is not None else 0
        while True:
            assert self._node is not None
            if self._postponed and self._node.mask != mask:
                self._external = deque((*self._postponed, *(self._external or ())))
                self._postponed = ()
            mask = self._node.mask
            if not self._external:
                return steps[0] if len(steps) == 1 else _joined(steps)
            event, data = self._external.popleft()
            steps.append(self._handle(event, data))
            self._tick(steps[-1])

    def _tick(self, step: Step) -> None:
        """Count a microstep that nobody outside asked for."""
        self._count += 1
        limit = self.chart.macrostep_limit
        if self._count > limit:
            last = step.transitions[-1] if step.transitions else None
            raise MacrostepLimit(
                self.chart.name, limit, f"{last.source} → {last.target}" if last else f"none, for event {self.event!r}"
            )

    def _refuse(self, refusal: Refusal, event: str) -> Step:
        if refusal is POSTPONED:
            limit = self.chart.tables.postpone_limit
            if len(self._postponed) >= limit:
                raise PostponeLimit(self.chart.name, event, limit)
            self._postponed = (*self._postponed, (event, self.data))
        elif refusal is INVALID:
            raise UnhandledEvent(self.chart.name, event, self.active)
        return refusal.step

    def _queue(self, event: str, data: Mapping[str, Any]) -> None:
        self._refuse_failing(event)
        if self._external is None:
            self._external = deque()
        self._external.append((event, data))

    def _refuse_failing(self, event: str) -> None:
        # What an on_error hook sends would be handled in a send() that raises, so nobody would ever see that step.
        if self._failing:
            raise ChartError(f"{self.chart.name}: an on_error hook cannot send {event!r}; send it where the error is caught")

    def _roll_back(self, node: Node | None, postponed: tuple[_Waiting, ...]) -> None:
        self._node = node
        self._mask = node.mask if node is not None else 0
        self._postponed = postponed
        self.transition = None
        for queue in (self._internal, self._external):
            if queue is not None:
                queue.clear()

    def _report(self, error: Exception) -> None:
        """Run the ``on_error`` hooks of the active states from the inside out, then the chart's."""
        hooks = self.chart.error_hooks(self._mask)
        if hooks:
            self._failing = True
            self.data = {**self.data, "error": error}
            try:
                self._run_hooks(hooks)
            finally:
                self._failing = False


def _joined(steps: Sequence[Step]) -> Step:
    """Several steps as one. Whether it was handled is what the first, which was asked for, says."""
    return Step(
        handled=steps[0].handled,
        transitions=tuple([transition for step in steps for transition in step.transitions]),
        exited=tuple([path for step in steps for path in step.exited]),
        entered=tuple([path for step in steps for path in step.entered]),
        done=steps[-1].done,
        postponed=steps[0].postponed,
    )


class Rehearsal(Instance):
    """An instance that runs no hooks, and whose guards are answered from outside: what the pure kernel would do."""

    __slots__ = ("_answers",)

    def __init__(self, chart: Chart, answers: Callable[[str], bool]) -> None:
        super().__init__(chart)
        self._answers = answers

    def _bind(self) -> Sequence[Callable[[Instance], Any]]:
        return ()

    def _ask(self, guard: int) -> bool:
        asked = self.chart.tables.guards[guard]
        return asked.hook < 0 or self._answers(asked.label)

    def _perform(self, move: Move) -> None:
        for _, hook, _, event in move.ops:
            if hook < 0:
                self.raise_(event)
        self._node = move.node
        self._mask = move.node.mask

    def _run_hooks(self, hooks: Sequence[int]) -> None:
        """None run."""

"""Reads an actor class: what it declares, checked, and its compiled chart. Comes from: declare, lifecycle. Goes to: actor, host.

All contradictions are found here, when the class is created; only a class whose ``regions`` need the instance is checked when the
first instance is made.
"""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jumpstarter.actors import checks, family, lifecycle
from jumpstarter.actors.activities import Makers
from jumpstarter.actors.breakers import CircuitBreaker, breaker_region, region_name
from jumpstarter.actors.declare import SPEC, CheckSpec, Loop, Resource, TaskSpec
from jumpstarter.actors.family import Child, Need, Place
from jumpstarter.actors.handlers import Handler, HandlerPlan, HandlerTable, VariantSpec, variants_of
from jumpstarter.actors.makers import makers_of
from jumpstarter.actors.modes import Mode, State, Ward
from jumpstarter.errors import ActorError, DefinitionError
from jumpstarter.states import Chart


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """A task, timer or loop, with its states resolved.

    :ivar states: the states of the chart in which its method runs.
    :ivar during: the states that permit it, as paths.
    :ivar zone: the regions that those states lie in. While a task is leaving, no other that shares one of them starts.
    :ivar region: the path of its own region; None when it is bound to states outside of ``started`` and has none.
    :ivar flows: whether a pause suspends it.
    """

    name: str
    spec: TaskSpec
    states: frozenset[str]
    during: tuple[str, ...]
    zone: frozenset[str]
    region: str | None
    flows: bool
    loop: Loop | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything about a class that its instances share."""

    chart: Chart
    names: StateNames
    tasks: tuple[TaskPlan, ...]
    checks: tuple[tuple[str, CheckSpec], ...]
    resources: tuple[Resource[Any], ...]
    #: What :meth:`Actor.post` accepts without a closer look.
    events: set[str]
    handlers: HandlerTable
    ward: Ward
    breakers: Mapping[str, CircuitBreaker]
    needs: tuple[Need[Any], ...]
    children: tuple[Place, ...]
    makers: Makers

    def require_event(self, event: str) -> None:
        """Look closer: triggers may be patterns (``order.*``).

        :raises ActorError: no transition of the chart has such an event.
        """
        for pattern in self.chart.events:
            if pattern == "*" or (pattern.endswith(".*") and (event == pattern[:-2] or event.startswith(pattern[:-1]))):
                self.events.add(event)
                return
        close = difflib.get_close_matches(event, self.chart.events, n=3)
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"there are {', '.join(sorted(self.chart.events))}"
        raise ActorError(f"{self.chart.name} has no event {event!r}; {hint}")


class StateNames:
    """Finds states by their path or by any unique ending of it."""

    __slots__ = ("_endings", "_paths", "owner")

    def __init__(self, owner: str, paths: tuple[str, ...]) -> None:
        self.owner = owner
        self._paths = frozenset(paths)
        self._endings: dict[str, list[str]] = {}
        for path in paths:
            parts = path.split(".")
            for start in range(1, len(parts)):
                self._endings.setdefault(".".join(parts[start:]), []).append(path)

    def find(self, name: str | State, what: str = "") -> str:
        """The path of the state.

        :param what: who asks, for the message.
        :raises DefinitionError: there is no such state, or more than one.
        """
        name = str(name)
        if name in self._paths:
            return name
        found = self._endings.get(name, [])
        if len(found) == 1:
            return found[0]
        if found:
            raise DefinitionError(self.owner, f"{what}{name!r} is ambiguous: write one of {', '.join(found)}", state=name)
        close = difflib.get_close_matches(name, [*self._paths, *self._endings], n=3)
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"there are {', '.join(sorted(self._paths))}"
        raise DefinitionError(self.owner, f"{what}there is no state {name!r}; {hint}", state=name)


@dataclass(frozen=True, slots=True)
class Declared:
    """What a class and its bases declare, in order, before its chart is known."""

    tasks: Mapping[str, TaskSpec | Loop]
    checks: Mapping[str, CheckSpec]
    resources: Mapping[str, Resource[Any]]
    handlers: Mapping[str, Handler[Any, Any]]
    variants: Mapping[str, VariantSpec]
    modes: Mapping[str, Mode]
    needs: Mapping[str, Need[Any]]
    children: Mapping[str, Child[Any]]


#: What is a declaration by itself, not by a mark beside a function.
_THINGS = (Resource, Loop, Handler, Mode, Need, Child)
#: Of these a subclass's plain method of the same name is an override, which keeps the options; of the others it takes the place.
_KEPT = (Handler,)


def declared(owner: type) -> Declared:
    """Collect the declarations of a class. A subclass overrides a method, keeping its options, or removes it by None."""
    found: dict[str, Any] = {}
    for base in reversed(owner.__mro__):
        for name, value in vars(base).items():
            declaration = value if isinstance(value, _THINGS) else getattr(value, SPEC, None)
            if declaration is not None:
                found[name] = declaration
            elif name in found and (value is None or (isinstance(found[name], _THINGS) and not isinstance(found[name], _KEPT))):
                del found[name]
    return Declared(
        tasks={name: value for name, value in found.items() if isinstance(value, TaskSpec | Loop)},
        checks={name: value for name, value in found.items() if isinstance(value, CheckSpec)},
        resources={name: value for name, value in found.items() if isinstance(value, Resource)},
        handlers={name: value for name, value in found.items() if isinstance(value, Handler)},
        variants={name: value for name, value in found.items() if isinstance(value, VariantSpec)},
        modes={name: value for name, value in found.items() if isinstance(value, Mode)},
        needs={name: value for name, value in found.items() if isinstance(value, Need)},
        children={name: value for name, value in found.items() if isinstance(value, Child)},
    )


def make_plan(owner: type, declarations: Declared, regions: Mapping[str, Mapping[str, Any]]) -> Plan:
    """Resolve and compile.

    :param regions: the user's regions of ``started``, by name.
    :raises DefinitionError: naming the class and, where there is one, the state.
    """
    name = owner.__name__
    checks.check_regions(owner, declarations, regions)
    specs = {task: value.spec if isinstance(value, Loop) else value for task, value in declarations.tasks.items()}
    ward = Ward.of(declarations.modes.values())
    breakers = _breakers(declarations, specs)
    regions = {
        **regions,
        **({"mailbox": lifecycle.mailbox_region()} if declarations.handlers else {}),
        **{region_name(each): breaker_region(each) for each in breakers},
    }

    def definition(own: Mapping[str, Any]) -> dict[str, Any]:
        return lifecycle.definition(name, {**regions, **own}, ward=ward, has_needs=bool(declarations.needs))

    # What a task is bound to may be a state of another task's region, so all states are named before any region is made.
    blank = {task: lifecycle.task_region(task, spec, lifecycle.DEFAULT_DURING, flows=True) for task, spec in specs.items()}
    names = StateNames(name, tuple(_paths(definition(blank)["states"])))
    tasks = tuple(_task_plan(task, spec, declarations.tasks[task], names) for task, spec in specs.items())
    handlers = _handler_table(declarations, names)
    own = {
        task.name: lifecycle.task_region(task.name, task.spec, task.during, flows=task.flows)
        for task in tasks
        if task.region is not None
    }
    chart = Chart.compile(definition(own), name=name, model_class=owner)
    return Plan(
        chart=chart,
        names=StateNames(name, chart.states),
        tasks=tasks,
        checks=tuple(declarations.checks.items()),
        resources=tuple(declarations.resources.values()),
        events=set(chart.events),
        handlers=handlers,
        ward=ward,
        breakers=breakers,
        needs=tuple(declarations.needs.values()),
        children=family.in_order(name, declarations.children.values()),
        makers=makers_of(chart, tasks, declarations.checks.items(), breakers),
    )


def frozen(value: Any) -> Hashable:
    """A definition as a key: equal definitions have equal keys."""
    if isinstance(value, Mapping):
        return tuple((key, frozen(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return tuple(frozen(item) for item in value)
    # What cannot be compared is itself only: the key keeps it alive, so its id stays its own.
    return value if isinstance(value, Hashable) else _Identity(value)


@dataclass(frozen=True, slots=True, eq=False)
class _Identity:
    value: object

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def _task_plan(name: str, spec: TaskSpec, declaration: TaskSpec | Loop, names: StateNames) -> TaskPlan:
    during = tuple(names.find(state, f"{spec.kind} {name!r}: ") for state in spec.during) or lifecycle.DEFAULT_DURING
    for state in during:
        if state == f"started.{name}" or state.startswith(f"started.{name}."):
            raise DefinitionError(names.owner, f"{spec.kind} {name!r} cannot wait for a state of its own region", state=state)
    has_region = all(state == "started" or state.startswith("started.") for state in during)
    if not has_region and spec.kind == "loop":
        raise DefinitionError(
            names.owner, f"loop {name!r} has a region in 'started', so it can only be bound to states in it", state=during[0]
        )
    region = f"started.{name}" if has_region else None
    zone = frozenset(".".join(state.split(".")[:2]) if state.startswith("started.") else "" for state in during)
    return TaskPlan(
        name=name,
        spec=spec,
        states=frozenset(f"{region}.{state}" for state in lifecycle.running_states(spec)) if region else frozenset(during),
        during=during,
        zone=zone,
        region=region,
        flows=has_region and not any(state == "started" or state.startswith("started.flow") for state in during),
        loop=declaration if isinstance(declaration, Loop) else None,
    )


def _breakers(declarations: Declared, specs: Mapping[str, TaskSpec]) -> dict[str, CircuitBreaker]:
    found = {name: handler.spec.breaker for name, handler in declarations.handlers.items()}
    found |= {name: spec.breaker for name, spec in specs.items()}
    return {name: breaker for name, breaker in found.items() if breaker is not None}


def _handler_table(declarations: Declared, names: StateNames) -> HandlerTable:
    plans = []
    for name, handler in declarations.handlers.items():
        ways = [(_handling(method, spec.during, names), method) for method, spec in variants_of(handler, declarations.variants)]
        ways.append((_handling(name, handler.spec.during, names) or frozenset(lifecycle.DEFAULT_DURING), name))
        open_state = f"started.{region_name(name)}.open" if handler.spec.breaker is not None else None
        plans.append(HandlerPlan(name, handler.spec, tuple(ways), open_state))
    return HandlerTable(plans)


def _handling(name: str, during: tuple[str | State, ...], names: StateNames) -> frozenset[str]:
    """The states in which a method handles messages."""
    states = [names.find(state, f"handler {name!r}: ") for state in during]
    for state in states:
        if state != "started" and not state.startswith("started."):
            why = f"handler {name!r} cannot be bound to it: messages are handled in 'started' only; they wait meanwhile"
            raise DefinitionError(names.owner, why, state=state)
        if state in ("started.flow.pausing", "started.flow.paused", "started.mailbox.suspended"):
            why = f"handler {name!r} cannot be bound to it: no message is handled while the actor is paused; use a task or a hook"
            raise DefinitionError(names.owner, why, state=state)
    return frozenset(states)


def _paths(states: Any, prefix: str = "") -> Iterator[str]:
    """The paths of all states of a definition in mapping form."""
    for state in states:
        name, body = (state["name"], state) if isinstance(state, Mapping) else (state, {})
        path = f"{prefix}{getattr(name, 'name', name)}"
        yield path
        yield from _paths(body.get("children") or body.get("states") or (), f"{path}.")

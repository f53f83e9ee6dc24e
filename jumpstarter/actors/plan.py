"""Reads an actor class: what it declares, checked, and its compiled chart. Comes from: declare, lifecycle. Goes to: actor, host.

All contradictions are found here, when the class is created; only a class whose ``regions`` need the instance is checked when the
first instance is made.
"""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jumpstarter.actors import lifecycle
from jumpstarter.actors.declare import SPEC, CheckSpec, Loop, Resource, TaskSpec
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

    def find(self, name: str, what: str = "") -> str:
        """The path of the state.

        :param what: who asks, for the message.
        :raises DefinitionError: there is no such state, or more than one.
        """
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


def declared(owner: type) -> Declared:
    """Collect the declarations of a class. A subclass overrides a method, keeping its options, or removes it by None.

    :raises DefinitionError: a loop whose stage has no method.
    """
    found: dict[str, Any] = {}
    for base in reversed(owner.__mro__):
        for name, value in vars(base).items():
            declaration = value if isinstance(value, Resource | Loop) else getattr(value, SPEC, None)
            if declaration is not None:
                found[name] = declaration
            elif name in found and (value is None or isinstance(found[name], Resource | Loop)):
                del found[name]
    for name, value in found.items():
        if isinstance(value, Loop):
            _check_loop(owner, name, value)
    return Declared(
        tasks={name: value for name, value in found.items() if isinstance(value, TaskSpec | Loop)},
        checks={name: value for name, value in found.items() if isinstance(value, CheckSpec)},
        resources={name: value for name, value in found.items() if isinstance(value, Resource)},
    )


def make_plan(owner: type, declarations: Declared, regions: Mapping[str, Mapping[str, Any]]) -> Plan:
    """Resolve and compile.

    :param regions: the user's regions of ``started``, by name.
    :raises DefinitionError: naming the class and, where there is one, the state.
    """
    name = owner.__name__
    _check_regions(name, declarations, regions)
    specs = {task: value.spec if isinstance(value, Loop) else value for task, value in declarations.tasks.items()}
    # What a task is bound to may be a state of another task's region, so all states are named before any region is made.
    blank = {task: lifecycle.task_region(task, spec, lifecycle.DEFAULT_DURING, flows=True) for task, spec in specs.items()}
    names = StateNames(name, tuple(_paths(lifecycle.definition(name, {**regions, **blank})["states"])))
    tasks = tuple(_task_plan(task, spec, declarations.tasks[task], names) for task, spec in specs.items())
    own = {
        task.name: lifecycle.task_region(task.name, task.spec, task.during, flows=task.flows)
        for task in tasks
        if task.region is not None
    }
    chart = Chart.compile(lifecycle.definition(name, {**regions, **own}), name=name, model_class=owner)
    return Plan(
        chart=chart,
        names=StateNames(name, chart.states),
        tasks=tasks,
        checks=tuple(declarations.checks.items()),
        resources=tuple(declarations.resources.values()),
        events=set(chart.events),
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


def _check_loop(owner: type, name: str, loop: Loop) -> None:
    for stage in loop.stages:
        if stage not in loop.methods:
            why = f"loop {name!r} has no method for stage {stage!r}; decorate one with @{name}.{stage}"
            raise DefinitionError(owner.__name__, why, state=f"started.{name}.{stage}")


def _check_regions(owner: str, declarations: Declared, regions: Mapping[str, Mapping[str, Any]]) -> None:
    for region, body in regions.items():
        if region in lifecycle.OWN_REGIONS or region in declarations.tasks:
            raise DefinitionError(
                owner, f"the region {region!r} exists already; call yours something else", state=f"started.{region}"
            )
        if not isinstance(body, Mapping) or "states" not in body:
            raise DefinitionError(owner, f"the region {region!r} must be a mapping with 'states'", state=f"started.{region}")
    for task in declarations.tasks:
        if task in lifecycle.OWN_REGIONS:
            raise DefinitionError(
                owner, f"a task cannot be called {task!r}: that is a region of every actor", state=f"started.{task}"
            )


def _paths(states: Any, prefix: str = "") -> Iterator[str]:
    """The paths of all states of a definition in mapping form."""
    for state in states:
        name, body = (state["name"], state) if isinstance(state, Mapping) else (state, {})
        path = f"{prefix}{getattr(name, 'name', name)}"
        yield path
        yield from _paths(body.get("children") or body.get("states") or (), f"{path}.")

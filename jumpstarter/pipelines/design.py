"""A pipeline class as its lanes see it: its steps in order, its source, its budgets, its sides. Read off the class once.

Comes from: pipeline (when a class is created). Contradictions are told with the name of the class and what to do.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from types import UnionType
from typing import Any

from jumpstarter.errors import DefinitionError
from jumpstarter.pipelines.budget import Budget
from jumpstarter.pipelines.declare import MARK, HookSpec, SideSpec, StepSpec
from jumpstarter.pipelines.events import KINDS, SideEvent
from jumpstarter.pipelines.sources import Source


@dataclass(frozen=True, slots=True)
class StepPlan:
    """A step or a sink.

    :ivar budget: what its calls are taken from; None: they cost nothing.
    :ivar is_sync: it runs in a thread.
    """

    name: str
    spec: StepSpec
    budget: Budget | None
    is_sync: bool


@dataclass(frozen=True, slots=True)
class SidePlan:
    """A side, and the events that it is told."""

    name: str
    spec: SideSpec
    kinds: tuple[type[SideEvent], ...]
    is_sync: bool


@dataclass(frozen=True, slots=True)
class Design:
    """All of it.

    :ivar arguments: by hook, how many arguments it takes.
    """

    owner: str
    rows: Source | None
    steps: tuple[StepPlan, ...]
    sinks: tuple[StepPlan, ...]
    sides: tuple[SidePlan, ...]
    on_failed: str | None
    next_run: str | None
    arguments: dict[str, int]

    @property
    def lanes(self) -> int:
        """How many batches are worked on at once."""
        return max((step.spec.concurrency for step in self.steps), default=1)

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """All budgets, each once."""
        return tuple(dict.fromkeys(step.budget for step in self.steps if step.budget is not None))


def design_of(owner: type) -> Design:
    """Read a class and its bases.

    :raises DefinitionError: it contradicts itself.
    """
    marked = dict(_marks(owner))
    steps = {name: spec for name, spec in marked.items() if isinstance(spec, StepSpec)}
    hooks = {kind: [name for name, spec in marked.items() if isinstance(spec, HookSpec) and spec.kind == kind] for kind in _HOOKS}
    rows = getattr(owner, "rows", None)
    if rows is not None and not isinstance(rows, Source):
        raise DefinitionError(
            owner.__name__, f"rows is {rows!r}: a pipeline takes its rows from a source, rows = SqliteRows('name')"
        )
    for kind, names in hooks.items():
        if len(names) > 1:
            raise DefinitionError(owner.__name__, f"{kind} is declared twice, {names[0]!r} and {names[1]!r}; keep one")
    design = Design(
        owner=owner.__name__,
        rows=rows if isinstance(rows, Source) else None,
        steps=tuple(_step(owner, name, spec) for name, spec in steps.items() if spec.kind == "step"),
        sinks=tuple(_step(owner, name, spec) for name, spec in steps.items() if spec.kind == "sink"),
        sides=tuple(_side(owner, name, spec) for name, spec in marked.items() if isinstance(spec, SideSpec)),
        on_failed=next(iter(hooks["on_failed"]), None),
        next_run=next(iter(hooks["next_run"]), None),
        arguments={name: _arguments(owner, name) for names in hooks.values() for name in names},
    )
    _check_budget(owner, design)
    return design


_HOOKS = ("on_failed", "next_run")


def _marks(owner: type) -> Iterator[tuple[str, Any]]:
    """Names and specifications, in the order of their first declaration. An override keeps the options; None removes one."""
    found: dict[str, Any] = {}
    for base in reversed(owner.__mro__):
        for name, value in vars(base).items():
            spec = getattr(value, MARK, None)
            if spec is not None:
                found[name] = spec
            elif name in found and value is None:
                del found[name]
    return iter(found.items())


def _step(owner: type, name: str, spec: StepSpec) -> StepPlan:
    budget = getattr(owner, spec.budget, None)
    if spec.cost and not isinstance(budget, Budget):
        why = f"step {name!r} has a cost, and {spec.budget!r} is {budget!r}: write {spec.budget} = Budget(…), or leave the cost out"
        raise DefinitionError(owner.__name__, why)
    for unit in spec.cost:
        assert isinstance(budget, Budget)
        if not budget.limits(unit):
            limited = ", ".join(budget.spec.limits)
            raise DefinitionError(
                owner.__name__, f"step {name!r} costs {unit}, which budget {budget.name!r} does not limit: {limited}"
            )
    if isinstance(budget, Budget):
        why_not = budget.never_grants({unit: amount for unit, amount in spec.cost.items() if isinstance(amount, int)})
        if why_not is not None:
            raise DefinitionError(owner.__name__, f"step {name!r} can never be called: {why_not}")
    is_sync = not inspect.iscoroutinefunction(getattr(owner, name))
    return StepPlan(name, spec, budget if spec.cost else None, is_sync)


def _check_budget(owner: type, design: Design) -> None:
    named = getattr(owner, "budget", None)
    if isinstance(named, Budget) and design.steps and named not in design.budgets:
        why = f"budget {named.name!r} limits no step: say what a call costs, @step(cost=dict(requests=1, rows=len))"
        raise DefinitionError(owner.__name__, why)


def _side(owner: type, name: str, spec: SideSpec) -> SidePlan:
    method = getattr(owner, name)
    if _arguments(owner, name) != 1:
        raise DefinitionError(
            owner.__name__, f"side {name!r} takes the event and nothing else: def {name}(self, event: BatchSettled)"
        )
    return SidePlan(name, spec, _kinds(owner, name, method), not inspect.iscoroutinefunction(method))


def _kinds(owner: type, name: str, method: Any) -> tuple[type[SideEvent], ...]:
    parameter = list(inspect.signature(method).parameters.values())[1]
    if parameter.annotation is inspect.Parameter.empty:
        return tuple(KINDS.values())
    try:
        hint = typing.get_type_hints(method)[parameter.name]
    except NameError as error:
        raise DefinitionError(
            owner.__name__, f"side {name!r}: the annotation of {parameter.name!r} cannot be read: {error}"
        ) from None
    kinds = typing.get_args(hint) if isinstance(hint, UnionType) or typing.get_origin(hint) is typing.Union else (hint,)
    if not all(kind in KINDS.values() for kind in kinds):
        raise DefinitionError(owner.__name__, f"side {name!r} is told {', '.join(KINDS)}; {hint!r} is none of these")
    return tuple(kinds)


def _arguments(owner: type, name: str) -> int:
    return len(inspect.signature(getattr(owner, name)).parameters) - 1

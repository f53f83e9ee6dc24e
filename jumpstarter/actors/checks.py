"""Contradictions in an actor class, each told with the class, the state where there is one, and what to do. Used by: plan, actor.

What only shows when states are resolved or the chart is compiled is found there: unknown and ambiguous states, unreachable states,
transitions that exclude each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

from jumpstarter.actors import family, lifecycle
from jumpstarter.actors.declare import Loop
from jumpstarter.actors.family import Place
from jumpstarter.errors import DefinitionError

if TYPE_CHECKING:
    from jumpstarter.actors.plan import Declared


def check_declarations(owner: type, declared: Declared) -> None:
    """What can be seen without the chart.

    :raises DefinitionError: the first contradiction.
    """
    for name, value in declared.tasks.items():
        if isinstance(value, Loop):
            _check_loop(owner, name, value)
    places = family.in_order(owner.__name__, declared.children.values())
    found = chain(
        _check_handlers(declared),
        _check_variants(declared),
        _check_threads(declared),
        _check_modes(declared),
        _check_children(declared, places),
    )
    for why, state in found:
        raise DefinitionError(owner.__name__, why, state=state)


def check_regions(owner: type, declared: Declared, regions: Mapping[str, Mapping[str, Any]]) -> None:
    """The user's regions of ``started``.

    :raises DefinitionError: one is no definition, or two things share a name.
    """
    own = (*lifecycle.OWN_REGIONS, *(["mailbox"] if declared.handlers else []))
    for region, body in regions.items():
        if region in own or region in declared.tasks:
            why = f"the region {region!r} exists already; call yours something else"
            raise DefinitionError(owner.__name__, why, state=f"started.{region}")
        if not isinstance(body, Mapping) or "states" not in body:
            why = f"the region {region!r} must be a mapping with 'states'"
            raise DefinitionError(owner.__name__, why, state=f"started.{region}")
    for task in declared.tasks:
        if task in own:
            why = f"a task cannot be called {task!r}: that is a region of every actor; call it something else"
            raise DefinitionError(owner.__name__, why, state=f"started.{task}")


_Found = Iterator[tuple[str, str | None]]


def _check_loop(owner: type, name: str, loop: Loop) -> None:
    for stage in loop.stages:
        if stage not in loop.methods:
            why = f"loop {name!r} has no method for stage {stage!r}; decorate one with @{name}.{stage}"
            raise DefinitionError(owner.__name__, why, state=f"started.{name}.{stage}")


def _check_handlers(declared: Declared) -> _Found:
    seen: dict[type, str] = {}
    for name, handler in declared.handlers.items():
        for message in handler.spec.messages:
            other = seen.setdefault(message, name)
            if other != name:
                why = f"{message.__name__} has two handlers, {other!r} and {name!r}"
                yield f"{why}; keep one, and give it a method for other states with @{other}.during(…)", "started.mailbox"


def _check_variants(declared: Declared) -> _Found:
    for name, variant in declared.variants.items():
        handler = variant.handler.name
        if handler not in declared.handlers:
            why = f"{name!r} is a method of handler {handler!r}, which this class does not have"
            yield f"{why}; inherit it, or decorate {name!r} with @handles", str(variant.during[0])


def _check_threads(declared: Declared) -> _Found:
    own = [name for name, resource in declared.resources.items() if resource.thread == "own"]
    for name, handler in declared.handlers.items():
        thread = handler.spec.thread
        if thread is not None and thread not in own:
            known = f"there is {', '.join(own)}" if own else "declare one with @resource(thread='own')"
            yield f"handler {name!r} runs in thread {thread!r}, which no resource has; {known}", "started.mailbox"


def _check_modes(declared: Declared) -> _Found:
    known = {f"resource.{name}" for name in declared.resources} | set(declared.checks)
    seen: dict[tuple[str, str], str] = {}
    for name, mode in declared.modes.items():
        for source in sorted(mode.when.sources):
            what = source.removeprefix("resource.")
            if source.startswith("resource.") and source not in known:
                there = ", ".join(declared.resources) or "none"
                yield (
                    f"mode {name!r} waits for the loss of {what!r}, which is no resource of this class; there are: {there}",
                    mode.path,
                )
        other = seen.setdefault((mode.level, str(mode.when)), name)
        if other != name:
            yield f"mode {name!r} can never be active: {other!r} above it has the same condition; remove one of them", mode.path


def _check_children(declared: Declared, places: Iterable[Place]) -> _Found:
    for place in places:
        for need, wire in place.wires.items():
            if wire is None and need not in declared.needs:
                child = place.child
                assert child.kind is not None
                kind = child.kind._declared.needs[need].kind.__name__
                why = f"child {child.name!r} needs {need!r}, and no child here is the {kind} for it"
                remedy = f"declare {need} = child({kind}), or make {child.name!r} by a method that sets it"
                yield f"{why}; {remedy}", "starting.dependencies"

"""The life of every actor, as a definition for charts. Goes to: plan, which adds the regions of a class and compiles it.

::

    initializing → starting → started → stopping → stopped
                      └────fail────┴────→ stopping → crashed
    restarting = stopping → backing_off → starting

Everything here is data: the diagram in the docs, the table in the tests and what runs are made from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from jumpstarter.actors.declare import TaskSpec
from jumpstarter.actors.modes import NO_WARD, Ward

#: States in which a task runs that does not say otherwise.
DEFAULT_DURING = ("started.health.healthy", "started.health.degraded")

#: While this is active the flow is neither paused nor pausing.
FLOWING = "started.flow.running"

#: Regions that every actor has in ``started``.
OWN_REGIONS = ("health", "flow")

#: An actor at rest: nothing runs, nothing is held.
AT_REST = ("initializing", "stopped", "crashed")

#: Events that lead down. A hook that fails must not keep an actor from releasing what it holds.
WAY_DOWN = frozenset({"stop", "fail", "drained", "tasks_ended", "released", "let_go"})

_PHASES = ("draining", "tasks", "resources")

_REPORTS = ["report_warning", "report_problem", "recover"]

_Guards = list[dict[str, Any]]


def definition(
    name: str,
    regions: Mapping[str, Mapping[str, Any]],
    *,
    ward: Ward = NO_WARD,
    has_needs: bool = False,
) -> dict[str, Any]:
    """The whole chart of an actor class.

    :param name: the chart's name: the class.
    :param regions: the regions of ``started`` beside health and flow, by name: definitions with states, initial and transitions.
    :param ward: the modes of health.
    :param has_needs: whether it depends on other actors.
    """
    children = [_health(ward), _flow(), *({"name": region, **_as_state(body)} for region, body in regions.items())]
    last = "dependencies" if has_needs else "resources"
    let_go = "let_go" if has_needs else "released"
    return {
        "name": name,
        "separator": ".",
        "initial": "initializing",
        "states": [
            "initializing",
            {
                "name": "starting",
                "initial": "dependencies" if has_needs else "resources",
                "children": [
                    *(["dependencies"] if has_needs else []),
                    {"name": "resources", "initial": "acquiring", "children": ["acquiring", "backing_off"]},
                    "tasks",
                ],
                "transitions": [
                    *([{"trigger": "dependencies_started", "source": "dependencies", "dest": "resources"}] if has_needs else []),
                    {"trigger": "resource_failed", "source": "resources.acquiring", "dest": "resources.backing_off"},
                    {"trigger": "resource_retried", "source": "resources.backing_off", "dest": "resources.acquiring"},
                    {"trigger": "resources_acquired", "source": "resources", "dest": "tasks"},
                ],
            },
            {"name": "started", "initial": [child["name"] for child in children], "children": children},
            _stopping(has_needs=has_needs),
            "stopped",
            "crashed",
            {"name": "restarting", "initial": "stopping", "children": [_stopping(has_needs=has_needs), "backing_off"]},
        ],
        "transitions": [
            {"trigger": "start", "source": ["initializing", "stopped", "crashed"], "dest": "starting"},
            {"trigger": "ready", "source": "starting.tasks", "dest": "started"},
            {"trigger": "stop", "source": "initializing", "dest": "stopped"},
            {"trigger": "stop", "source": ["starting", "started", "restarting"], "dest": "stopping"},
            {"trigger": "fail", "source": "initializing", "dest": "crashed"},
            {"trigger": "fail", "source": ["starting", "started", "restarting"], "dest": "stopping"},
            {"trigger": let_go, "source": f"stopping.{last}", "dest": "crashed", "conditions": "_has_failed"},
            {"trigger": let_go, "source": f"stopping.{last}", "dest": "stopped", "unless": "_has_failed"},
            {"trigger": "restart", "source": "started", "dest": "restarting"},
            {"trigger": "restart", "source": "crashed", "dest": "restarting.backing_off"},
            {"trigger": let_go, "source": f"restarting.stopping.{last}", "dest": "restarting.backing_off"},
            {"trigger": "backed_off", "source": "restarting.backing_off", "dest": "starting"},
        ],
    }


def task_region(name: str, spec: TaskSpec, during: Sequence[str], *, flows: bool) -> dict[str, Any]:
    """The region of a task, timer or loop: it suspends and resumes itself by eventless transitions.

    :param during: paths of the states in any of which it may run.
    :param flows: whether a pause suspends it.
    """
    flow = [f"In({FLOWING})"] if flows else []
    may_run = [{"conditions": [*flow, f"In({state})"]} for state in during]
    may_not = [*({"unless": [guard]} for guard in flow), {"unless": [f"In({state})" for state in during]}]
    return _loop_region(name, spec, may_run, may_not) if spec.kind == "loop" else _plain_region(name, spec, may_run, may_not)


def running_states(spec: TaskSpec) -> tuple[str, ...]:
    """The states of its region in which the method of a task, timer or loop runs."""
    return ("waiting", *spec.stages) if spec.kind == "loop" else ("running",)


def _plain_region(name: str, spec: TaskSpec, may_run: _Guards, may_not: _Guards) -> dict[str, Any]:
    # One that finishes is left alone: its region stays in `running` until it returns.
    suspends = may_not if spec.on_leave == "cancel" else []
    return {
        "initial": "suspended",
        "states": ["suspended", "running", "failed", *(["done"] if spec.kind == "task" else [])],
        "transitions": [
            *({"trigger": "", "source": "suspended", "dest": "running", **guards} for guards in may_run),
            *({"trigger": "", "source": "running", "dest": "suspended", **guards} for guards in suspends),
            *([{"trigger": f"{name}.done", "source": "running", "dest": "done"}] if spec.kind == "task" else []),
            *_failing(name, ["running"], has_breaker=spec.breaker is not None),
        ],
    }


def _loop_region(name: str, spec: TaskSpec, may_run: _Guards, may_not: _Guards) -> dict[str, Any]:
    first, *others = spec.stages
    active = list(running_states(spec))
    # One that finishes goes through the round that has begun, which it has once the first of several stages has returned something.
    suspends = active if spec.on_leave == "cancel" else ["waiting", first] if others else ["waiting"]
    transitions: list[dict[str, Any]] = [
        *({"trigger": "", "source": "suspended", "dest": first, **guards} for guards in may_run),
        *({"trigger": "", "source": suspends, "dest": "suspended", **guards} for guards in may_not),
        {"trigger": f"{name}.waiting", "source": first, "dest": "waiting"},
        {"trigger": f"{name}.{first}", "source": "waiting", "dest": first},
        *({"trigger": f"{name}.{stage}", "source": before, "dest": stage} for before, stage in pairwise(spec.stages)),
        *_failing(name, active),
    ]
    if others:
        transitions.append({"trigger": f"{name}.{first}", "source": others[-1], "dest": first})
    elif spec.on_leave == "finish":
        transitions += [{"trigger": f"{name}.{first}", "source": first, "dest": "suspended", **guards} for guards in may_not]
    return {"initial": "suspended", "states": ["suspended", *active, "failed"], "transitions": transitions}


def _failing(name: str, active: list[str], *, has_breaker: bool = False) -> list[dict[str, Any]]:
    retries = [f"{name}.retry", f"{name}.probe"] if has_breaker else f"{name}.retry"
    return [
        {"trigger": f"{name}.fail", "source": active, "dest": "failed"},
        {"trigger": retries, "source": "failed", "dest": "suspended"},
    ]


def _health(ward: Ward) -> dict[str, Any]:
    places = ward.places()
    children: dict[str, list[str]] = {"healthy": [], "degraded": [], "unhealthy": []}
    for place in places:
        level, _, mode = place.partition(".")
        children[level] += [mode] if mode else []
    return {
        "name": "health",
        "initial": "healthy",
        "children": [
            {"name": level, "initial": modes[-1], "children": modes} if modes else level for level, modes in children.items()
        ],
        "transitions": [
            # Concerns that are older than `started` (an optional resource that is missing) count from its first moment.
            *({"trigger": "", "source": "healthy", "dest": place, "conditions": _is_at(place)} for place in places[1:]),
            *(
                {
                    "trigger": _REPORTS,
                    "source": [other for other in places if other != place],
                    "dest": place,
                    "conditions": _is_at(place),
                }
                for place in places
            ),
        ],
    }


def _is_at(place: str) -> Any:
    """The guard of a place in the health region."""
    if "." not in place:
        return f"_is_{place}"

    def guard(instance: Any) -> bool:
        return bool(instance.model._host.health.place == place)

    guard.__name__ = guard.__qualname__ = f"_is_{place}"
    return guard


def mailbox_region() -> dict[str, Any]:
    """The region of the mailbox: it is emptied while the flow is neither paused nor pausing."""
    return {
        "initial": "suspended",
        "states": ["suspended", "running"],
        "transitions": [
            {"trigger": "", "source": "suspended", "dest": "running", "conditions": [f"In({FLOWING})"]},
            {"trigger": "", "source": "running", "dest": "suspended", "unless": [f"In({FLOWING})"]},
        ],
    }


def _flow() -> dict[str, Any]:
    return {
        "name": "flow",
        "initial": "running",
        "children": ["running", "pausing", "paused"],
        "transitions": [
            {"trigger": "pause", "source": "running", "dest": "pausing"},
            {"trigger": "flow_halted", "source": "pausing", "dest": "paused"},
            {"trigger": "resume", "source": ["pausing", "paused"], "dest": "running"},
        ],
    }


def _stopping(*, has_needs: bool) -> dict[str, Any]:
    return {
        "name": "stopping",
        "initial": "draining",
        "children": [*_PHASES, *(["dependencies"] if has_needs else [])],
        "transitions": [
            {"trigger": "drained", "source": "draining", "dest": "tasks"},
            {"trigger": "tasks_ended", "source": "tasks", "dest": "resources"},
            *([{"trigger": "released", "source": "resources", "dest": "dependencies"}] if has_needs else []),
        ],
    }


def _as_state(body: Mapping[str, Any]) -> dict[str, Any]:
    """A definition as the body of a nested state: there, `transitions` calls its states children."""
    return {("children" if key == "states" else key): value for key, value in body.items() if key != "name"}

"""What the actors of a class do while states are active, as makers of activities. Comes from: plan. Goes to: activities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from jumpstarter.actors.activities import Activity, Maker, Makers
from jumpstarter.actors.breakers import region_name
from jumpstarter.actors.declare import CheckSpec
from jumpstarter.actors.phases import phase_makers
from jumpstarter.actors.port import HostPort
from jumpstarter.actors.work import (
    check_activity,
    circuit_activity,
    task_activities,
    timeout_activity,
    trial_activity,
    unwell_activity,
)
from jumpstarter.states import Chart

if TYPE_CHECKING:
    from jumpstarter.actors.plan import TaskPlan

MAILBOX = frozenset({"started.mailbox.running"})
_STARTED = frozenset({"started"})
_UNHEALTHY = frozenset({"started.health.unhealthy"})


def makers_of(
    chart: Chart, tasks: Iterable[TaskPlan], checks: Iterable[tuple[str, CheckSpec]], breakers: Mapping[str, object]
) -> Makers:
    """In the order in which they start: phases of the life, tasks, the mailbox, checks, timeouts, circuits."""
    tasks = tuple(tasks)
    makers = [*phase_makers(chart.states)]
    for plan in tasks:
        states = plan.states | ({f"{plan.region}.failed"} if plan.region is not None else frozenset())
        makers.append(Maker(partial(_of_task, plan), states, frozenset(plan.during), is_kept=True))
    if not MAILBOX.isdisjoint(chart.states):
        makers.append(Maker(_of_desk, MAILBOX, is_kept=True))
    makers += [Maker(partial(_of_check, name, spec), _STARTED) for name, spec in checks]
    for state, seconds in chart.timeouts.items():
        makers.append(Maker(partial(_of_timeout, state, seconds, chart.timeout_event(state)), frozenset({state})))
    for name in breakers:
        makers.append(Maker(partial(_of_circuit, name), frozenset({f"started.{region_name(name)}.open"})))
        if any(plan.name == name for plan in tasks):
            makers.append(Maker(partial(_of_trial, name), frozenset({f"started.{region_name(name)}.half_open"})))
    return Makers([*makers, Maker(_of_unwell, _UNHEALTHY)])


def _of_task(plan: TaskPlan, host: HostPort) -> list[Activity]:
    return task_activities(host, plan)


def _of_desk(host: HostPort) -> list[Activity]:
    assert host.desk is not None
    return [host.desk.activity(MAILBOX)]


def _of_check(name: str, spec: CheckSpec, host: HostPort) -> list[Activity]:
    return [check_activity(host, name, spec)]


def _of_timeout(state: str, seconds: float, event: str, host: HostPort) -> list[Activity]:
    return [timeout_activity(host, state, seconds, event)]


def _of_circuit(name: str, host: HostPort) -> list[Activity]:
    return [circuit_activity(host.circuits[name])]


def _of_trial(name: str, host: HostPort) -> list[Activity]:
    return [trial_activity(host.circuits[name])]


def _of_unwell(host: HostPort) -> list[Activity]:
    return [unwell_activity(host)]

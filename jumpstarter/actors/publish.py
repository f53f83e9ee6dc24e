"""Tells the telemetry bus what an actor's chart and its resources did. Comes from: host, resources. Goes to: telemetry.bus.

Nothing is built while nobody listens, except for the times at which states were entered: a listener that comes later still
learns how long the last state took.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import anyio

from jumpstarter.clock import SYSTEM_CLOCK
from jumpstarter.states import Chart, Step
from jumpstarter.telemetry.bus import StateTransition, bus

_WARNINGS = frozenset({"degraded", "failed", "backing_off", "restarting", "lost", "missing"})
_ERRORS = frozenset({"unhealthy", "crashed"})


class Publisher:
    """Publishes the steps of one actor.

    :ivar machine: the actor's name.
    :ivar kind: its class.
    """

    __slots__ = ("_chart", "_entered", "_kind", "machine")

    def __init__(self, machine: str, kind: str, chart: Chart) -> None:
        self.machine = machine
        self._kind = kind
        self._chart = chart
        self._entered: dict[str, float] = {}

    def step(self, step: Step, active: tuple[str, ...], detail: str = "") -> None:
        """One event per transition, with the seconds that were spent in the state it left, and one per region that began.

        :param active: what the step led to.
        """
        if not bus.active:
            if self._entered:
                self._entered.clear()  # stale once a step is missed
            return
        now, monotonic = SYSTEM_CLOCK.now(), anyio.current_time()
        for transition in step.transitions:
            target = transition.target or transition.source
            since = self._entered.get(transition.source)
            attributes = {} if since is None else {"duration": monotonic - since}
            self._emit(transition.region, transition.source, target, transition.trigger, now, detail, attributes)
        self._initial_states(step, active, now, detail)
        for state in step.exited:
            self._entered.pop(state, None)
        for state in step.entered:
            if state in active:  # it may have been left again in the same step
                self._entered[state] = monotonic

    def _initial_states(self, step: Step, active: tuple[str, ...], now: float, detail: str) -> None:
        """The states that were entered with a state around them, not by a transition of their own: where each region begins. One
        that an eventless transition left at once is named by that transition."""
        named = {transition.target for transition in step.transitions}
        trigger = step.transitions[-1].trigger if step.transitions else ""
        for state in step.entered:
            if state in active and state not in named and not self._chart.children(state):
                self._emit(self._chart.region(state), "", state, trigger, now, detail, {})

    def resource(
        self, name: str, source: str, target: str, *, duration: float | None = None, error: BaseException | None = None
    ) -> None:
        """A resource changed from ``source`` to ``target``: missing, acquiring, held, lost, backing_off, releasing, released."""
        if bus.active:
            attributes = {} if duration is None else {"duration": duration}
            detail = "" if error is None else repr(error)
            self._emit(f"resources.{name}", source, target, "", SYSTEM_CLOCK.now(), detail, attributes)

    def _emit(
        self, region: str, source: str, target: str, trigger: str, now: float, detail: str, attributes: Mapping[str, Any]
    ) -> None:
        bus.emit(
            StateTransition(
                machine=self.machine,
                kind=self._kind,
                region=region,
                source=source,
                target=target,
                trigger=trigger,
                time=now,
                severity=_severity(target, trigger if source else ""),  # where a region begins is no trouble by itself
                detail=detail,
                attributes=attributes,
            )
        )


def _severity(target: str, trigger: str) -> Literal["info", "warning", "error"]:
    leaf = target.rpartition(".")[2]
    if leaf in _ERRORS or trigger == "fail":
        return "error"
    return "warning" if leaf in _WARNINGS else "info"

"""Writes transitions as lines of Python's own logging. Comes from: the bus. Goes to: the logger ``jumpstarter.transitions``."""

from __future__ import annotations

import logging
from collections.abc import Callable

from jumpstarter.telemetry.bus import Bus, StateTransition, bus

logger = logging.getLogger("jumpstarter.transitions")

_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def level_of(event: StateTransition) -> int:
    """A machine's life, health and flow, and whatever is a trouble, at their severity.

    At DEBUG: its work, its resources, the single steps of a start or stop, and the entry of initial states.
    """
    if event.severity != "info":
        return _LEVELS[event.severity]
    is_life = event.region == "" and "." not in event.target
    is_mood = event.region.rpartition(".")[2] in ("health", "flow")
    return logging.INFO if event.source and (is_life or is_mood) else logging.DEBUG


def line(event: StateTransition) -> str:
    """One transition for people: ``worker@host: started.health.healthy → started.health.degraded (report_warning): no cache``."""
    where = f"{event.machine} {event.region}" if event.region.startswith("resources.") else event.machine
    trigger = f" ({event.trigger})" if event.trigger else ""
    detail = f": {event.detail}" if event.detail else ""
    return f"{where}: {event.source or '·'} → {event.target}{trigger}{detail}"


def log_transitions(source: Bus = bus) -> Callable[[], None] | None:
    """Write every transition from now on, until the returned function is called.

    None, and nothing is subscribed, when the logger would write none of them: the bus stays free of cost.
    """
    if not logger.isEnabledFor(logging.ERROR):
        return None

    def write(event: StateTransition) -> None:
        level = level_of(event)
        if logger.isEnabledFor(level):
            logger.log(level, "%s", line(event))

    return source.subscribe(write)

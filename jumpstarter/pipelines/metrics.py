"""Metrics of pipelines: ``jumpstarter.pipeline.rows`` by outcome, ``jumpstarter.budget.remaining`` by unit. Used by: lane.

Callers ask ``tracing.enabled`` first; only a process that records loads OpenTelemetry. No ids: pipelines and budgets are few.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from jumpstarter.pipelines.stores.port import Room

#: Counts of a settlement that are outcomes of rows.
_OUTCOMES = ("done", "failed", "put_back", "dead")


@cache
def _instruments() -> tuple[Any, Any]:
    from opentelemetry import metrics  # noqa: PLC0415 - see the module's text

    meter = metrics.get_meter("jumpstarter")
    rows = meter.create_counter("jumpstarter.pipeline.rows", "{row}", "Rows that were settled, by outcome.")
    remaining = meter.create_gauge("jumpstarter.budget.remaining", "{unit}", "What is left in a window of a budget.")
    return rows, remaining


def settled(pipeline: str, counts: Mapping[str, float]) -> None:
    """Rows were settled."""
    for outcome in _OUTCOMES:
        if counts.get(outcome):
            _instruments()[0].add(counts[outcome], {"jumpstarter.pipeline": pipeline, "jumpstarter.outcome": outcome})


def seen(budget: str, room: Room) -> None:
    """A budget was looked at."""
    for look in room.looks:
        where = {"jumpstarter.budget": budget, "jumpstarter.unit": look.window.unit, "jumpstarter.period": look.window.period}
        _instruments()[1].set(look.left, where)

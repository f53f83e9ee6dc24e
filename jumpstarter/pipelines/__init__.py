"""Looped pipelines: poll → process → settle, within somebody else's limits.

A ``Pipeline`` (``pipeline``) is an actor that takes rows from a source (``sources``), in batches (``batches``), through the steps
that its class declares (``declare``, read by ``design``), within a budget (``budget``; ``windows`` decides, ``units``).
Each ``lane`` works on one batch at a time: it makes the ``calls`` of steps and settles what came of them, in one step of the store
(``stores``) together with what is handed to other pipelines (``links``) and kept for durable ``sides``.

The neighbours: ``actors`` below; ``testing`` and ``cli`` above. Brokers and workers are siblings that it does not know.
"""

from jumpstarter.actors import Backoff, backoff, resource
from jumpstarter.errors import LeaseLost, PipelineError, StoreUnavailable, Throttled
from jumpstarter.pipelines.batches import Batch, Gather, current_batch
from jumpstarter.pipelines.budget import Budget
from jumpstarter.pipelines.clocks import shared_clock
from jumpstarter.pipelines.declare import NextRun, next_run, on_failed, side, sink, step
from jumpstarter.pipelines.events import BatchFailed, BatchSettled, RequestFailed
from jumpstarter.pipelines.links import Flow
from jumpstarter.pipelines.pipeline import Pipeline
from jumpstarter.pipelines.queues import QueueRows
from jumpstarter.pipelines.report import Report
from jumpstarter.pipelines.sources import Join, MemoryRows, RedisRows, Source, SqliteRows, SqlQuery
from jumpstarter.pipelines.stores import open_store
from jumpstarter.pipelines.stores.port import Counts, DeadRow, Grant, Room
from jumpstarter.pipelines.units import Duration, Rate, day, days, hour, hours, minute, minutes, second, seconds

__all__ = [
    "Backoff",
    "Batch",
    "BatchFailed",
    "BatchSettled",
    "Budget",
    "Counts",
    "DeadRow",
    "Duration",
    "Flow",
    "Gather",
    "Grant",
    "Join",
    "LeaseLost",
    "MemoryRows",
    "NextRun",
    "Pipeline",
    "PipelineError",
    "QueueRows",
    "Rate",
    "RedisRows",
    "Report",
    "RequestFailed",
    "Room",
    "Source",
    "SqlQuery",
    "SqliteRows",
    "StoreUnavailable",
    "Throttled",
    "backoff",
    "current_batch",
    "day",
    "days",
    "hour",
    "hours",
    "minute",
    "minutes",
    "next_run",
    "on_failed",
    "open_store",
    "resource",
    "second",
    "seconds",
    "shared_clock",
    "side",
    "sink",
    "step",
]

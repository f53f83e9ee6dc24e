"""The worker's chart by itself, for diagrams, benchmarks and the curious."""

from __future__ import annotations

from jumpstarter.states import Chart
from jumpstarter.worker.options import WorkerOptions
from jumpstarter.worker.slots import slot_regions
from jumpstarter.worker.worker import Worker


def worker_chart(slots: int = 1) -> Chart:
    """The compiled chart of a worker with so many slots for plain functions."""
    options = WorkerOptions(name="worker", queues=("celery",), pool="threads", concurrency=slots)
    return Worker._plan_for(slot_regions(options)).chart

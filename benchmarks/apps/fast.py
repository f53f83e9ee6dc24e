"""The application of the throughput benchmark: one task that does nothing. Genuine workers and ours are given this same file."""

import os

from celery import Celery

URL = os.environ["FAST_URL"]

app = Celery("fast", broker=URL, backend=URL)
if prefetch := os.environ.get("FAST_PREFETCH"):
    app.conf.worker_prefetch_multiplier = int(prefetch)


@app.task
def nothing(number: int) -> None:
    """Do nothing with the number."""

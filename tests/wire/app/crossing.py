"""The app of test_crossing: results as messages, a fanout queue, events. Loaded by genuine Celery and by ours."""

from __future__ import annotations

import json
import os
from typing import Any

from celery import Celery
from kombu import Queue
from kombu.common import Broadcast

app = Celery("crossing", broker=os.environ["CROSSING_URL"], backend="rpc://")
app.conf.update(
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    task_queues=[Queue(f"crossing-{os.environ['CROSSING_SIDE']}"), Broadcast("news", routing_key="news")],
    task_default_queue=f"crossing-{os.environ['CROSSING_SIDE']}",
)


@app.task(name="where")
def where(number: int) -> list[Any]:
    return [os.environ["CROSSING_SIDE"], number]


@app.task(name="fail")
def fail() -> None:
    raise ValueError("no", 3)


@app.task(name="progress", bind=True)
def progress(self: Any) -> str:
    self.update_state(state="PROGRESS", meta={"done": 50})
    return "all"


@app.task(name="note")
def note(path: str, word: str) -> None:
    line = json.dumps({"word": word, "side": os.environ["CROSSING_SIDE"], "pid": os.getppid()}).encode() + b"\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)

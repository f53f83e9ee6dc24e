"""The application of the worker command's tests, on the embedded broker."""

import os
import threading
import time
from pathlib import Path

from celery import Celery, chain, chord, group, shared_task, signals

URL = os.environ["DESK_URL"]

app = Celery("desk", broker=URL, backend=URL)


@signals.worker_process_init.connect
def greet(**_):
    """Printed in each child."""
    print("worker_process_init", os.getpid(), flush=True)


@signals.worker_shutting_down.connect
def farewell(sig, how, **_):
    """Printed in the node's own process."""
    print("worker_shutting_down", how, int(sig), flush=True)


@app.task(acks_late=True)
def hold(folder, seconds):
    """Says that it began, works, and says that it ended."""
    with (Path(folder) / "began").open("a") as file:
        file.write("x")
    time.sleep(seconds)
    return "held"


@shared_task
def add(x, y):
    """A plain function."""
    return x + y


@shared_task
def total(numbers):
    """A chord's body."""
    return sum(numbers)


@app.task
async def aadd(x, y):
    """A coroutine that calls another task and awaits its result."""
    result = await add.adelay(x, y)
    return await result.aget(timeout=10)


@app.task(bind=True)
def whereabouts(self):
    """Where and as what it runs."""
    info = self.request
    return {
        "hostname": info.hostname,
        "queue": info.delivery_info["routing_key"],
        "main_thread": threading.current_thread() is threading.main_thread(),
    }


__all__ = ["aadd", "add", "app", "chain", "chord", "group", "hold", "total", "whereabouts"]

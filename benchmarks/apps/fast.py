"""The application of the benchmarks in Celery's words. Genuine workers and ours are given this same file."""

import asyncio
import os
import time
from typing import Any

from celery import Celery, group
from notes import burn, note, setting

BROKER = os.environ["BENCH_BROKER"]

app = Celery("fast", broker=BROKER, backend=setting("BENCH_RESULTS"))
app.conf.task_ignore_result = not setting("BENCH_RESULTS")
app.conf.broker_connection_retry_on_startup = True
if prefetch := setting("BENCH_PREFETCH", 0):
    app.conf.worker_prefetch_multiplier = prefetch


@app.task
def nothing(number: int, payload: str = "") -> int:
    """Note the number; the payload only has to come along."""
    del payload
    note(number)
    return number


@app.task
def compute(number: int, seconds: float) -> int:
    """Keep a core busy."""
    began = time.monotonic()
    burn(seconds)
    note(number, began)
    return number


@app.task
def pause(number: int, seconds: float) -> int:
    """Wait, holding a thread or a greenlet."""
    began = time.monotonic()
    time.sleep(seconds)
    note(number, began)
    return number


@app.task
async def wait(number: int, seconds: float) -> int:
    """Wait, holding nothing. For ours: genuine Celery has no coroutine tasks."""
    began = time.monotonic()
    await asyncio.sleep(seconds)
    note(number, began)
    return number


# What client.py asks every contestant for.


def send(number: int) -> Any:
    """One message."""
    return nothing.delay(number)


def send_bulk(numbers: range) -> None:
    """All of them at once: by our own call where there is one, else as a group (the only bulk call of Celery's public API)."""
    if hasattr(nothing, "apply_async_many"):
        nothing.apply_async_many([(number,) for number in numbers])
    else:
        group(nothing.s(number) for number in numbers).apply_async()


def send_batch(numbers: range) -> None:
    """Kombu's pipelined publishing: ``producer.batch()``, new in Kombu 5.7. Genuine Celery only."""
    with app.producer_pool.acquire(block=True) as producer, producer.batch():
        for number in numbers:
            nothing.apply_async((number,), producer=producer)


def call(number: int) -> Any:
    """One message and its result."""
    return nothing.delay(number).get(timeout=30)

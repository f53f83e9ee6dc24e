"""The same application for taskiq with taskiq-redis: its list broker, or its stream broker with BENCH_STREAM."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from notes import burn, note, setting
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend, RedisStreamBroker

URL = setting("BENCH_BROKER")
RESULTS = setting("BENCH_RESULTS")

STREAM = setting("BENCH_STREAM", 0)
broker = RedisStreamBroker(url=URL, xread_count=1000, consumer_id="0") if STREAM else ListQueueBroker(url=URL)
if RESULTS:
    broker = broker.with_result_backend(RedisAsyncResultBackend(redis_url=RESULTS))


@broker.task
async def nothing(number: int) -> int:
    """Note the number."""
    note(number)
    return number


@broker.task
async def pause(number: int, seconds: float) -> int:
    """Wait."""
    began = time.monotonic()
    await asyncio.sleep(seconds)
    note(number, began)
    return number


@broker.task
def compute(number: int, seconds: float) -> int:
    """Keep a core busy."""
    began = time.monotonic()
    burn(seconds)
    note(number, began)
    return number


@contextlib.asynccontextmanager
async def session() -> AsyncIterator[None]:
    """The client's connection."""
    await broker.startup()
    try:
        yield
    finally:
        await broker.shutdown()


async def send(number: int) -> None:
    """One message."""
    await nothing.kiq(number)


async def send_bulk(numbers: range) -> None:
    """It has no bulk call: fifty at a time."""
    for first in range(0, len(numbers), 50):
        await asyncio.gather(*(nothing.kiq(number) for number in numbers[first : first + 50]))


async def send_naps(numbers: range) -> None:
    """Tasks that wait 50 ms."""
    for first in range(0, len(numbers), 50):
        await asyncio.gather(*(pause.kiq(number, 0.05) for number in numbers[first : first + 50]))


async def call(number: int) -> int:
    """One message and its result; looked for every millisecond (the default is 200)."""
    task = await nothing.kiq(number)
    return int((await task.wait_result(check_interval=0.001, timeout=30)).return_value)

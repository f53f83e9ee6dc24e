"""The same application for SAQ. It always stores results."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

from notes import burn, note, setting
from saq import Queue

queue = Queue.from_url(setting("BENCH_BROKER"))


async def nothing(_ctx: Any, *, number: int) -> int:
    """Note the number."""
    note(number)
    return number


async def pause(_ctx: Any, *, number: int, seconds: float) -> int:
    """Wait."""
    began = time.monotonic()
    await asyncio.sleep(seconds)
    note(number, began)
    return number


async def compute(_ctx: Any, *, number: int, seconds: float) -> int:
    """Keep a core busy."""
    began = time.monotonic()
    burn(seconds)
    note(number, began)
    return number


settings = {"queue": queue, "functions": [nothing, pause, compute], "concurrency": setting("BENCH_SLOTS", 100)}


@contextlib.asynccontextmanager
async def session() -> AsyncIterator[None]:
    """The client's connection."""
    await queue.connect()
    try:
        yield
    finally:
        await queue.disconnect()


async def send(number: int) -> None:
    """One message."""
    await queue.enqueue("nothing", number=number)


async def send_bulk(numbers: range) -> None:
    """It has no bulk call: fifty at a time."""
    for first in range(0, len(numbers), 50):
        await asyncio.gather(*(queue.enqueue("nothing", number=number) for number in numbers[first : first + 50]))


async def call(number: int) -> int:
    """One message and its result, which it is told of (and looks for every millisecond as well; the default is 500)."""
    return int(await queue.apply("nothing", number=number, poll_interval=0.001, timeout=30))

"""The same application for repid, which stores no results. ``python repid_app.py`` is its worker."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from notes import burn, note, setting
from repid import RedisServer, Repid, Router

app = Repid(title="bench")
server = RedisServer(setting("BENCH_BROKER"), batch_size=500)
app.servers.register_server("default", server, is_default=True)
router = Router()


@router.actor
async def nothing(number: int) -> None:
    """Note the number."""
    note(number)


@router.actor
async def pause(number: int, seconds: float) -> None:
    """Wait."""
    began = time.monotonic()
    await asyncio.sleep(seconds)
    note(number, began)


@router.actor
async def compute(number: int, seconds: float) -> None:
    """Keep a core busy."""
    began = time.monotonic()
    burn(seconds)
    note(number, began)


app.include_router(router)


@contextlib.asynccontextmanager
async def session() -> AsyncIterator[None]:
    """The client's connection."""
    async with server.connection():
        yield


async def send(number: int) -> None:
    """One message."""
    await app.send_message_json(channel="default", payload={"number": number}, headers={"topic": "nothing"})


async def send_bulk(numbers: range) -> None:
    """It has no bulk call: fifty at a time."""
    for first in range(0, len(numbers), 50):
        await asyncio.gather(*(send(number) for number in numbers[first : first + 50]))


async def send_naps(numbers: range) -> None:
    """Tasks that wait 50 ms."""
    for first in range(0, len(numbers), 50):
        await asyncio.gather(
            *(
                app.send_message_json(channel="default", payload={"number": number, "seconds": 0.05}, headers={"topic": "pause"})
                for number in numbers[first : first + 50]
            )
        )


async def main() -> None:
    """Work."""
    async with server.connection():
        await app.run_worker(tasks_limit=setting("BENCH_SLOTS", 1000))


if __name__ == "__main__":
    asyncio.run(main())

"""The clients' side of the benchmarks: runs in each contestant's own environment.

python client.py APP fill COUNT [WAY]     publish so many tasks, all at once where there is a way, and be silent about the time
python client.py APP publish COUNT WAY    the same, timed; WAY is send (one by one) or the name of a bulk function of the app
python client.py APP call COUNT           call and wait for the result, one after the other: seconds each

Prints one line of JSON. APP is a module beside this one with ``send``, ``send_bulk`` and ``call`` (functions or coroutine
functions) and, where a connection must be opened first, an asynchronous context manager ``session``.
"""

import asyncio
import contextlib
import importlib
import inspect
import json
import sys
import time
from collections.abc import AsyncIterator
from typing import Any


@contextlib.asynccontextmanager
async def no_session() -> AsyncIterator[None]:
    """For those that need none."""
    yield


def publish(app: Any, count: int, way: str) -> dict[str, float]:
    """Seconds that publishing takes."""
    function = getattr(app, way)
    function(0) if way == "send" else function(range(1))  # the first one opens connections and looks things up
    began = time.perf_counter()
    if way == "send":
        for number in range(count):
            function(number)
    else:
        function(range(count))
    return {"seconds": time.perf_counter() - began}


async def publish_async(app: Any, count: int, way: str) -> dict[str, float]:
    """The same for coroutine functions."""
    function = getattr(app, way)
    await (function(0) if way == "send" else function(range(1)))
    began = time.perf_counter()
    if way == "send":
        for number in range(count):
            await function(number)
    else:
        await function(range(count))
    return {"seconds": time.perf_counter() - began}


def fill(app: Any, count: int, way: str) -> dict[str, float]:
    """Publish exactly so many."""
    if way == "send":
        for number in range(count):
            app.send(number)
    else:
        getattr(app, way)(range(count))
    return {}


async def fill_async(app: Any, count: int, way: str) -> dict[str, float]:
    """The same for coroutine functions."""
    if way == "send":
        for number in range(count):
            await app.send(number)
    else:
        await getattr(app, way)(range(count))
    return {}


WARM_UP = 20


def call(app: Any, count: int, _way: str) -> dict[str, list[float]]:
    """Seconds of each call, the first ones left out."""
    seconds = []
    for number in range(-WARM_UP, count):
        began = time.perf_counter()
        app.call(number)
        seconds.append(time.perf_counter() - began)
    return {"seconds": seconds[WARM_UP:]}


async def call_async(app: Any, count: int, _way: str) -> dict[str, list[float]]:
    """The same for coroutine functions."""
    seconds = []
    for number in range(-WARM_UP, count):
        began = time.perf_counter()
        await app.call(number)
        seconds.append(time.perf_counter() - began)
    return {"seconds": seconds[WARM_UP:]}


async def in_session(app: Any, work: Any) -> Any:
    """Run the coroutine with the app's connection open."""
    async with getattr(app, "session", no_session)():
        return await work


def main() -> None:
    """Do what the command line says."""
    name, verb, count, *way = sys.argv[1:]
    app = importlib.import_module(name)
    chosen = way[0] if way else "send_bulk"
    if inspect.iscoroutinefunction(app.send):
        work = {"fill": fill_async, "publish": publish_async, "call": call_async}[verb](app, int(count), chosen)
        answer = asyncio.run(in_session(app, work))
    else:
        answer = {"fill": fill, "publish": publish, "call": call}[verb](app, int(count), chosen)
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

"""What the loop itself costs: rows through a step that does nothing, in batches of 1,000, leases and settling included.

``python benchmarks/pipelines.py [--rows 200000] [--check]``. It must be at least 100,000 rows/s from memory, and 50,000 on SQLite
and Redis. Putting the rows into the queue is not counted for the latter two (it is printed), and is for memory, which reads a list.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import anyio

from jumpstarter.actors import run
from jumpstarter.pipelines import MemoryRows, Pipeline, Source, step

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.redis_server import RedisServer

BATCH = 1_000
WANTED = {"memory": 100_000, "sqlite": 50_000, "redis": 50_000}


def no_op(source: Source) -> type[Pipeline]:
    """A pipeline that does nothing with its rows."""

    class NoOp(Pipeline):
        rows = source

        @step
        async def nothing(self, rows: list[Any]) -> list[Any]:
            return rows

    return NoOp


def measure(kind: str, rows: int, url: str, backend: str) -> float:
    """Rows per second."""
    values = [{"id": number, "text": f"keyword {number}"} for number in range(rows)]
    if kind == "memory":
        source: Source = MemoryRows(values, batch=BATCH, key="id", remember=0)
    else:
        source = Source("bench", store=url, batch=BATCH, key="id", remember=0)
        began = time.perf_counter()
        source.put_nowait(values)
        print(f"{kind}: {rows / (time.perf_counter() - began):,.0f} rows/s put into the queue")
    pipeline = no_op(source)(until="empty")
    began, busy = time.perf_counter(), time.process_time()
    anyio.run(run, pipeline, backend=backend)
    assert pipeline.report.done == rows
    print(f"{kind} on {backend}: {1e6 * (time.process_time() - busy) / rows:.1f} µs of this process's CPU for a row")
    return rows / (time.perf_counter() - began)


def main() -> int:
    """Measure all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--check", action="store_true", help="fail where it is slower than it must be")
    options = parser.parse_args()
    slow = []
    with tempfile.TemporaryDirectory() as folder, RedisServer() as server:
        for kind, wanted in WANTED.items():
            for backend in ("asyncio", "trio"):
                url = {"sqlite": f"sqlite:///{folder}/{backend}.db", "redis": f"{server.url[:-1]}{int(backend == 'trio')}"}.get(
                    kind, ""
                )
                found = measure(kind, options.rows, url, backend)
                print(f"{kind} on {backend}: {found:,.0f} rows/s (wanted: {wanted:,})", flush=True)
                if found < wanted:
                    slow.append(kind)
    return int(options.check and bool(slow))


if __name__ == "__main__":
    sys.exit(main())

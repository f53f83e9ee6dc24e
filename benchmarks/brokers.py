"""Measure a broker without a worker: publish, and claim + decode + settle with a result for each message.

    python -m benchmarks.brokers [--messages 20000] [--url redis://…]

Without ``--url`` it starts a private redis-server. Messages are as large as Celery's (about 900 bytes).
Every figure is messages per second of one process, which shares the machine with the server: run it twice before you believe a
difference below 1.5.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial

from jumpstarter.brokers.redis import RedisBroker
from jumpstarter.jobs import ACK, Document, Envelope, Settlement
from jumpstarter.results.redis import RedisResults
from tests.redis_server import RedisServer

QUEUE = "benchmark"
BODY = json.dumps([[1, 2], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]).encode()
NOTHING = ("shadow", "eta", "expires", "group", "group_index", "parent_id", "stamped_headers")


def message(number: int) -> Envelope:
    """What a Celery client sends for ``add.delay(1, 2)``."""
    task = str(uuid.UUID(int=number))
    headers = dict.fromkeys(NOTHING) | {
        "lang": "py",
        "task": "proj.tasks.add",
        "id": task,
        "retries": 0,
        "timelimit": [None, None],
        "root_id": task,
        "argsrepr": "(1, 2)",
        "kwargsrepr": "{}",
        "origin": "gen12345@host.example.org",
        "ignore_result": False,
        "replaced_task_nesting": 0,
        "stamps": {},
    }
    return Envelope(queue=QUEUE, body=BODY, headers=headers, properties={"correlation_id": task, "reply_to": str(uuid.UUID(int=7))})


def rate(count: int, work: Callable[[], None]) -> float:
    """Messages per second."""
    began = time.perf_counter()
    work()
    return count / (time.perf_counter() - began)


def publish_singly(broker: RedisBroker, envelopes: list[Envelope]) -> None:
    """One round trip for each."""
    for envelope in envelopes:
        broker.publish([envelope])


DOCUMENT = (
    b'{"status": "SUCCESS", "result": 3, "traceback": null, "children": [], "date_done": "2026-01-01T00:00:00+00:00", '
    b'"task_id": "%b"}'
)


def drain(broker: RedisBroker, results: RedisResults | None, size: int) -> None:
    """What a worker does whose tasks take no time."""
    while deliveries := broker.claim([QUEUE], size, incarnation="benchmark", lease=30):
        settlements = []
        for delivery in deliveries:
            assert delivery.envelope is not None
            task = delivery.envelope.headers["id"]
            stored = [Document(f"celery-task-meta-{task}", DOCUMENT % task.encode(), 86400.0)] if results else []
            settlements.append(Settlement(delivery, ACK, writes=results.writes(stored) if results else ()))
        assert all(broker.settle(settlements, incarnation="benchmark"))


@contextlib.contextmanager
def server(url: str | None) -> Iterator[str]:
    """The given server, or a private one."""
    if url:
        yield url
    else:
        with RedisServer() as private:
            yield private.url


def measure(url: str, count: int) -> Iterator[tuple[str, float]]:
    """Names and figures, as they come."""
    broker, results = RedisBroker(url), RedisResults(url)
    envelopes = [message(number) for number in range(count)]
    few = envelopes[: count // 10]
    broker.purge(QUEUE)
    yield "publish one by one", rate(len(few), partial(publish_singly, broker, few))
    broker.purge(QUEUE)
    for size in (1, 16, 100, 256):
        part = envelopes if size > 1 else few
        yield f"publish in bulk ({len(part)} at once)", rate(len(part), partial(broker.publish, part))
        yield f"claim, decode, settle with result by {size}", rate(len(part), partial(drain, broker, results, size))
        broker.publish(part)
        yield f"claim, decode, settle without result by {size}", rate(len(part), partial(drain, broker, None, size))


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--url", help="a Redis database that may be written to (queue 'benchmark', celery-task-meta-… keys)")
    options = parser.parse_args()
    with server(options.url) as url:
        for name, figure in measure(url, options.messages):
            print(f"{name:55} {figure:10,.0f}/s")


if __name__ == "__main__":
    main()

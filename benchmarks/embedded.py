"""How fast the embedded brokers are: messages a second through one process, and the delay until another process wakes.

Run: ``python benchmarks/embedded.py [memory|sqlite …] [--count N]``. Prints one line per figure. Messages have 500-byte bodies and
the headers of a Celery task, results 300 bytes. The file lies in the default temporary directory.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator

from jumpstarter.abc.broker import Broker
from jumpstarter.abc.results import Results
from jumpstarter.brokers import open_broker
from jumpstarter.jobs import ACK, Document, Envelope, Settlement
from jumpstarter.results import open_results
from jumpstarter.testing.broker_kit import Forked

BODY = b"[[" + b'"x", ' * 98 + b"1], {}, {}]"
RESULT = b'{"status": "SUCCESS", "result": "' + b"y" * 260 + b'"}'
FLAGS = {"lang": "py", "task": "shop.tasks.send", "shadow": None, "eta": None, "expires": None, "group": None, "retries": 0}
MORE_FLAGS = {
    "timelimit": [None, None],
    "root_id": None,
    "parent_id": None,
    "argsrepr": "('x',)",
    "kwargsrepr": "{}",
    "origin": "gen1@host",
}


def envelopes(count: int) -> list[Envelope]:
    """So many messages as a Celery client would send them."""
    return [
        Envelope(
            queue="celery",
            body=BODY,
            headers={**FLAGS, **MORE_FLAGS, "id": str(uuid.uuid4())},
            properties={"correlation_id": str(uuid.uuid4()), "reply_to": str(uuid.uuid4()), "delivery_mode": 2},
        )
        for _ in range(count)
    ]


def publish(broker: Broker, messages: list[Envelope], batch: int) -> None:
    """Publish all of them, so many at a time."""
    for first in range(0, len(messages), batch):
        broker.publish(messages[first : first + batch])


def drain(broker: Broker, results: Results, batch: int, incarnation: str = "bench") -> int:
    """Claim, decode and settle with a result each, until the queue is empty; answer how many."""
    done = 0
    while deliveries := broker.claim(["celery"], batch, incarnation=incarnation, lease=30.0):
        broker.settle(
            [
                Settlement(
                    delivery=delivery,
                    action=ACK,
                    writes=results.writes([Document(f"celery-task-meta-{uuid.uuid4()}", RESULT, ttl=86_400.0, final=True)]),
                )
                for delivery in deliveries
            ],
            incarnation=incarnation,
        )
        done += len(deliveries)
    return done


def timed(label: str, count: int, work: Callable[[], object]) -> None:
    """Run the work and print how many a second that is."""
    began = time.perf_counter()
    work()
    took = time.perf_counter() - began
    print(f"{label:<42}{count / took:>10,.0f} /s {took / count * 1e6:>8.1f} µs each")


@contextlib.contextmanager
def server(kind: str) -> Iterator[str]:
    """The URL of an empty server."""
    if kind == "memory":
        yield f"memory://bench-{uuid.uuid4()}"
    else:
        with tempfile.TemporaryDirectory() as directory:
            yield f"sqlite:///{directory}/bench.db"


def measure_rates(kind: str, count: int) -> None:
    """Publishing and working off, in one process."""
    with server(kind) as url, open_broker(url) as broker, open_results(url) as results:
        for publish_batch, claim_batch in ((1, 1), (16, 16), (100, 100), (256, 256)):
            messages = envelopes(count if claim_batch > 1 else count // 5)
            timed(f"{kind} publish by {publish_batch}", len(messages), lambda m=messages, b=publish_batch: publish(broker, m, b))
            timed(f"{kind} claim+settle+result by {claim_batch}", len(messages), lambda b=claim_batch: drain(broker, results, b))


def measure_processes(count: int, processes: int = 2) -> None:
    """Working off in several processes at once."""
    with server("sqlite") as url, open_broker(url) as broker, open_results(url) as results:
        publish(broker, envelopes(count), 1000)

        def work() -> None:
            children = [Forked(drain, broker, results, 100, f"bench-{number}") for number in range(processes)]
            assert sum(child.result() for child in children) == count

        timed(f"sqlite claim+settle+result, {processes} processes", count, work)


def measure_wake_up(rounds: int = 500) -> None:
    """From a publish in one process to the end of a wait in another."""
    asking, telling = os.pipe()
    with server("sqlite") as url, open_broker(url) as broker:
        broker.ping()

        def listen() -> list[float]:
            ends = []
            for _ in range(rounds):
                os.write(telling, b"!")
                broker.wait(["celery"], 10.0, incarnation="bench")
                ends.append(time.monotonic())
                (delivery,) = broker.claim(["celery"], 1, incarnation="bench", lease=30.0)
                broker.settle([Settlement(delivery, ACK)], incarnation="bench")
            return ends

        child = Forked(listen)
        starts = []
        for message in envelopes(rounds):
            os.read(asking, 1)
            time.sleep(0.002)  # lets the wait fall asleep
            starts.append(time.monotonic())
            broker.publish([message])
        delays = sorted(end - start for start, end in zip(starts, child.result(), strict=True))
    os.close(asking)
    os.close(telling)
    p50, p99 = statistics.median(delays) * 1e3, delays[-rounds // 100] * 1e3
    print(f"sqlite publish to wake-up in another process: p50 {p50:.2f} ms, p99 {p99:.2f} ms")


def main() -> None:
    """Measure what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=["memory", "sqlite"])
    parser.add_argument("--count", type=int, default=20_000)
    options = parser.parse_args()
    for kind in options.kinds:
        measure_rates(kind, options.count)
        if kind == "sqlite":
            measure_processes(options.count)
            measure_wake_up()


if __name__ == "__main__":
    main()

"""What a message costs on RabbitMQ: claims and settlements of ours beside a bare py-amqp loop, in turns on one server.

    python -m benchmarks.transports [--messages 20000] [--rounds 3] [--processes 2] [--quorum] [--url amqp://…]

Starts a private RabbitMQ unless told of one. Nothing runs but the transport: each side takes protocol 2 messages of a no-op task
from a full queue and acks them, the bare loop with a prefetch of 200 and one ack for every hundred.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import amqp

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from jumpstarter.brokers.kombu import AmqpBroker
from jumpstarter.jobs import ACK, Envelope, Settlement
from tests.rabbitmq_server import RabbitServer

QUEUE = "benchmark"
BODY = b'[[1], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'


def envelope() -> Envelope:
    """A no-op task's message, as Celery sends it."""
    task = str(uuid.uuid4())
    headers = {
        "lang": "py",
        "task": "shop.noop",
        "id": task,
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [None, None],
        "root_id": task,
        "parent_id": None,
        "argsrepr": "(1,)",
        "kwargsrepr": "{}",
        "origin": "gen1@host",
        "ignore_result": False,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
    }
    properties = {"correlation_id": task, "reply_to": str(uuid.uuid4()), "delivery_mode": 2}
    return Envelope(queue=QUEUE, body=BODY, headers=headers, properties=properties)


def bare(url: str, count: int) -> None:
    """The loop that py-amqp allows at best."""
    host = url.split("@")[1].rstrip("/")
    with amqp.Connection(host) as connection:
        channel = connection.channel()
        channel.basic_qos(0, 200, False)
        done = 0

        def take(message: amqp.Message) -> None:
            nonlocal done
            done += 1
            if done % 100 == 0 or done == count:
                channel.basic_ack(message.delivery_tag, multiple=True)

        channel.basic_consume(QUEUE, callback=take)
        while done < count:
            connection.drain_events(timeout=20)


def ours(url: str, count: int, queue_type: str = "classic") -> None:
    """Claims and settlements as a worker makes them."""
    with AmqpBroker(url, queue_type=queue_type, delayed_queue_type="classic") as broker:
        done = 0
        while done < count:
            deliveries = broker.claim([QUEUE], min(256, count - done), incarnation="bench", lease=30.0)
            if not deliveries:
                broker.wait([QUEUE], 20, incarnation="bench")
                continue
            done += len(deliveries)
            assert all(broker.settle([Settlement(delivery, ACK) for delivery in deliveries], incarnation="bench"))
        broker.release("bench")


def in_processes(work: Callable[[str, int], None], url: str, count: int, processes: int) -> float:
    """Messages a second."""
    began = time.monotonic()
    children = []
    for _ in range(processes):
        child = os.fork()
        if child == 0:
            code = 1
            with contextlib.suppress(BaseException):
                work(url, count // processes)
                code = 0
            os._exit(code)
        children.append(child)
    assert all(os.waitpid(child, 0)[1] == 0 for child in children), "a process failed"
    return count / (time.monotonic() - began)


def main() -> None:
    """Compare, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--quorum", action="store_true")
    parser.add_argument("--url")
    options = parser.parse_args()
    queue_type = "quorum" if options.quorum else "classic"
    with contextlib.ExitStack() as stack:
        url = options.url or stack.enter_context(RabbitServer()).url
        rates: dict[str, list[float]] = {"py-amqp": [], "ours": [], "publish": []}
        for _ in range(options.rounds):
            for name in ("py-amqp", "ours"):
                with AmqpBroker(url, queue_type=queue_type, delayed_queue_type="classic", timeout=60.0) as broker:
                    broker.purge(QUEUE)
                    envelopes = [envelope() for _ in range(options.messages)]
                    began = time.monotonic()
                    for start in range(0, options.messages, 1000):
                        broker.publish(envelopes[start : start + 1000])
                    rates["publish"].append(options.messages / (time.monotonic() - began))
                work = bare if name == "py-amqp" else lambda url, count: ours(url, count, queue_type)
                rates[name].append(in_processes(work, url, options.messages, options.processes))
        for name, figures in rates.items():
            each = ", ".join(f"{figure:,.0f}" for figure in figures)
            print(f"{name:>8}: {statistics.median(figures):>8,.0f} messages/s  [{each}]")
        ratio = statistics.median(rates["ours"]) / statistics.median(rates["py-amqp"])
        print(f"{queue_type} queue, {options.processes} process(es): {ratio:.2f} x the bare loop")


if __name__ == "__main__":
    main()

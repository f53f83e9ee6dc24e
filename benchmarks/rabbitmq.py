"""RabbitMQ for the benchmarks: filling a queue with a client's messages, and the raw loop that a worker is compared with.

The loop is the least that a worker can do with py-amqp, which Celery, Kombu and ours speak through: two processes, each a
connection, a prefetch of 200, the body decoded, the function called, acks for 50 messages at a time. No results, no reconnect,
no limits.

    python benchmarks/rabbitmq.py                      # 30,000 tasks, 3 rounds
"""

from __future__ import annotations

import argparse
import base64
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import amqp  # type: ignore[import-untyped]  # ships no annotations

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs as a plain script

from benchmarks import figures
from benchmarks.apps.notes import note
from benchmarks.noted import Notes, notes
from tests.peers import raw_message

PREFETCH, ACK_EVERY = 200, 50


def connect(url: str) -> amqp.Connection:
    """A connection to a private server."""
    parts = urlsplit(url)
    made = amqp.Connection(f"{parts.hostname}:{parts.port}", userid=parts.username, password=parts.password)
    made.connect()
    return made


def load(url: str, messages: Iterable[bytes], queue: str = "celery") -> None:
    """Send what :func:`tests.peers.raw_message` makes as a client would send it over AMQP; return when the server has all of it."""
    with connect(url) as connection, connection.channel() as channel:
        channel.queue_declare(queue, durable=True, auto_delete=False)
        count = 0
        for raw in messages:
            message = json.loads(raw)
            properties = message["properties"]
            sent = amqp.Message(
                base64.b64decode(message["body"]),
                content_type=message["content-type"],
                content_encoding=message["content-encoding"],
                application_headers=message["headers"],
                delivery_mode=2,
                correlation_id=properties["correlation_id"],
                reply_to=properties["reply_to"],
                priority=0,
            )
            channel.basic_publish(sent, exchange="", routing_key=queue)
            count += 1
        while channel.queue_declare(queue, passive=True).message_count < count:
            time.sleep(0.01)


def child(url: str, path: str) -> None:
    """Consume until there has been nothing for two seconds."""
    os.environ["BENCH_NOTES"] = path

    def nothing(number: int) -> int:
        note(number)
        return number

    tasks = {"fast.nothing": nothing}
    waiting = 0
    with connect(url) as connection, connection.channel() as channel:
        channel.basic_qos(0, PREFETCH, False)

        def run(message: Any) -> None:
            nonlocal waiting
            args, kwargs, _ = json.loads(message.body)
            tasks[message.headers["task"]](*args, **kwargs)
            waiting += 1
            if waiting == ACK_EVERY:
                channel.basic_ack(message.delivery_tag, multiple=True)
                waiting = 0

        channel.basic_consume("celery", callback=run)
        try:
            while True:
                connection.drain_events(timeout=2.0)
        except TimeoutError:
            channel.basic_ack(0, multiple=True)  # 0: all that are left


def measure(url: str, noted: Notes, tasks: int, processes: int = 2) -> float:
    """Tasks per second of the raw loop."""
    noted.clear()
    load(url, (raw_message("fast.nothing", [number]) for number in range(tasks)))
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=child, args=(url, str(noted.path))) for _ in range(processes)]
    for each in children:
        each.start()
    for each in children:
        each.join()
    done = noted.check(tasks)
    return (tasks - 1) / (done[-1].ended - done[0].began)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = figures.parser(__doc__)
    parser.add_argument("--tasks", type=int, default=30_000)
    options = parser.parse_args()
    if options.short:
        options.tasks, options.rounds = 5_000, 1
    return options


def main() -> int:
    """Print the rate."""
    from tests.rabbitmq_server import RabbitServer, server_script  # noqa: PLC0415 - only here

    options = parse()
    if server_script() is None:
        print("rabbitmq-server is not installed", file=sys.stderr)
        return 1
    print(figures.ground(f"py-amqp {amqp.__version__}"), flush=True)
    with RabbitServer() as server, notes() as noted:
        rates = [measure(server.url, noted, options.tasks) for _ in range(options.rounds)]
    return figures.finish([figures.Line("raw py-amqp loop, 2 processes, no results", figures.spread(rates))], options)


if __name__ == "__main__":
    sys.exit(main())

"""What crosses between genuine Celery and ours beside plain tasks and results, on Redis and on RabbitMQ: replies,
what is said to everybody, and events."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.peers import Conversation, Ledger, Program, Side, wait_ready
from tests.rabbitmq_server import rabbitmq_server
from tests.redis_server import redis_server, shared_redis
from tests.wire.conftest import APP, HERE, observe

__all__ = ["rabbitmq_server", "redis_server", "shared_redis"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@dataclass(frozen=True, slots=True)
class Crossing:
    """A broker with workers and clients of both sides."""

    url: str
    folder: Path
    stack: ExitStack

    def _environment(self, side: Side) -> dict[str, str]:
        return side.environment(APP, CROSSING_URL=self.url, CROSSING_SIDE=side.name)

    def worker(self, side: Side, *options: str, name: str = "") -> Program:
        """A worker that is ready; it takes from the queue ``crossing-<side>``."""
        name = name or side.name
        log = self.folder / f"worker-{name}.log"
        given = ["-n", f"{name}@crossing", "-c", "1", *options]
        worker = side.worker("crossing", *given, folder=self.folder, env=self._environment(side), log=log)
        self.stack.enter_context(worker)
        return worker

    def client(self, side: Side) -> Conversation:
        command = [*side.python, HERE / "crossing_client.py"]
        log = self.folder / f"client-{side.name}.log"
        return self.stack.enter_context(Conversation(command, folder=self.folder, env=self._environment(side), log=log))


@pytest.fixture(params=["redis", "rabbitmq"])
def crossing(request: Any, tmp_path: Path) -> Iterator[Crossing]:
    server = request.getfixturevalue(f"{request.param}_server")
    with ExitStack() as stack:
        yield Crossing(server.url, tmp_path, stack)


def test_replies_reach_who_called_whoever_ran_the_task(crossing: Crossing, sides: dict[str, Side]) -> None:
    workers = [crossing.worker(side) for side in sides.values()]
    clients = {name: crossing.client(side) for name, side in sides.items()}
    for worker in workers:
        wait_ready(worker)
    for client in clients.values():
        for name in sides:
            assert observe(client, "replies", queue=f"crossing-{name}") == {
                "one": [name, 1],
                "state": "SUCCESS",
                "raised": ["ValueError", ["no", 3]],
                "failed": "FAILURE",
                "group": [[name, number] for number in range(10)],
                "progress": "all",
                "chain": [name, 2],
                "seen": "SUCCESS",
            }


def test_what_is_said_to_everybody_is_heard_by_each_worker_once(crossing: Crossing, sides: dict[str, Side]) -> None:
    ledger = Ledger(crossing.folder / "heard")
    names = {"genuine": "genuine", "ours": "ours", "ours-2": "ours"}
    workers = [crossing.worker(sides[side], "-c", "2", name=name) for name, side in names.items()]
    clients = [crossing.client(side) for side in sides.values()]
    for worker in workers:
        wait_ready(worker)
    words = [f"{number} of {which}" for which in range(len(clients)) for number in range(5)]
    for which, client in enumerate(clients):
        for number in range(5):
            observe(client, "broadcast", path=str(ledger.path), word=f"{number} of {which}")
    ledger.wait(len(words) * len(workers), within=60)
    for client in clients:  # were anything heard twice, it would be so by the time that this is answered
        for name in sides:
            observe(client, "replies", queue=f"crossing-{name}")
    heard = sorted((entry["word"], entry["side"]) for entry in ledger.entries())
    assert heard == sorted((word, side) for word in words for side in names.values())


def test_a_genuine_monitor_sees_our_worker_and_its_tasks(crossing: Crossing, sides: dict[str, Side]) -> None:

    worker = crossing.worker(sides["ours"], "-E")
    client = crossing.client(sides["genuine"])
    wait_ready(worker)
    assert observe(client, "watch", queue="crossing-ours") == {
        "worker": ["ours@crossing", True, "py-celery"],
        "states": ["SUCCESS", "FAILURE"],
        "name": "where",
        "args": "(1,)",
        "by": "ours@crossing",
        "exception": "ValueError('no', 3)",
        "types": ["task-received", "task-started", "task-succeeded"],
    }

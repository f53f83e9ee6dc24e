"""What crosses between genuine Celery and ours beside plain tasks and results, on Redis and on RabbitMQ: replies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.peers import Conversation, Program, Side, wait_ready
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

"""A private Redis, workers and clients of either side, all of them real processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.peers import Conversation, Ledger, PeerUnavailable, Program, RedisServer, Side, both_sides, wait_ready

HERE = Path(__file__).parent
APP = HERE / "app"


@dataclass(frozen=True, slots=True)
class Wire:
    """A Redis with the workers and clients that share it."""

    redis: RedisServer
    folder: Path
    stack: ExitStack

    def environment(self, side: Side, **more: str) -> dict[str, str]:
        # REDIS_HOST and REDIS_PORT are read by t/integration/tasks.py.
        return side.environment(APP, WIRE_URL=self.redis.url, REDIS_HOST="127.0.0.1", REDIS_PORT=str(self.redis.port), **more)

    def worker(self, side: Side, *options: str) -> Program:
        """A worker that is ready. In the ledger it goes by the name of its side."""
        worker = side.worker(
            "proj",
            "-n",
            f"{side.name}@wire",
            *options,
            folder=self.folder,
            env=self.environment(side, WIRE_WORKER=side.name),
            log=self.folder / f"worker-{side.name}.log",
        )
        self.stack.enter_context(worker)
        return wait_ready(worker)

    def client(self, side: Side) -> Conversation:
        command = [*side.python, HERE / "client.py"]
        log = self.folder / f"client-{side.name}.log"
        return self.stack.enter_context(Conversation(command, folder=self.folder, env=self.environment(side), log=log))

    def ledger(self, name: str) -> Ledger:
        return Ledger(self.folder / f"{name}.ledger")


@contextmanager
def wire(folder: Path) -> Iterator[Wire]:
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer(folder / "redis"))
        yield Wire(redis, folder, stack)


def observe(client: Conversation, case: str, *, within: float = 90.0, **arguments: Any) -> Any:
    """Ask the client for the case; fails with the client's traceback."""
    answer = client.ask({"case": case, "arguments": arguments}, within=within)
    if "error" in answer:
        pytest.fail(f"the client's case {case!r} failed:\n{answer['error']}", pytrace=False)
    return answer["observed"]


@pytest.fixture(scope="session")
def sides() -> dict[str, Side]:
    """Both sides by name; skips when genuine Celery cannot be installed."""
    try:
        return both_sides()
    except PeerUnavailable as why:
        pytest.skip(str(why))

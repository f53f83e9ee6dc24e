"""The private servers of a benchmark: one Redis, and a RabbitMQ where somebody needs it and it can be started."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from tests.peers import RedisServer

if TYPE_CHECKING:
    from tests.rabbitmq_server import RabbitServer


class Servers:
    """Started when entered, ended when left."""

    def __init__(self, folder: Path, *, rabbitmq: bool = False) -> None:
        self.redis = RedisServer(folder / "redis")
        self._wants_rabbitmq = rabbitmq
        self._rabbitmq: RabbitServer | None = None
        self._stack = ExitStack()

    @property
    def has_rabbitmq(self) -> bool:
        """Whether there is one."""
        return self._rabbitmq is not None

    def broker(self, kind: str) -> str:
        """The URL of the broker."""
        if kind == "redis":
            return self.redis.url
        assert self._rabbitmq is not None, "ask has_rabbitmq first"
        # The virtual host "/" in the one spelling that both pika and Kombu understand.
        return self._rabbitmq.url.removesuffix("//") + "/%2F"

    @property
    def pids(self) -> list[int]:
        """The servers' processes."""
        pids = [int(self.redis.client.info("server")["process_id"])]
        if self._rabbitmq is not None:
            pids.append(int((self._rabbitmq.folder / "pid").read_text()))
        return pids

    def clear(self) -> None:
        """Forget what earlier runs left."""
        self.redis.client.flushall()
        if self._rabbitmq is not None:
            self._rabbitmq.delete_queues()

    def __enter__(self) -> Self:
        self._stack.enter_context(self.redis)
        if self._wants_rabbitmq:
            self._start_rabbitmq()
        return self

    def _start_rabbitmq(self) -> None:
        from tests.rabbitmq_server import RabbitServer, server_script  # noqa: PLC0415 - most benchmarks need none

        if server_script() is None:
            print("  rabbitmq-server is not installed: contestants that need it are left out")
        else:
            self._rabbitmq = self._stack.enter_context(RabbitServer())

    def __exit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        self._stack.close()

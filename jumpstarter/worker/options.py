"""A worker's options, checked once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from jumpstarter.errors import ConfigurationError

POOLS: Final = ("prefork", "threads", "async", "solo")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """What a node and its children are told.

    :ivar name: the node's name, ``celery@host``.
    :ivar queues: the queues it consumes from.
    :ivar pool: ``prefork`` (``concurrency`` children with a slot each), ``threads`` (one child, that many threads), ``async`` (one
        child, that many coroutine jobs at a time; sync jobs run in a thread) or ``solo`` (in the calling process and thread).
    :ivar concurrency: how many jobs run at a time.
    :ivar coroutines: how many coroutine jobs one child runs at a time beside its other slots.
    :ivar lease: seconds after which the claims of a node that fell silent are returned to their queues.
    :ivar max_attempts: deliveries after which a message that never settles goes to quarantine.
    :ivar look_ahead: at most so many jobs are claimed beyond the free slots.
    :ivar look_ahead_seconds: and at most so many seconds of work, judged by what the last jobs took.
    :ivar idle: longest wait for messages at a time, in seconds.
    :ivar restarts: how many children may end within ``restart_period`` seconds before the node gives up.
    :ivar restart_period: in seconds.
    :ivar backend: anyio's name of the event loop, ``asyncio`` or ``trio``.
    """

    name: str
    queues: tuple[str, ...]
    pool: str = "prefork"
    concurrency: int = 1
    coroutines: int = 100
    lease: float = 30.0
    max_attempts: int = 3
    look_ahead: int = 512
    look_ahead_seconds: float = 0.05
    idle: float = 30.0
    restarts: int = 100
    restart_period: float = 60.0
    backend: str = "asyncio"

    def __post_init__(self) -> None:
        if self.pool not in POOLS:
            raise ConfigurationError(f"unknown pool {self.pool!r}: use one of {', '.join(POOLS)}")
        if not self.queues:
            raise ConfigurationError("a worker needs at least one queue to consume from")
        for option in ("concurrency", "coroutines", "max_attempts"):
            if getattr(self, option) < 1:
                raise ConfigurationError(f"{option} must be at least 1, not {getattr(self, option)}")
        if self.lease < 1:
            raise ConfigurationError(
                f"lease must be at least 1 second, not {self.lease:g} (it is renewed three times within its time)"
            )
        if self.backend not in {"asyncio", "trio"}:
            raise ConfigurationError(f"unknown event loop {self.backend!r}: use asyncio or trio")

    @property
    def children(self) -> int:
        """How many child processes the node keeps."""
        match self.pool:
            case "prefork":
                return self.concurrency
            case "solo":
                return 0
            case _:
                return 1

    @property
    def sync_slots(self) -> int:
        """How many slots for plain functions one worker has."""
        return self.concurrency if self.pool == "threads" else 1

    @property
    def loop_slots(self) -> int:
        """How many slots for coroutines one worker has."""
        return self.concurrency if self.pool == "async" else self.coroutines

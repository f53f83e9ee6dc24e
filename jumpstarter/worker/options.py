"""A worker's options, checked once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
    :ivar threads: how many slots in threads each child has beside its other slots, for jobs that say they want one.
    :ivar coroutines: how many coroutine jobs one child runs at a time beside its other slots.
    :ivar lease: seconds after which the claims of a node that fell silent are returned to their queues.
    :ivar shortest_lease: the shortest that any job or queue asks for itself: leases are renewed thrice within it.
    :ivar max_attempts: deliveries after which a message that never settles goes to quarantine.
    :ivar look_ahead: at most so many jobs are claimed beyond the free slots.
    :ivar look_ahead_seconds: and at most so many seconds of work, judged by what the last jobs took.
    :ivar idle: longest wait for messages at a time, in seconds.
    :ivar strict_early_ack: jobs that are acked early are acked before they begin, a round trip each; else together with what came
        of them, so that the sudden end of a whole node may repeat those that began since the last settle.
    :ivar max_tasks: jobs after which a child is replaced; None: never.
    :ivar max_memory: resident bytes after which a child is replaced once its job has ended; None: never.
    :ivar kill_memory: resident bytes at which a child is killed at once; None: twice ``max_memory``.
    :ivar rlimits: resource limits of each child, by the numbers of :mod:`resource`.
    :ivar most_stuck: how many slots may be lost to jobs that never end before the child is replaced.
    :ivar soft_shutdown: seconds that a cold shutdown leaves to what runs before it is handed back.
    :ivar restarts: how many children may end within ``restart_period`` seconds before the node gives up.
    :ivar restart_period: in seconds.
    :ivar backend: anyio's name of the event loop, ``asyncio`` or ``trio``.
    """

    name: str
    queues: tuple[str, ...]
    pool: str = "prefork"
    concurrency: int = 1
    threads: int = 0
    coroutines: int = 100
    lease: float = 30.0
    shortest_lease: float | None = None
    max_attempts: int = 3
    look_ahead: int = 512
    look_ahead_seconds: float = 0.05
    idle: float = 30.0
    strict_early_ack: bool = False
    max_tasks: int | None = None
    max_memory: int | None = None
    kill_memory: int | None = None
    rlimits: Mapping[int, int] = field(default_factory=dict)
    most_stuck: int = 3
    soft_shutdown: float = 0.0
    restarts: int = 100
    restart_period: float = 60.0
    backend: str = "asyncio"

    def __post_init__(self) -> None:
        if self.pool not in POOLS:
            raise ConfigurationError(f"unknown pool {self.pool!r}: use one of {', '.join(POOLS)}")
        if not self.queues:
            raise ConfigurationError("a worker needs at least one queue to consume from")
        for option in ("concurrency", "coroutines", "max_attempts", "most_stuck", "max_tasks", "max_memory", "kill_memory"):
            value = getattr(self, option)
            if value is not None and value < 1:
                raise ConfigurationError(f"{option} must be at least 1, not {value}")
        for option in ("threads", "soft_shutdown"):
            if getattr(self, option) < 0:
                raise ConfigurationError(f"{option} must not be negative, but is {getattr(self, option)}")
        if min(self.lease, self.shortest_lease or self.lease) < 1:
            raise ConfigurationError(
                f"a lease must be at least 1 second, not {min(self.lease, self.shortest_lease or self.lease):g} "
                "(it is renewed three times within its time)"
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
    def renewed_every(self) -> float:
        """Seconds between two renewals of the leases."""
        return min(self.lease, self.shortest_lease or self.lease) / 3

    @property
    def deadly_memory(self) -> int | None:
        """Resident bytes at which a child is killed."""
        return self.kill_memory or (2 * self.max_memory if self.max_memory else None)

    @property
    def all_slots(self) -> int:
        """How many slots of all kinds one worker has."""
        return self.sync_slots + self.threads + self.loop_slots

    @property
    def sync_slots(self) -> int:
        """How many slots for plain functions one worker has."""
        return self.concurrency if self.pool == "threads" else 1

    @property
    def loop_slots(self) -> int:
        """How many slots for coroutines one worker has."""
        return self.concurrency if self.pool == "async" else self.coroutines

"""The three trials of ownership. Each starts real workers of one side, hurts them and answers with what the ledger says.

(a) a child is killed while it runs a task; (b) a whole node is killed; (c) tasks that take longer than the visibility timeout.
tests/ownership asserts on the answers for our side; benchmarks/ownership.py prints them for either side.
"""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.peers import DeadlineMissed, Ledger, Program, RedisServer, Side, eventually, load, quiet, raw_message, wait_ready

APP = Path(__file__).parent / "app"
#: Seconds; ours only (``worker_lease``).
LEASE = 3.0
#: Longer than any trial: a task that is to be killed never ends by itself.
FOR_EVER = 600


@dataclass(frozen=True, slots=True)
class Yard:
    """A private Redis and ledger, and the workers that are started in it."""

    side: Side
    folder: Path
    redis: RedisServer
    ledger: Ledger
    stack: ExitStack

    def node(self, name: str, *, slots: int, pool: str, transport: Mapping[str, float] | None = None) -> Program:
        """Start a worker with ``broker_transport_options``; ``wait_ready`` waits for it."""
        env = self.side.environment(
            APP,
            OWNED_URL=self.redis.url,
            OWNED_LEDGER=str(self.ledger.path),
            OWNED_NODE=name,
            OWNED_LEASE=str(LEASE),
            OWNED_TRANSPORT=json.dumps(transport or {}),
        )
        options = ["-n", f"{name}@yard", "-c", str(slots), "-P", pool]
        worker = self.side.worker("owned", *options, folder=self.folder, env=env, log=self.folder / f"{name}.log")
        return self.stack.enter_context(worker)

    def publish(self, task: str, *, count: int = 1, seconds: float) -> list[str]:
        """Publish raw messages, the same bytes for either side; answer the ids."""
        ids = [str(uuid.uuid4()) for _ in range(count)]
        load(self.redis.client, [raw_message(f"owned.{task}", [i, seconds], task_id=id_) for i, id_ in enumerate(ids)])
        return ids

    def started(self, count: int, *, within: float, **wanted: Any) -> list[dict[str, Any]]:
        return self.ledger.wait(count, within=within, event="start", **wanted)


@contextmanager
def yard(side: Side, folder: Path) -> Iterator[Yard]:
    """Everything is ended at the end, whatever happened."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer(folder / "redis"))
        yield Yard(side, folder, redis, Ledger(folder / "ledger"), stack)


def boot_time() -> float:
    """The clock of the ledger, seconds."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def child_killed(side: Side, folder: Path, *, within: float = 30) -> float | None:
    """(a) SIGKILL to the child that runs a task with ``reject_on_worker_lost``.

    :returns: seconds until the task started in another process, or None when it did not ``within`` that time.
    """
    with yard(side, folder) as place:
        wait_ready(place.node("one", slots=2, pool="prefork"))
        place.publish("hold", seconds=FOR_EVER)
        victim = place.started(1, within=20)[0]
        os.kill(victim["pid"], signal.SIGKILL)
        killed = boot_time()
        again = started_again(place, within)
        assert again is None or again["pid"] != victim["pid"]
        return None if again is None else again["time"] - killed


def child_killed_without_requeue(side: Side, folder: Path, *, within: float = 30) -> dict[str, Any]:
    """(a) SIGKILL to the child that runs a task with ``acks_late`` alone.

    :returns: ``status`` and ``error`` as stored in the result, ``starts`` of the task, ``seconds`` until the result was there.
    """
    with yard(side, folder) as place:
        wait_ready(place.node("one", slots=2, pool="prefork"))
        task_id = place.publish("hold_once", seconds=FOR_EVER)[0]
        victim = place.started(1, within=20)[0]
        os.kill(victim["pid"], signal.SIGKILL)
        killed = boot_time()
        key = f"celery-task-meta-{task_id}"
        document = eventually(lambda: place.redis.client.get(key), within=within, what="the result of the lost task")
        assert document is not None
        stored = json.loads(document)
        seconds = boot_time() - killed
        eventually(place.redis.at_rest, within=within, what="the message is settled")
        starts = len(place.ledger.entries(event="start"))
        return {"status": stored["status"], "error": stored["result"]["exc_type"], "starts": starts, "seconds": seconds}


def node_killed(side: Side, folder: Path, *, within: float = 40, pool: str = "prefork") -> float | None:
    """(b) SIGKILL to all processes of the node that runs a task, while another node is idle.

    :returns: seconds until the task started on the other node, or None when it did not ``within`` that time.
    """
    with yard(side, folder) as place:
        nodes = {name: place.node(name, slots=1, pool=pool) for name in ("one", "two")}
        for node in nodes.values():
            wait_ready(node)
        place.publish("hold", seconds=FOR_EVER)
        victim = place.started(1, within=20)[0]
        nodes[victim["node"]].kill()
        killed = boot_time()
        again = started_again(place, within)
        assert again is None or again["node"] != victim["node"]
        return None if again is None else again["time"] - killed


def started_again(place: Yard, within: float) -> dict[str, Any] | None:
    """The second start of the yard's only task, or None."""
    try:
        return place.started(2, within=within)[1]
    except DeadlineMissed:
        return None


@dataclass(frozen=True, slots=True)
class LongTasks:
    """What trial (c) found. Exactly once means ``starts == finishes == tasks``.

    :ivar over: False when it had to be given up: tasks were repeated faster than they ended.
    """

    over: bool
    tasks: int
    starts: int
    finishes: int
    most_starts_of_one: int
    by_node: dict[str, int]
    seconds: float


def long_tasks(
    side: Side,
    folder: Path,
    *,
    tasks: int = 20,
    seconds: float = 12,
    visibility: float = 5,
    slots: int = 10,
    pool: str = "prefork",
    sweep: float | None = None,
) -> LongTasks:
    """(c) Tasks that take longer than ``visibility_timeout``, on two nodes with so many slots each.

    :param sweep: seconds between two sweeps of a genuine worker for messages older than ``visibility``. Kombu's default for
        prefork is 100 s (``unacked_restore_interval`` times ``unacked_restore_throttle``), which hides the fault from short trials.
    """
    transport = {"visibility_timeout": visibility}
    if sweep is not None:
        transport |= {"unacked_restore_interval": sweep, "unacked_restore_throttle": 1}
    with yard(side, folder) as place:
        began = boot_time()
        for node in [place.node(name, slots=slots, pool=pool, transport=transport) for name in ("one", "two")]:
            wait_ready(node)
        place.publish("hold", count=tasks, seconds=seconds)
        # Genuine Celery repeats most of the tasks, so it needs several times the rounds that the work needs.
        limit = 60 + 5 * seconds * -(-tasks // (2 * slots))
        place.ledger.wait(tasks, within=limit, event="finish")
        over = True
        try:
            quiet(place.ledger, place.redis, lasting=2, within=limit)
        except DeadlineMissed:
            over = False
        starts = place.ledger.entries(event="start")
        return LongTasks(
            over=over,
            tasks=tasks,
            starts=len(starts),
            finishes=len(place.ledger.entries(event="finish")),
            most_starts_of_one=max(Counter(entry["id"] for entry in starts).values()),
            by_node=dict(Counter(entry["node"] for entry in starts)),
            seconds=boot_time() - began,
        )

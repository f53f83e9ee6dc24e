"""Unusual loads: large arguments, a thousand queues, two hundred thousand tasks that wait for their time.

- 1 MiB arguments: so many tasks with a text of 1 MiB each; all must run, and the rate is compared with genuine Celery's.
- 1,000 queues: the same number of no-op tasks in one queue and spread over 1,000, one worker consuming from all of them.
- ETAs: 200,000 messages of a genuine client for an hour later are claimed and parked; then 5,000 that are due within a minute.
  How
  late these begin, and how much the node's memory (RSS of all its processes) grows over what it was after 2,000 no-op tasks.

    python benchmarks/shapes.py                        # 3 rounds; the ETAs once, two minutes
"""

from __future__ import annotations

import argparse
import datetime as dt
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs as a plain script

from benchmarks import figures, processes
from benchmarks.contestants import CONTESTANTS, Contestant, version
from benchmarks.figures import Line, versus
from benchmarks.noted import Notes, notes
from tests.peers import PeerUnavailable, Program, RedisServer, eventually, load, raw_message, scratch

MIB = 1 << 20
QUEUES = 1_000
OURS, CELERY = CONTESTANTS["ours-prefork"], CONTESTANTS["celery-prefork"]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = figures.parser(__doc__)
    parser.add_argument("--parts", default="large,queues,etas")
    parser.add_argument("--large", type=int, default=300, help="tasks with 1 MiB of arguments (default: 300)")
    parser.add_argument("--tasks", type=int, default=40_000, help="no-op tasks over the queues (default: 40,000)")
    parser.add_argument("--parked", type=int, default=200_000, help="tasks for later (default: 200,000)")
    parser.add_argument("--due", type=int, default=5_000, help="tasks that become due (default: 5,000)")
    parser.add_argument("--window", type=float, default=60.0, help="within so many seconds (default: 60)")
    options = parser.parse_args(arguments)
    if options.short:
        options.large, options.tasks, options.parked, options.due, options.window, options.rounds = 20, 5_000, 5_000, 200, 5.0, 1
    options.parts = options.parts.split(",")
    return options


class Bench:
    """One Redis, one file of notes, one folder for logs."""

    def __init__(self, server: RedisServer, noted: Notes, folder: Path) -> None:
        self.server = server
        self.noted = noted
        self.folder = folder

    def rate(self, contestant: Contestant, messages: Iterator[tuple[str, bytes]], count: int, batch: int) -> float:
        """Tasks per second; ``messages`` are queue and bytes."""
        self.server.client.flushall()
        self.noted.clear()
        env = contestant.environment(broker=self.server.url, results=self.server.url, notes=self.noted.path)
        pipe = self.server.client.pipeline(transaction=False)
        for number, (queue, raw) in enumerate(messages, 1):
            pipe.lpush(queue, raw)
            if number % batch == 0:
                pipe.execute()
        pipe.execute()
        with contestant.working(self.folder, env) as workers:
            self.noted.wait(count, within=120 + count / 20, workers=workers)
        done = self.noted.check(count, strict=contestant.library == "ours")
        return (count - 1) / (done[-1].ended - done[0].began)


def large(bench: Bench, options: argparse.Namespace) -> list[Line]:
    """1 MiB of arguments."""
    text = "x" * MIB
    mine: list[float] = []
    theirs: list[float] = []
    for _ in range(options.rounds):
        for contestant, rates in ((OURS, mine), (CELERY, theirs)):
            messages = (("celery", raw_message("fast.nothing", [number, text])) for number in range(options.large))
            rates.append(bench.rate(contestant, messages, options.large, 10))
            print(f"  {options.large} tasks with 1 MiB, {contestant.name}: {rates[-1]:.0f}/s", flush=True)
    return [versus("tasks/s with 1 MiB of arguments, vs celery-prefork", mine, theirs, goal=">= 1")]


def queues(bench: Bench, options: argparse.Namespace) -> list[Line]:
    """A thousand queues against one."""
    names = [f"queue-{number}" for number in range(QUEUES)]
    consuming = consumer_of(OURS, names)
    one, many = [], []
    for _ in range(options.rounds):
        single = (("celery", raw_message("fast.nothing", [number])) for number in range(options.tasks))
        one.append(bench.rate(OURS, single, options.tasks, 500))
        spread_out = (
            (names[number % QUEUES], raw_message("fast.nothing", [number], queue_name=names[number % QUEUES]))
            for number in range(options.tasks)
        )
        many.append(bench.rate(consuming, spread_out, options.tasks, 500))
        print(f"  {options.tasks} tasks: one queue {one[-1]:,.0f}/s, {QUEUES} queues {many[-1]:,.0f}/s", flush=True)
    return [versus(f"tasks/s from {QUEUES:,} queues, vs one queue", many, one, goal=">= 0.5")]


def consumer_of(contestant: Contestant, names: Sequence[str]) -> Contestant:
    """The same, told which queues to consume from."""
    from dataclasses import replace  # noqa: PLC0415 - its only use

    return replace(contestant, name="ours-queues", commands=((*contestant.commands[0], "-Q", ",".join(names)),))


def etas(bench: Bench, options: argparse.Namespace) -> list[Line]:
    """Many that wait for their time, some whose time comes."""
    client, noted = bench.server.client, bench.noted
    client.flushall()
    noted.clear()
    env = OURS.environment(broker=bench.server.url, results=bench.server.url, notes=noted.path)
    warm_up = 2_000
    load(client, (raw_message("fast.nothing", [number]) for number in range(warm_up)))
    with OURS.working(bench.folder, env) as workers:
        noted.wait(warm_up, within=60, workers=workers)
        eventually(bench.server.at_rest, within=30, what="all messages are acked")
        before = processes.memory(workers[0].pid, "Rss")
        watch = processes.Watch(workers[0].pid)
        park(bench, options.parked, warm_up + options.due, watch, workers)
        lateness = due(bench, options, warm_up, watch, workers)
        watch.look()
        left = processes.memory(workers[0].pid, "Rss")
    parked = client.zcard("jumpstarter.parked")
    assert parked == options.parked, f"{parked} messages are parked, not {options.parked}"
    late = sorted(lateness)
    p50, p99 = statistics.median(late), late[int(len(late) * 0.99)]
    grown = watch.highest - before
    print(
        f"  lateness p50 {p50 * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms, worst {late[-1] * 1e3:.0f} ms, earliest {late[0] * 1e3:.0f} ms"
    )
    print(f"  RSS {before:.1f} MB before, {watch.highest:.1f} MB at most, {left:.1f} MB in the end", flush=True)
    what = f"{options.parked:,} ETAs waiting, {options.due:,} due within {options.window:.0f} s"
    return [
        Line(f"{what}: lateness p99, s", f"{p99:.3f} (p50 {p50:.3f})", ratio=p99, goal="<= 1"),
        Line(f"{what}: none began early, s", f"{late[0]:.3f}", ratio=late[0], goal=">= 0"),
        Line(f"{what}: node's RSS grew by MB", f"{grown:.1f}", ratio=grown, goal="<= 20"),
    ]


def at(moment: float) -> str:
    """Wall seconds as a client writes them."""
    return dt.datetime.fromtimestamp(moment, dt.UTC).isoformat()


def later(number: int, moment: float) -> bytes:
    """A genuine client's message with an ETA."""
    return raw_message("fast.nothing", [number]).replace(b'"eta": null', f'"eta": "{at(moment)}"'.encode(), 1)


def park(bench: Bench, count: int, first: int, watch: processes.Watch, workers: Sequence[Program]) -> None:
    """Publish them; return when the worker has claimed and parked all."""
    began = time.monotonic()
    hence = time.time() + 3_600
    client = bench.server.client
    load(client, (later(first + number, hence + number / 100) for number in range(count)))
    published = time.monotonic()

    def all_parked() -> bool:
        watch.look()
        return client.llen("celery") == 0 and client.zcard("jumpstarter.parked") == count

    eventually(all_parked, within=60 + count / 500, what=f"{count} messages are parked", every=0.1)
    ended = time.monotonic()
    print(f"  {count} parked {ended - published:.1f} s after {published - began:.1f} s of publishing", flush=True)
    assert not bench.noted.count() > first, workers[0].text()


def due(bench: Bench, options: argparse.Namespace, first: int, watch: processes.Watch, workers: Sequence[Program]) -> list[float]:
    """Seconds by which each one began late."""
    wall = time.time() - time.monotonic()
    start = time.time() + 3
    moments = {first + number: start + options.window * number / options.due for number in range(options.due)}
    load(bench.server.client, (later(number, moment) for number, moment in moments.items()))
    total = first + options.due
    deadline = time.monotonic() + options.window + 60
    while bench.noted.count() < total:
        watch.look()
        time.sleep(0.1)
        assert time.monotonic() < deadline, f"{bench.noted.count()} of {total} ran:\n{workers[0].text()[-2000:]}"
    return [note.began + wall - moments[note.number] for note in bench.noted.check(total) if note.number in moments]


def main() -> int:
    """0, or 1 when ``--check`` failed or genuine Celery could not be installed."""
    options = parse()
    parts: dict[str, Callable[[Bench, argparse.Namespace], list[Line]]] = {"large": large, "queues": queues, "etas": etas}
    lines = []
    try:
        print(figures.ground(version("celery")), flush=True)
        with scratch("shapes-") as folder, RedisServer(folder / "redis") as server, notes() as noted:
            for part in options.parts:
                lines += parts[part](Bench(server, noted, folder), options)
    except PeerUnavailable as why:
        print(why, file=sys.stderr)
        return 1
    return figures.finish(lines, options)


if __name__ == "__main__":
    sys.exit(main())

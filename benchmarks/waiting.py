"""Tasks that take time: 5,000 that wait 50 ms each, 400 that compute 10 ms each, and both in one node.

Waiting: coroutine tasks, so that thousands of them wait at a time; the ideal is tasks x 50 ms / slots. Computing: the ideal is
measured beside it, by two plain processes on the same processors that do nothing else, before and after each run. Times run
from the begin of the first task to the end of the last.

    python benchmarks/waiting.py
"""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.synchronize
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs as a plain script

from benchmarks import figures
from benchmarks.apps.notes import burn
from benchmarks.contestants import CONTESTANTS, Contestant, ours, version
from benchmarks.figures import Line, spread
from benchmarks.noted import Note, Notes, notes
from tests.peers import PeerUnavailable, RedisServer, load, raw_message, scratch

NAP, WORK = 0.05, 0.01
#: A coroutine slot is cheap: 250 of them wait in one loop.
ASYNC_SLOTS = 250
#: Loop slots of one child beside its slot for plain functions (``WorkerOptions.coroutines``).
LOOP_SLOTS = 100
PROCESSES = 2

ASYNC = ours("ours-async", "async", ASYNC_SLOTS, 0)
PREFORK = CONTESTANTS["ours-prefork"]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = figures.parser(__doc__)
    parser.add_argument("--naps", type=int, default=5_000)
    parser.add_argument("--works", type=int, default=400)
    parser.add_argument("--ours", action="store_true", help="no peers")
    parser.add_argument("--parts", default="wait,compute,both")
    options = parser.parse_args(arguments)
    if options.short:
        options.naps, options.works, options.rounds, options.ours = 1_000, 100, 1, True
    options.parts = options.parts.split(",")
    return options


class Bench:
    """One Redis, one file of notes, one folder for logs."""

    def __init__(self, server: RedisServer, noted: Notes, folder: Path) -> None:
        self.server = server
        self.noted = noted
        self.folder = folder

    def run(self, contestant: Contestant, messages: Sequence[bytes]) -> list[Note]:
        """Fill the queue, start the worker, wait for all."""
        self.server.client.flushall()
        self.noted.clear()
        env = contestant.environment(broker=self.server.url, results=self.server.url, notes=self.noted.path)
        load(self.server.client, messages)
        with contestant.working(self.folder, env) as workers:
            self.noted.wait(len(messages), within=120, workers=workers)
        return self.noted.check(len(messages), strict=contestant.library == "ours")

    def run_peer(self, contestant: Contestant, way: str, count: int) -> list[Note]:
        """The same with the peer's own client."""
        self.server.client.flushall()
        self.noted.clear()
        env = contestant.environment(broker=self.server.url, results=None, notes=self.noted.path)
        contestant.client("fill", count, way, env=env)
        with contestant.working(self.folder, env) as workers:
            self.noted.wait(count, within=120, workers=workers)
        return self.noted.check(count, strict=False)


def lasted(noted: Sequence[Note]) -> float:
    """Seconds from the first begin to the last end."""
    return max(note.ended for note in noted) - min(note.began for note in noted)


def naps(count: int, first: int = 0) -> list[bytes]:
    """Coroutine tasks that wait."""
    return [raw_message("fast.wait", [number, NAP]) for number in range(first, first + count)]


def works(count: int, first: int = 0) -> list[bytes]:
    """Plain tasks that compute."""
    return [raw_message("fast.compute", [number, WORK]) for number in range(first, first + count)]


def ideal_work(count: int) -> float:
    """Seconds that the same computing takes two processes that do nothing else."""
    context = multiprocessing.get_context("fork")
    gate = context.Barrier(PROCESSES + 1)
    children = [context.Process(target=_work, args=(count // PROCESSES, gate)) for _ in range(PROCESSES)]
    for child in children:
        child.start()
    gate.wait()
    began = time.monotonic()
    for child in children:
        child.join()
    return time.monotonic() - began


def _work(count: int, gate: multiprocessing.synchronize.Barrier) -> None:
    gate.wait()
    for _ in range(count):
        burn(WORK)


def with_ideal(count: int, run: Callable[[], float]) -> tuple[float, float]:
    """What the run took, and what would have been ideal around that time."""
    before = ideal_work(count)
    took = run()
    return took, (before + ideal_work(count)) / 2


def times(what: str, took: Sequence[float], ideal: Sequence[float], goal: str) -> Line:
    """Seconds, against the ideal of each round."""
    ratio = statistics.median(mine / best for mine, best in zip(took, ideal, strict=True))
    return Line(what, f"{spread(took, '.2f')} s", f"{spread(ideal, '.2f')} s", ratio, goal)


def wait(bench: Bench, options: argparse.Namespace) -> list[Line]:
    """Tasks that wait, where coroutines run."""
    many = 1_000
    pools = (
        (f"-P async -c {ASYNC_SLOTS}", ASYNC, ASYNC_SLOTS),
        (f"prefork 2, {LOOP_SLOTS} loop slots each", PREFORK, PROCESSES * LOOP_SLOTS),
    )
    peers = {
        "taskiq-stream": CONTESTANTS["taskiq-stream"],
        "repid": replace(CONTESTANTS["repid"], variables={"BENCH_SLOTS": str(many)}),
    }
    found: dict[str, list[float]] = {name: [] for name, *_ in pools}
    if not options.ours:
        found |= {name: [] for name in peers}
    for _ in range(options.rounds):
        for name, contestant, _slots in pools:
            found[name].append(lasted(bench.run(contestant, naps(options.naps))))
            print(f"  {options.naps} x {NAP:g} s of waiting, {name}: {found[name][-1]:.2f} s", flush=True)
        for name in [] if options.ours else peers:
            found[name].append(lasted(bench.run_peer(peers[name], "send_naps", options.naps)))
            print(f"  {options.naps} x {NAP:g} s of waiting, {name}, {many} slots a process: {found[name][-1]:.2f} s", flush=True)
    what = f"{options.naps} x 50 ms of waiting"
    lines = [
        times(f"{what}: {name}, vs ideal", found[name], [options.naps * NAP / slots] * options.rounds, "<= 1.5")
        for name, _, slots in pools
    ]
    return lines + [
        Line(f"{what}: {name}, {many} slots a process", "", f"{spread(found[name], '.2f')} s") for name in peers if name in found
    ]


def compute(bench: Bench, options: argparse.Namespace) -> list[Line]:
    """Tasks that compute."""
    took, ideal = [], []
    theirs: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        mine, best = with_ideal(options.works, lambda: lasted(bench.run(PREFORK, works(options.works))))
        took.append(mine)
        ideal.append(best)
        print(f"  {options.works} x 10 ms of computing, prefork 2: {mine:.2f} s; ideal {best:.2f} s", flush=True)
        if not options.ours:
            default = CONTESTANTS["celery-default"]
            theirs.setdefault("celery-default", []).append(lasted(bench.run(default, works(options.works))))
            theirs.setdefault("huey", []).append(lasted(bench.run_peer(CONTESTANTS["huey"], "send_works", options.works)))
            print("  " + ", ".join(f"{name} {seconds[-1]:.2f} s" for name, seconds in theirs.items()), flush=True)
    what = f"{options.works} x 10 ms of computing"
    lines = [times(f"{what}: prefork 2, vs two plain processes", took, ideal, "<= 1.15")]
    return lines + [times(f"{what}: {name}, vs two plain processes", seconds, ideal, "") for name, seconds in theirs.items()]


def both(bench: Bench, options: argparse.Namespace) -> list[Line]:
    """Both kinds in one queue and one node: five that wait for each that computes."""
    took, ideal = [], []
    count = options.works * 5
    for _ in range(options.rounds):
        waits, computes = naps(count), works(options.works, first=count)
        messages = [message for at, work in enumerate(computes) for message in (*waits[5 * at : 5 * at + 5], work)]
        mine, best = with_ideal(options.works, lambda messages=messages: lasted(bench.run(PREFORK, messages)))  # type: ignore[misc]
        took.append(mine)
        ideal.append(max(best, count * NAP / (PROCESSES * LOOP_SLOTS)))
        print(
            f"  {options.works} x 10 ms of computing and {count} x 50 ms of waiting: {mine:.2f} s; ideal {ideal[-1]:.2f} s",
            flush=True,
        )
    what = f"{options.works} x 10 ms of computing and {count} x 50 ms of waiting in one node, vs ideal"
    return [times(what, took, ideal, "<= 1.5")]


def main() -> int:
    """0, or 1 when ``--check`` failed or a peer could not be installed."""
    options = parse()
    peers = () if options.ours else ("celery", "taskiq", "repid", "huey")
    parts: dict[str, Callable[[Bench, argparse.Namespace], list[Line]]] = {"wait": wait, "compute": compute, "both": both}
    lines = []
    try:
        print(figures.ground(*map(version, peers)), flush=True)
        with scratch("waiting-") as folder, RedisServer(folder / "redis") as server, notes() as noted:
            for part in options.parts:
                lines += parts[part](Bench(server, noted, folder), options)
    except PeerUnavailable as why:
        print(why, file=sys.stderr)
        return 1
    return figures.finish(lines, options)


if __name__ == "__main__":
    sys.exit(main())

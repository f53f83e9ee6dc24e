"""No-op tasks per second with results in Redis: ours and genuine Celery 5.7, in turns on the same private Redis.

The queue is filled before the worker starts, with the same raw messages for all. The rate is taken from the first to the last
stored result; the whole time runs from the start of the command. Every round checks that there are as many results as tasks, each
a SUCCESS. Workers log at ``warning``: logging is not what is measured. Speeds of a shared machine drift, so only ratios within a
round count: the figure is the median of the rounds' ratios.

    python benchmarks/throughput.py                    # 20,000 tasks, 3 rounds: ours, celery tuned, celery by default
    python benchmarks/throughput.py --short            # 4,000 tasks, 1 round
    python benchmarks/throughput.py --check 15         # exit code 1 below 15 times genuine Celery
    python benchmarks/throughput.py --pools prefork,threads --peers ours,celery-tuned
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs as a plain script

from tests.peers import (
    DeadlineMissed,
    PeerUnavailable,
    Program,
    RedisServer,
    Side,
    both_sides,
    load,
    our_side,
    raw_message,
    scratch,
)

APP = Path(__file__).parent / "apps"
RESULT = b"celery-task-meta-"
#: Seconds between two looks at the number of results: short against the whole, long against the 50 µs that a look costs Redis.
LOOK = 0.005
#: More keys than a worker makes beside results: from then on results are coming.
FEW_KEYS = 40


@dataclass(frozen=True, slots=True)
class Contestant:
    """One configuration of one side."""

    name: str
    side: str
    options: tuple[str, ...] = ()
    prefetch: int | None = None


CONTESTANTS = {
    contestant.name: contestant
    for contestant in (
        Contestant("ours", "ours"),
        # What measured best for prefork on Redis: deep prefetch, and no chatter between workers.
        Contestant("celery-tuned", "genuine", ("--without-gossip", "--without-mingle", "--without-heartbeat"), prefetch=128),
        Contestant("celery-default", "genuine"),
    )
}


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of one contestant.

    :ivar rate: tasks per second, from the first to the last result.
    :ivar whole: seconds from the start of the command to the last result.
    :ivar startup: seconds from the start of the command to the first result.
    """

    contestant: str
    pool: str
    rate: float
    whole: float
    startup: float


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--short", action="store_true", help="4,000 tasks, 1 round")
    parser.add_argument("--peers", default="ours,celery-tuned,celery-default", help=f"of {', '.join(CONTESTANTS)}")
    parser.add_argument("--pools", default="prefork", help="of prefork, threads, solo (default: prefork)")
    parser.add_argument("--slots", type=int, default=2, help="-c of every worker (default: 2)")
    parser.add_argument("--check", type=float, metavar="TIMES", help="exit code 1 when ours is slower than so many times any peer")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements to this file")
    options = parser.parse_args(arguments)
    if options.short:
        options.tasks, options.rounds = 4_000, 1
    options.peers = options.peers.split(",")
    options.pools = options.pools.split(",")
    if unknown := set(options.peers) - set(CONTESTANTS):
        parser.error(f"unknown peers {sorted(unknown)}; there are {', '.join(CONTESTANTS)}")
    if options.tasks < 2 or options.rounds < 1:
        parser.error("needs at least 2 tasks and 1 round")
    if options.check is not None and (len(options.peers) < 2 or options.peers[0] != "ours"):
        parser.error("--check compares: let --peers begin with ours and name another")
    return options


def measure(
    contestant: Contestant, side: Side, pool: str, options: argparse.Namespace, redis: RedisServer, folder: Path
) -> Measured:
    """Fill the queue of an empty Redis, start the worker, watch the results come, check them, end the worker."""
    redis.client.flushall()
    load(redis.client, (raw_message("fast.nothing", [number]) for number in range(options.tasks)))
    tuning = {"FAST_PREFETCH": str(contestant.prefetch)} if contestant.prefetch else {}
    env = side.environment(APP, FAST_URL=redis.url, **tuning)
    log = folder / f"{contestant.name}.log"
    began = time.monotonic()
    command = ["-P", pool, "-c", str(options.slots), *contestant.options]
    worker = side.worker("fast", *command, folder=folder, env=env, log=log, level="warning")
    with worker:
        first, early, last = watch(redis, options.tasks, worker)
    check(redis, options.tasks)
    return Measured(contestant.name, pool, (options.tasks - early) / (last - first), last - began, first - began)


def watch(redis: RedisServer, tasks: int, worker: Program) -> tuple[float, int, float]:
    """Look at the number of keys until all results are there; looking costs Redis next to nothing (DBSIZE).

    :returns: when the first results were seen, how many they were, and when the last was seen.
    """
    limit = 60 + tasks / 100
    deadline = time.monotonic() + limit
    first: float | None = None
    early = 0
    while (now := time.monotonic()) < deadline:
        keys = int(redis.client.dbsize())
        if first is None and keys > FEW_KEYS:
            first, early = now, count_results(redis)
        # A handful of keys are no results, so only a count is believed; it usually finds all there at the first try.
        if first is not None and keys >= tasks and count_results(redis) >= tasks:
            return first, early, now
        time.sleep(LOOK)
    raise DeadlineMissed(
        f"{count_results(redis)} of {tasks} results after {limit:.0f} s; the worker's log ends:\n{worker.text()[-2000:]}"
    )


def count_results(redis: RedisServer) -> int:
    """How many result documents there are."""
    return sum(1 for _ in redis.client.scan_iter(match=RESULT + b"*", count=5_000))


def check(redis: RedisServer, tasks: int) -> None:
    """Raise unless every task has a result, each of them says SUCCESS, and nothing is left in the broker."""
    keys = list(redis.client.scan_iter(match=RESULT + b"*", count=5_000))
    documents = [document for start in range(0, len(keys), 1_000) for document in redis.client.mget(keys[start : start + 1_000])]
    states = [json.loads(document)["status"] for document in documents if document]
    if len(states) != tasks or set(states) != {"SUCCESS"}:
        raise AssertionError(f"{len(states)} results for {tasks} tasks, with the states {sorted(set(states))}")
    if waiting := redis.client.llen("celery"):
        raise AssertionError(f"{waiting} messages still wait although every task has its result: something ran twice")


def rounds(options: argparse.Namespace, folder: Path) -> Iterator[list[Measured]]:
    """Measure everybody once a round; the order turns, so that drift hits everybody alike."""
    sides = both_sides() if set(options.peers) != {"ours"} else {"ours": our_side()}
    entries = [(CONTESTANTS[name], pool) for pool in options.pools for name in options.peers]
    with RedisServer(folder / "redis") as redis:
        for number in range(options.rounds):
            turned = entries[number % len(entries) :] + entries[: number % len(entries)]
            measured = []
            for contestant, pool in turned:
                measured.append(measure(contestant, sides[contestant.side], pool, options, redis, folder))
                print(line(measured[-1]), flush=True)
            yield measured


def line(measured: Measured) -> str:
    """For people."""
    who = f"{measured.contestant} {measured.pool}"
    return f"  {who:<26} {measured.rate:>9,.0f} tasks/s   start-up {measured.startup:5.2f} s   whole {measured.whole:6.2f} s"


def spread(values: Sequence[float], form: str = ",.0f") -> str:
    """Median, least and most."""
    return f"{statistics.median(values):{form}} [{min(values):{form}}-{max(values):{form}}]"


def summary(all_rounds: Sequence[Sequence[Measured]], options: argparse.Namespace) -> dict[tuple[str, str], float]:
    """Print medians and ratios; answer the median ratio of ours to every peer, by (peer, pool)."""
    ratios: dict[tuple[str, str], float] = {}
    print(f"\n{options.tasks:,} no-op tasks, results in Redis, -c {options.slots}, {options.rounds} round(s), median [least-most]")
    for pool in options.pools:
        runs = {name: [m for one in all_rounds for m in one if (m.contestant, m.pool) == (name, pool)] for name in options.peers}
        for name, measured in runs.items():
            rate = spread([m.rate for m in measured])
            whole = spread([m.whole for m in measured], ".2f")
            text = f"  {name + ' ' + pool:<26} {rate:>26} tasks/s   whole {whole} s"
            if name != "ours" and "ours" in runs:
                times = [mine.rate / theirs.rate for mine, theirs in zip(runs["ours"], measured, strict=True)]
                ratios[name, pool] = statistics.median(times)
                text += f"   ours is {spread(times, '.1f')} times as fast"
            print(text)
    return ratios


def verdict(ratios: dict[tuple[str, str], float], times: float) -> int:
    """The exit code: 0 when ours is at least so many times as fast as every peer in every pool."""
    missed = {who: ratio for who, ratio in ratios.items() if ratio < times}
    for (name, pool), ratio in missed.items():
        print(f"MISSED: ours is {ratio:.1f} times as fast as {name} {pool}; wanted {times:g}", file=sys.stderr)
    return 1 if missed else 0


def main() -> int:
    """0, or 1 when ``--check`` failed or genuine Celery could not be installed."""
    options = parse()
    print(f"Python {platform.python_version()}, {platform.machine()}")
    try:
        with scratch("throughput-") as folder:
            measured = list(rounds(options, folder))
    except PeerUnavailable as why:
        print(why, file=sys.stderr)
        return 1
    ratios = summary(measured, options)
    if options.json:
        options.json.write_text(json.dumps([asdict(m) for one in measured for m in one], indent=1))
    return verdict(ratios, options.check) if options.check is not None else 0


if __name__ == "__main__":
    sys.exit(main())

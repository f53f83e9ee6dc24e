"""No-op tasks per second: ours, genuine Celery and other task queues, in turns on one private Redis, or on one private RabbitMQ.

The queue is filled first, then one worker command starts. Each task notes its number and the time outside the broker (1 µs).
The rate is taken from the first task to the last one, and with results until the last is stored. Every round checks that each
task ran exactly once, and that all results are there. Workers log at ``warning``: logging is not what is measured.

    python benchmarks/throughput.py                             # with results stored: everybody, 3 rounds; 5 minutes
    python benchmarks/throughput.py --results off               # the same without
    python benchmarks/throughput.py --broker rabbitmq --results off
    python benchmarks/throughput.py --only ours-prefork,celery-prefork,sketch
    python benchmarks/throughput.py --short --check --ease 2    # 1 round of an eighth of the tasks, half of the goals
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs as a plain script

import redis

from benchmarks import ceiling, figures, processes, rabbitmq
from benchmarks.contestants import CONTESTANTS, Contestant, version
from benchmarks.figures import Line, versus
from benchmarks.noted import Notes, notes
from benchmarks.servers import Servers
from tests.peers import PeerUnavailable, Program, eventually, load, raw_message, scratch

#: No workers, but what they are compared with: name and number of tasks.
LOOPS = {"sketch": 60_000, "raw-loop": 30_000}
#: Who may be called the fastest peer.
PEERS = ("huey", "repid", "dramatiq", "taskiq", "taskiq-deep", "taskiq-stream", "saq", "dramatiq-rabbitmq")
#: Who takes part, by broker and whether results are stored.
STORING = ("huey", "taskiq", "dramatiq", "saq")
NOT_STORING = ("repid", "huey", "taskiq-deep", "taskiq-stream", "dramatiq")
ENTRIES = {
    ("redis", True): ("ours-prefork", "celery-prefork", "sketch", *STORING, "ours-threads", "celery-threads", "celery-default"),
    ("redis", False): ("ours-prefork", "celery-prefork", *NOT_STORING, "ours-threads", "celery-threads"),
    ("rabbitmq", True): ("ours-rabbitmq", "celery-rabbitmq", "dramatiq-rabbitmq"),
    ("rabbitmq", False): ("ours-rabbitmq", "celery-rabbitmq", "raw-loop", "dramatiq-rabbitmq"),
}
#: What is promised, for whom against whom: ours, the other, the goal, and whether that is with results (None: either way).
GOALS: tuple[tuple[str, str, str, bool | None], ...] = (
    ("ours-prefork", "celery-prefork", ">= 25", True),
    ("ours-prefork", "fastest", ">= 2.5", True),
    ("ours-prefork", "sketch", ">= 0.5", True),
    ("ours-threads", "celery-threads", ">= 10", True),
    ("ours-rabbitmq", "celery-rabbitmq", ">= 2.5", None),
    ("ours-rabbitmq", "raw-loop", ">= 0.6", False),
)
OURS = ("ours-prefork", "ours-threads", "ours-rabbitmq")

#: Rates of all rounds by contestant.
Rates = dict[str, list[float]]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    parser = figures.parser(__doc__)
    parser.add_argument("--results", choices=["on", "off"], default="on", help="whether results are stored (default: on)")
    parser.add_argument("--broker", choices=["redis", "rabbitmq"], default="redis", help="(default: redis)")
    parser.add_argument("--only", help=f"of {', '.join([*CONTESTANTS, *LOOPS])}; separated by commas")
    parser.add_argument("--scale", type=float, default=1.0, help="so many times the tasks")
    options = parser.parse_args(arguments)
    if options.short:
        options.scale, options.rounds = options.scale / 8, 1
    options.stores = options.results == "on"
    options.entries = options.only.split(",") if options.only else list(ENTRIES[options.broker, options.stores])
    if unknown := set(options.entries) - {*CONTESTANTS, *LOOPS}:
        parser.error(f"unknown contestants {sorted(unknown)}")
    return options


class Bench:
    """The servers, the tasks' notes and a folder for logs, shared by all runs."""

    def __init__(self, servers: Servers, noted: Notes, folder: Path) -> None:
        self.servers = servers
        self.noted = noted
        self.folder = folder
        #: Processor seconds a task of the last run, workers and servers together.
        self.cost = math.nan

    def processor_time(self, workers: Sequence[Program]) -> float:
        """Seconds that the workers and the servers have computed."""
        pids = [*(worker.pid for worker in workers), *self.servers.pids]
        return sum(map(processes.processor_time, pids))

    def run(self, name: str, *, scale: float, stores: bool) -> float:
        """Tasks per second of one run."""
        self.cost = math.nan
        if name == "sketch":
            rate, self.cost = ceiling.measure(self.servers.redis, self.noted, int(LOOPS[name] * scale), 100)
            return rate
        if name == "raw-loop":
            return rabbitmq.measure(self.servers.broker("rabbitmq"), self.noted, int(LOOPS[name] * scale))
        contestant = CONTESTANTS[name]
        stores = stores if contestant.stores else contestant.stores is None
        return self.measure(contestant, int(contestant.tasks * scale), stores)

    def measure(self, contestant: Contestant, tasks: int, stores: bool) -> float:
        """Tasks per second of one worker, from the first task to the last, or to the last result."""
        self.servers.clear()
        self.noted.clear()
        client, broker = self.servers.redis.client, self.servers.broker(contestant.broker)
        env = contestant.environment(broker=broker, results=self.servers.redis.url if stores else None, notes=self.noted.path)
        self.fill(contestant, tasks, env)
        with contestant.working(self.folder, env) as workers:
            self.noted.wait(tasks // 10, within=30 + tasks / 50, workers=workers)
            warm, computed = self.noted.count(), self.processor_time(workers)
            self.noted.wait(tasks, within=30 + tasks / 50, workers=workers)
            self.cost = (self.processor_time(workers) - computed) / max(1, tasks - warm)
            end = None
            if stores:
                eventually(lambda: contestant.settled(client, tasks), within=30, what="all results are stored", every=0.002)
                end = time.monotonic()
            if contestant.app == "fast" and contestant.broker == "redis":
                eventually(self.servers.redis.at_rest, within=30, what="all messages are acked")
        done = self.noted.check(tasks, strict=contestant.library == "ours")
        if contestant.app == "fast" and stores:
            check_results(client, tasks)
        return (tasks - 1) / ((end or done[-1].ended) - min(note.began for note in done[:1000]))

    def fill(self, contestant: Contestant, tasks: int, env: Mapping[str, str]) -> None:
        """Publish the tasks; genuine Celery and ours get the same raw messages."""
        if contestant.app != "fast":
            contestant.client("fill", tasks, env=env)
            return
        messages = (raw_message("fast.nothing", [number]) for number in range(tasks))
        if "BENCH_RESULTS" not in env:
            messages = (raw.replace(b'"ignore_result": false', b'"ignore_result": true') for raw in messages)
        if contestant.broker == "redis":
            load(self.servers.redis.client, messages)
        else:
            rabbitmq.load(env["BENCH_BROKER"], messages)


def check_results(client: redis.Redis, tasks: int) -> None:
    """Raise unless every task has a result, and each of them says SUCCESS."""
    keys = list(client.scan_iter(match=b"celery-task-meta-*", count=5_000))
    documents = [document for start in range(0, len(keys), 1_000) for document in client.mget(keys[start : start + 1_000])]
    states = [json.loads(document)["status"] for document in documents if document]
    if len(states) != tasks or set(states) != {"SUCCESS"}:
        raise AssertionError(f"{len(states)} results for {tasks} tasks, with the states {sorted(set(states))}")


def rounds(options: argparse.Namespace) -> Iterator[tuple[str, float, float]]:
    """Name, tasks per second and processor seconds a task. Once a round; the order turns, so that drift hits everybody alike."""
    needs_rabbitmq = any(
        name == "raw-loop" or (name in CONTESTANTS and CONTESTANTS[name].broker == "rabbitmq") for name in options.entries
    )
    with ExitStack() as stack:
        folder = stack.enter_context(scratch("throughput-"))
        servers = stack.enter_context(Servers(folder, rabbitmq=needs_rabbitmq))
        bench = Bench(servers, stack.enter_context(notes()), folder)
        if needs_rabbitmq and not servers.has_rabbitmq:
            raise PeerUnavailable("rabbitmq-server is not installed")
        for number in range(options.rounds):
            at = number % len(options.entries)
            for name in options.entries[at:] + options.entries[:at]:
                rate = bench.run(name, scale=options.scale, stores=options.stores)
                cost = f"{bench.cost * 1e6:>7,.0f} µs of processor time a task"
                print(f"  {name:<18} {rate:>9,.0f} tasks/s   {cost if bench.cost > 0 else ''}", flush=True)
                yield name, rate, bench.cost


def summary(rates: Rates, stores: bool, broker: str) -> list[Line]:
    """What is promised, then how everybody else compares."""
    how = f"no-op tasks/s on {broker}, results {'stored' if stores else 'off'}"
    fastest = best(rates)
    lines, told = [], set()
    for mine, other, goal, with_results in GOALS:
        name = fastest if other == "fastest" else other
        if mine in rates and name in rates and with_results in (None, stores):
            told.add((mine, name))
            who = f"the fastest peer ({name})" if other == "fastest" else name
            lines.append(versus(f"{how}: {mine}, vs {who}", rates[mine], rates[name], goal=goal))
    mine = next((name for name in OURS if name in rates), "")
    if mine:
        others = [name for name in rates if name not in OURS and (mine, name) not in told]
        lines += [versus(f"{how}: {mine}, vs {name}", rates[mine], rates[name]) for name in others]
    return lines or [Line(f"{how}: {name}", figures.spread(found)) for name, found in rates.items()]


def cost_lines(costs: Rates) -> list[Line]:
    """Processor time a task, of workers and servers: what a busy machine changes least."""
    mine = next((name for name in OURS if name in costs), "")
    lines = [Line(f"processor µs a task: {mine}", figures.spread(costs[mine]))] if mine else []
    others = [name for name in costs if name != mine and not any(map(math.isnan, costs[name]))]
    return lines + [versus(f"processor µs a task: {mine}, vs {name}", costs[mine], costs[name]) for name in others if mine]


def best(rates: Rates) -> str | None:
    """The fastest of the peers beside Celery."""
    return max((name for name in rates if name in PEERS), key=lambda name: statistics.median(rates[name]), default=None)


def main() -> int:
    """0, or 1 when ``--check`` failed or a peer could not be installed."""
    options = parse()
    rates: Rates = {name: [] for name in options.entries}
    costs: Rates = {name: [] for name in options.entries}
    try:
        versions = dict.fromkeys(version(CONTESTANTS[name].library) for name in options.entries if name in CONTESTANTS)
        print(figures.ground(*versions), flush=True)
        for name, rate, cost in rounds(options):
            rates[name].append(rate)
            costs[name].append(cost * 1e6)
    except PeerUnavailable as why:
        print(why, file=sys.stderr)
        return 1
    lines = summary(rates, options.stores, options.broker)
    return figures.finish([*lines, *cost_lines(costs)], options)


if __name__ == "__main__":
    sys.exit(main())

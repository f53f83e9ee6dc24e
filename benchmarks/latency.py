"""Call and wait for the result, many times in a row: how long one task takes from ``delay()`` to its result in the caller's hands.

One client, one call at a time, everything warm (20 calls before). One private Redis, and for dramatiq's best configuration a
private RabbitMQ beside it. The order turns from round to round.

    python benchmarks/latency.py                       # 1,000 calls, 3 rounds
    python benchmarks/latency.py --only ours-prefork,celery-prefork,huey
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs as a plain script

from benchmarks import figures
from benchmarks.contestants import CONTESTANTS, Contestant, version
from benchmarks.figures import Line, versus
from benchmarks.noted import notes
from benchmarks.servers import Servers
from tests.peers import PeerUnavailable, scratch

EVERYBODY = (
    "ours-prefork",
    "celery-prefork",
    "huey",
    "dramatiq-rabbitmq",
    "ours-threads",
    "ours-solo",
    "celery-solo",
    "celery-threads",
    "dramatiq",
    "taskiq",
    "saq",
)
PEERS = ("huey", "dramatiq-rabbitmq", "dramatiq", "taskiq", "saq")

#: Milliseconds, median and 99th percentile of each round.
Figures = dict[str, list[tuple[float, float]]]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    parser = figures.parser(__doc__)
    parser.add_argument("--calls", type=int, default=1_000)
    parser.add_argument("--only", help=f"of {', '.join(CONTESTANTS)}; separated by commas")
    options = parser.parse_args(arguments)
    if options.short:
        options.calls, options.rounds = 200, 1
    options.entries = options.only.split(",") if options.only else list(EVERYBODY)
    if unknown := set(options.entries) - set(CONTESTANTS):
        parser.error(f"unknown contestants {sorted(unknown)}")
    return options


def measure(contestant: Contestant, servers: Servers, folder: Path, calls: int) -> tuple[float, float]:
    """Milliseconds, median and 99th percentile, of so many calls."""
    servers.clear()
    with notes() as noted:
        broker = servers.broker(contestant.broker)
        env = contestant.environment(broker=broker, results=servers.redis.url, notes=noted.path, BENCH_CALLS="1")
        with contestant.working(folder, env):
            seconds = sorted(contestant.client("call", calls, env=env)["seconds"])
    return statistics.median(seconds) * 1e3, seconds[int(len(seconds) * 0.99)] * 1e3


def rounds(options: argparse.Namespace) -> Iterator[tuple[str, tuple[float, float]]]:
    """Everybody once a round."""
    with ExitStack() as stack:
        folder = stack.enter_context(scratch("latency-"))
        servers = stack.enter_context(
            Servers(folder, rabbitmq=any(CONTESTANTS[name].broker == "rabbitmq" for name in options.entries))
        )
        for number in range(options.rounds):
            at = number % len(options.entries)
            for name in options.entries[at:] + options.entries[:at]:
                if CONTESTANTS[name].broker == "rabbitmq" and not servers.has_rabbitmq:
                    continue
                measured = measure(CONTESTANTS[name], servers, folder, options.calls)
                print(f"  {name:<18} p50 {measured[0]:6.2f} ms   p99 {measured[1]:6.2f} ms", flush=True)
                yield name, measured


def summary(measured: Figures) -> list[Line]:
    """Ours against Celery and against the best of the others, by the medians of each round."""
    middle = {name: [p50 for p50, _ in found] for name, found in measured.items() if found}
    tail = {name: [p99 for _, p99 in found] for name, found in measured.items() if found}
    mine = middle.get("ours-prefork")
    if mine is None:
        return [Line(f"call and wait, ms p50: {name}", figures.spread(found, ".2f")) for name, found in middle.items()]
    lines = []
    if "celery-prefork" in middle:
        what = "call and wait, ms p50: prefork 2, vs celery-prefork"
        lines.append(versus(what, mine, middle["celery-prefork"], goal="<= 0.5", form=".2f"))
    best = min((name for name in middle if name in PEERS), key=lambda name: statistics.median(middle[name]), default=None)
    if best:
        what = f"call and wait, ms p50: prefork 2, vs best peer ({best})"
        lines.append(versus(what, mine, middle[best], goal="<= 1", form=".2f"))
    others = [name for name in middle if name not in ("ours-prefork", "celery-prefork", best)]
    lines += [versus(f"call and wait, ms p50: prefork 2, vs {name}", mine, middle[name], form=".2f") for name in others]
    lines += [Line(f"call and wait, ms p99: {name}", figures.spread(tail[name], ".2f")) for name in tail]
    return lines


def main() -> int:
    """0, or 1 when ``--check`` failed or a peer could not be installed."""
    options = parse()
    measured: Figures = {name: [] for name in options.entries}
    try:
        print(figures.ground(*dict.fromkeys(version(CONTESTANTS[name].library) for name in options.entries)), flush=True)
        for name, found in rounds(options):
            measured[name].append(found)
    except PeerUnavailable as why:
        print(why, file=sys.stderr)
        return 1
    return figures.finish(summary(measured), options)


if __name__ == "__main__":
    sys.exit(main())

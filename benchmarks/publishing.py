"""Messages per second of one producer: one by one, and in bulk. Ours and peers in turns on one private Redis; no worker runs.

One by one is ``task.delay(number)`` and what others call it. In bulk is whatever call a library has for many: ours
``apply_async_many`` (a group, where there is none), Celery's ``producer.batch()`` and group; the goal is about Celery's
``delay``, which is what its users write in a loop.

    python benchmarks/publishing.py                    # 5,000 one by one, 20,000 in bulk, 3 rounds
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs as a plain script

from benchmarks import figures
from benchmarks.contestants import CONTESTANTS, version
from benchmarks.figures import Line, versus
from benchmarks.noted import notes
from tests.peers import PeerUnavailable, RedisServer, scratch

#: Contestant, the function of its app, and how many messages: slow ways need not hold the others up.
WAYS = {
    "ours, one by one": ("ours-prefork", "send", 5_000),
    "celery delay": ("celery-prefork", "send", 3_000),
    "ours, bulk": ("ours-prefork", "send_bulk", 20_000),
    "celery group": ("celery-prefork", "send_bulk", 3_000),
    "celery producer.batch()": ("celery-prefork", "send_batch", 6_000),
    "huey, one by one": ("huey", "send", 10_000),
    "dramatiq, one by one": ("dramatiq", "send", 5_000),
    "taskiq, one by one": ("taskiq", "send", 5_000),
    "saq, one by one": ("saq", "send", 5_000),
    "saq, bulk": ("saq", "send_bulk", 10_000),
    "repid, one by one": ("repid", "send", 10_000),
    "repid, bulk": ("repid", "send_bulk", 10_000),
}
SHORT = ("ours, one by one", "celery delay", "ours, bulk")

Rates = dict[str, list[float]]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = figures.parser(__doc__)
    parser.add_argument("--only", help="contestants, separated by commas (ours-prefork, celery-prefork, huey …)")
    options = parser.parse_args(arguments)
    options.ways = list(SHORT if options.short else WAYS)
    if options.only:
        options.ways = [way for way in options.ways if WAYS[way][0] in options.only.split(",")]
    options.scale = 1.0
    if options.short:
        options.scale, options.rounds = 0.3, 1
    return options


def measure(way: str, server: RedisServer, notes_path: Path, scale: float) -> float:
    """Messages per second."""
    name, function, count = WAYS[way]
    server.client.flushall()
    contestant = CONTESTANTS[name]
    env = contestant.environment(broker=server.url, results=server.url, notes=notes_path)
    count = int(count * scale)
    seconds = contestant.client("publish", count, function, env=env)["seconds"]
    if contestant.library in ("ours", "celery"):
        waiting = server.client.llen("celery")
        assert waiting == count + 1, f"{waiting} messages in the queue after {count + 1} were published by {way}"
    return count / float(seconds)


def rounds(options: argparse.Namespace) -> Iterator[tuple[str, float]]:
    """Everybody once a round."""
    with scratch("publishing-") as folder, RedisServer(folder / "redis") as server, notes() as noted:
        for number in range(options.rounds):
            at = number % len(options.ways)
            for way in options.ways[at:] + options.ways[:at]:
                rate = measure(way, server, noted.path, options.scale)
                print(f"  {way:<26} {rate:>9,.0f}/s", flush=True)
                yield way, rate


def summary(rates: Rates) -> list[Line]:
    """Ours against Celery's ``delay``, then everybody."""
    lines = []
    delay = rates.get("celery delay")
    for way, goal in (("ours, one by one", ">= 3"), ("ours, bulk", ">= 10")):
        if delay and way in rates:
            lines.append(versus(f"publishing/s: {way}, vs celery delay", rates[way], delay, goal=goal))
    for way, found in rates.items():
        mine = rates.get("ours, bulk" if "one by one" not in way else "ours, one by one")
        if mine and not way.startswith("ours") and way != "celery delay":
            lines.append(versus(f"publishing/s: ours, vs {way}", mine, found))
    return lines


def main() -> int:
    """0, or 1 when ``--check`` failed or a peer could not be installed."""
    options = parse()
    rates: Rates = {way: [] for way in options.ways}
    try:
        print(figures.ground(*dict.fromkeys(version(CONTESTANTS[WAYS[way][0]].library) for way in options.ways)), flush=True)
        for way, rate in rounds(options):
            rates[way].append(rate)
    except PeerUnavailable as why:
        print(why, file=sys.stderr)
        return 1
    return figures.finish(summary(rates), options)


if __name__ == "__main__":
    sys.exit(main())

"""``make chaos``: the long runs, each with its report; exit code 1 when anything happened that may not.

python -m tests.chaos                                         everything, on every broker
python -m tests.chaos storm --broker redis --kills 50         random kills
python -m tests.chaos storm --broker redis --peer celery      the same against genuine Celery
python -m tests.chaos points --broker sqlite --point in-run   named crash points
python -m tests.chaos stopped --rounds 50                     nodes that sleep through their leases
python -m tests.chaos outages --rounds 50                     faults of the broker

--keep FOLDER keeps ledgers and logs. A broker whose server is not installed is passed over, and said so.
"""

from __future__ import annotations

import argparse
import itertools
import signal
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

from tests.chaos.crash import crash, mapping
from tests.chaos.grounds import GROUNDS, is_installed, shared_rabbitmq
from tests.chaos.outages import FAULTS, outages
from tests.chaos.points import FAULTY, POINTS
from tests.chaos.stopped import stopped
from tests.chaos.storm import Weather, storm
from tests.peers import PeerUnavailable, Side, genuine, install_peer, our_side, scratch

#: Where each kind of run takes place unless it is told.
STORM = ("redis", "sqlite", "amqp")
POINT = ("redis", "redis-apart", "sqlite", "sqlite-apart", "amqp")
STOPPED = ("redis", "redis-db", "sqlite")
OUTAGES = ("redis-aof", "amqp")
#: Genuine Celery has no broker in a file.
PEER = ("redis", "amqp")


def say(text: str) -> None:
    """A line of the report, at once."""
    print(text, flush=True)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["all", *RUNS], default="all")
    parser.add_argument("--peer", choices=["ours", "celery"], default="ours", help="genuine Celery: the storm alone")
    parser.add_argument("--broker", action="append", choices=GROUNDS, help="where; may be given several times")
    parser.add_argument("--kills", type=int, default=300, help="storm: slots to be killed (default: 300)")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 10_000, help="storm: repeats its kills roughly")
    parser.add_argument("--point", action="append", choices=POINTS, help="crash points: only this one")
    parser.add_argument("--jobs", type=int, default=3, help="crash points that are tried at a time (default: 3)")
    parser.add_argument("--rounds", type=int, default=50, help="stopped, outages: how many (default: 50)")
    parser.add_argument(
        "--visibility",
        type=float,
        default=2.0,
        help="genuine Celery on Redis: its visibility timeout in seconds (default: 2, as our lease)",
    )
    parser.add_argument("--keep", type=Path, help="keep ledgers and logs in this folder")
    return parser.parse_args(arguments)


def main() -> int:
    """Run what was asked for."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    options = parse()
    try:
        side = our_side() if options.peer == "ours" else genuine(install_peer())
    except PeerUnavailable as why:
        say(str(why))
        return 1
    wanted = ["storm"] if options.peer == "celery" else list(RUNS) if options.what == "all" else [options.what]
    began = time.monotonic()
    with scratch("chaos-") as temporary:
        passed = {what: RUNS[what](side, options.keep or temporary, options) for what in wanted}
    say(
        f"chaos took {(time.monotonic() - began) / 60:.1f} min: "
        + ", ".join(f"{what} {'passed' if ok else 'FAILED'}" for what, ok in passed.items())
    )
    return 0 if all(passed.values()) else 1


def places(options: argparse.Namespace, usual: Iterable[str]) -> list[str]:
    """Where a run takes place: what the command line says, or the usual places; without those whose server is missing."""
    wanted = options.broker or (PEER if options.peer == "celery" else usual)
    missing = [name for name in wanted if not is_installed(name)]
    for name in missing:
        say(f"{name}: not tried, its server is not installed")
    return [name for name in wanted if name not in missing]


def run_storms(side: Side, folder: Path, options: argparse.Namespace) -> bool:
    """Random kills on each broker, one after the other: they want the whole machine."""
    results = [run_storm(side, name, folder, options) for name in places(options, STORM)]
    return all(results)


def run_storm(side: Side, name: str, folder: Path, options: argparse.Namespace) -> bool:
    """One storm."""
    weather = Weather(kills=options.kills, seed=options.seed)
    say(f"storm on {name}, {side.name}, seed {options.seed}:")
    transport: dict[str, float] = {}
    if side.name == "genuine" and name.startswith("redis"):
        # Its sweep for messages older than the visibility timeout: every second, or a run would wait 100 s for each.
        transport = {"visibility_timeout": options.visibility, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}
        say(f"  visibility timeout {options.visibility:g} s, looked at every second")
    aftermath = storm(side, name, folder / f"storm-{name}", weather, say=say, transport=transport)
    say(aftermath.report())
    return aftermath.passed


def run_points(side: Side, folder: Path, options: argparse.Namespace) -> bool:
    """Every crash point in each place."""
    results = [run_points_of(side, name, folder, options) for name in places(options, POINT)]
    return all(results)


def run_points_of(side: Side, name: str, folder: Path, options: argparse.Namespace) -> bool:
    """The crash points of one place. Most of a crash is waiting, so several are tried at a time."""
    wanted = options.point or [point.name for point in POINTS.values() if point.hooks_on(name) != FAULTY]
    say(f"crash points on {name}:\n{mapping(name)}")
    began = time.monotonic()
    failed = 0
    with shared_rabbitmq() if name == "amqp" else nullcontext(), ThreadPoolExecutor(options.jobs) as pool:
        for passed, text in pool.map(lambda point: _try(side, point, name, folder), wanted):
            say(f"  {text}")
            failed += not passed
    say(f"  {len(wanted)} points, {failed} failed, {time.monotonic() - began:.0f} s")
    return not failed


def _try(side: Side, point: str, name: str, folder: Path) -> tuple[bool, str]:
    """Whether it passed, and what to say of it. A program that hangs or ends must not hide what the other points come to."""
    try:
        result = crash(side, point, name, folder / f"point-{name}-{point}")
    except AssertionError as error:  # of tests/peers.py, which waits for everything with a deadline
        return False, f"{point:<38}{name:<14}FAILED: {error}"
    return result.passed, result.line() if result.passed else result.details()


def run_stopped(side: Side, folder: Path, options: argparse.Namespace) -> bool:
    """Nodes that sleep through their leases. All places at a time: most of a round is sleep."""
    names = places(options, STOPPED)
    say(f"{options.rounds} rounds of nodes that sleep through their leases on {', '.join(names)}:")
    with ThreadPoolExecutor(max(1, len(names))) as pool:
        results = list(
            pool.map(lambda name: stopped(side, name, folder / f"stopped-{name}", rounds=options.rounds, say=say), names)
        )
    for result in results:
        say(result.report())
    return all(result.passed for result in results)


def run_outages(side: Side, folder: Path, options: argparse.Namespace) -> bool:
    """Faults of each broker, in turn."""
    passed = True
    for name in places(options, OUTAGES):
        say(f"{options.rounds} faults of {name}:")
        faults = list(itertools.islice(itertools.cycle(FAULTS[name.partition("-")[0]]), options.rounds))
        result = outages(side, name, folder / f"outages-{name}", faults=faults, say=say)
        say(result.report())
        passed = passed and result.passed
    return passed


RUNS: dict[str, Callable[[Side, Path, argparse.Namespace], bool]] = {
    "storm": run_storms,
    "points": run_points,
    "stopped": run_stopped,
    "outages": run_outages,
}

if __name__ == "__main__":
    sys.exit(main())

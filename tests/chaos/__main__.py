"""``make chaos``: the long runs.

python -m tests.chaos storm --broker redis
python -m tests.chaos storm --broker redis --peer celery
python -m tests.chaos points --broker redis --broker sqlite-apart
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.chaos.crash import crash, mapping
from tests.chaos.points import FAULTY, POINTS
from tests.chaos.storm import Weather, storm
from tests.peers import PeerUnavailable, Side, genuine, install_peer, our_side, scratch


def say(text: str) -> None:
    """A line of the report, at once."""
    print(text, flush=True)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["storm", "points"])
    parser.add_argument("--peer", choices=["ours", "celery"], default="ours")
    parser.add_argument("--broker", action="append", help="which grounds; may be given several times")
    parser.add_argument("--point", action="append", choices=POINTS, help="crash points: only this one")
    parser.add_argument("--jobs", type=int, default=3, help="crash points that are tried at a time")
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--visibility", type=float, default=2.0, help="genuine Celery on Redis: its visibility timeout, seconds")
    parser.add_argument("--keep", type=Path, help="keep ledgers and logs in this folder")
    return parser.parse_args(arguments)


def main() -> int:
    options = parse()
    try:
        side = our_side() if options.peer == "ours" else genuine(install_peer())
    except PeerUnavailable as why:
        say(str(why))
        return 1
    run = {"storm": run_storm, "points": run_points}[options.what]
    with scratch("chaos-") as temporary:
        folder = options.keep or temporary
        return 0 if all([run(side, name, folder, options) for name in options.broker or ["redis", "sqlite"]]) else 1


def run_storm(side: Side, name: str, folder: Path, options: argparse.Namespace) -> bool:
    """One storm, with its report."""
    weather = Weather(kills=options.kills, seed=options.seed)
    say(f"storm on {name}, {side.name}, seed {options.seed}:")
    more = {}
    if side.name == "genuine" and name.startswith("redis"):
        # Its sweep for messages older than the visibility timeout: every second, or the run would wait 100 s for each.
        more["transport"] = {
            "visibility_timeout": options.visibility,
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
        }
    aftermath = storm(side, name, folder / f"storm-{name}", weather, say=say, **more)
    say(aftermath.report())
    return aftermath.passed


def run_points(side: Side, name: str, folder: Path, options: argparse.Namespace) -> bool:
    """Every crash point on these grounds. Most of a crash is waiting, so several run at a time."""
    wanted = options.point or [point.name for point in POINTS.values() if point.hooks_on(name) != FAULTY]
    say(f"crash points on {name}:\n{mapping(name)}")
    began = time.monotonic()
    with ThreadPoolExecutor(options.jobs) as pool:
        futures = [pool.submit(crash, side, point, name, folder / f"point-{name}-{point}") for point in wanted]
        crashes = []
        for future in futures:
            crashes.append(future.result())
            say(f"  {crashes[-1].line() if crashes[-1].passed else crashes[-1].details()}")
    failed = sum(not crash.passed for crash in crashes)
    say(f"  {len(crashes)} points, {failed} failed, {time.monotonic() - began:.0f} s")
    return not failed


if __name__ == "__main__":
    sys.exit(main())

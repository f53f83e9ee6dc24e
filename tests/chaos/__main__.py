"""``make chaos``: the long runs.

python -m tests.chaos storm --broker redis
python -m tests.chaos storm --broker redis --peer celery
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.chaos.storm import Weather, storm
from tests.peers import PeerUnavailable, Side, genuine, install_peer, our_side, scratch


def say(text: str) -> None:
    """A line of the report, at once."""
    print(text, flush=True)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["storm"])
    parser.add_argument("--peer", choices=["ours", "celery"], default="ours")
    parser.add_argument("--broker", action="append", help="which grounds; may be given several times")
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
    with scratch("chaos-") as temporary:
        folder = options.keep or temporary
        return 0 if all([run_storm(side, name, folder, options) for name in options.broker or ["redis", "sqlite"]]) else 1


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


if __name__ == "__main__":
    sys.exit(main())

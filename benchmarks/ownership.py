"""Who owns a message when processes die: the trials of tests/ownership for ours or for genuine Celery, with figures.

python benchmarks/ownership.py --peer ours
python benchmarks/ownership.py --peer celery

README.md beside this file says why the trials are as they are.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs as a plain script

from tests.ownership.trials import LEASE, child_killed, child_killed_without_requeue, long_tasks, node_killed
from tests.peers import PeerUnavailable, Side, genuine, install_peer, our_side, scratch


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", choices=["ours", "celery"], default="ours")
    parser.add_argument("--trials", default="abc", help="which ones: a child killed, b node killed, c long tasks (default: abc)")
    parser.add_argument("--slots", type=int, default=10, help="slots of each of the two nodes in trial c (default: 10)")
    parser.add_argument("--pool", choices=["prefork", "threads"], default="prefork", help="for trials b and c (default: prefork)")
    sweep = "genuine Celery, trial c: seconds between two sweeps for old messages (default: 10; 0: Kombu's own, 100 for prefork)"
    parser.add_argument("--sweep", type=float, default=10, help=sweep)
    return parser.parse_args(arguments)


def seconds_or_never(seconds: float | None, within: float) -> str:
    """For people."""
    return f"not within {within:g} s" if seconds is None else f"after {seconds:.2f} s"


def report(side: Side, options: argparse.Namespace, folder: Path) -> None:
    """Run the trials that were asked for, each in a yard of its own, and print what came of them."""
    if "a" in options.trials:
        again = child_killed(side, folder / "a1")
        print(f"(a) child killed, reject_on_worker_lost: the task started elsewhere {seconds_or_never(again, 30)}", flush=True)
        lost = child_killed_without_requeue(side, folder / "a2")
        what = f"{lost['status']} {lost['error']} after {lost['seconds']:.2f} s, {lost['starts']} start(s)"
        print(f"(a) child killed, acks_late alone: {what}", flush=True)
    if "b" in options.trials:
        again = node_killed(side, folder / "b", within=40, pool=options.pool)
        lease = f" (lease {LEASE:g} s)" if side.name == "ours" else " (visibility timeout at its default, 1 h)"
        print(f"(b) node killed: the task started on the other node {seconds_or_never(again, 40)}{lease}", flush=True)
    if "c" in options.trials:
        sweep = options.sweep if options.peer == "celery" and options.sweep else None
        facts = long_tasks(side, folder / "c", slots=options.slots, pool=options.pool, sweep=sweep)
        setting = f"{facts.tasks} tasks of 12 s, visibility timeout 5 s, 2 nodes x {options.slots} {options.pool}"
        starts = f"{facts.starts} starts {facts.by_node}, at most {facts.most_starts_of_one} of one task"
        end = "over" if facts.over else "given up"
        print(f"(c) {setting}: {starts}; {facts.finishes} finishes; {end} after {facts.seconds:.0f} s", flush=True)


def main() -> int:
    """Exit code 0 when the trials could be run, whatever they found."""
    options = parse()
    try:
        side = our_side() if options.peer == "ours" else genuine(install_peer())
    except PeerUnavailable as why:
        print(why, file=sys.stderr)
        return 1
    print(f"{side.name}:", flush=True)
    with scratch("ownership-") as folder:
        report(side, options, folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Large canvases, ours and genuine Celery's in turn: seconds from the call to the result, and bytes published on the way.

Chains of 3,000, chords of 5,000, groups of 5,000, with two prefork children each. Bytes are those of the messages (and of what ours
store for them), in runs of their own: a chain of 1,000 steps, and chords in the headers of chords, ten by ten by ten. Ours run with
``broker_transport_options = {"exclusive": True}``, as a fleet does in which only Jumpstarter workers read the queues. A round takes
Celery three minutes.

    python benchmarks/canvases.py
    python benchmarks/canvases.py --short              # half a minute
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs as a plain script

from benchmarks import figures
from benchmarks.contestants import APPS, TUNED, install, version
from benchmarks.figures import Line, spread
from tests.peers import PeerUnavailable, Program, RedisServer, clean_environment, scratch, wait_ready

MIB = 1 << 20
#: Seconds that one canvas may take; Celery's chain of 3,000 needs two minutes on a quiet machine.
PATIENCE = 600
FASTER = ">= 5"


@dataclass(frozen=True, slots=True)
class Bench:
    """One Redis, one folder."""

    server: RedisServer
    folder: Path

    def _environment(self, side: str, counted: Path | None) -> dict[str, str]:
        more = {"BENCH_EXCLUSIVE": "1"} if side == "ours" else {}
        if counted is not None:
            more["BENCH_BYTES"] = str(counted)
        return clean_environment(BENCH_BROKER=self.server.url, BENCH_SIDE=side, PYTHONPATH=str(APPS), **more)

    def _worker(self, side: str, env: dict[str, str]) -> AbstractContextManager[Program]:
        start = ("jumpstarter", "celery") if side == "ours" else ("python", "-m", "celery")
        options = ("-A", "canvases_app", "worker", "-l", "info", "-c", "2", *(() if side == "ours" else TUNED))
        log = self.folder / f"{side}.log"
        log.unlink(missing_ok=True)  # or it would be "ready" before it starts
        return Program([install(side) / start[0], *start[1:], *options], folder=APPS, env=env, log=log)

    def run(self, side: str, kind: str, size: int, counted: Path | None = None) -> float:
        """Seconds that the canvas took."""
        self.server.client.flushall()
        env = self._environment(side, counted)
        client = [str(install(side) / "python"), *(["-m", "compat_celery"] if side == "ours" else []), "canvases_app.py"]
        with self._worker(side, env) as worker:
            wait_ready(worker)
            done = subprocess.run(
                [*client, kind, str(size)], cwd=APPS, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False
            )
        if done.returncode:
            raise AssertionError(f"{kind} of {size} with {side}:\n{done.stderr[-2000:]}")
        seconds: float = json.loads(done.stdout.splitlines()[-1])["seconds"]
        return seconds

    def bytes(self, side: str, kind: str, size: int) -> int:
        """How many bytes it published."""
        counted = self.folder / "bytes"
        counted.unlink(missing_ok=True)
        self.run(side, kind, size, counted)
        return sum(map(int, counted.read_text().split()))


def timed(bench: Bench, kind: str, size: int, options: argparse.Namespace) -> Line:
    """Both sides in turn; the ratio says how many times faster ours are."""
    sides = ["ours"] if options.ours else ["ours", "celery"]
    found: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(options.rounds):
        for side in sides:
            found[side].append(bench.run(side, kind, size))
            print(f"  {kind} of {size}, {side}: {found[side][-1]:.2f} s", flush=True)
    what = f"{kind} of {size}, s; times faster"
    if options.ours:
        return Line(what, spread(found["ours"], ".2f"))
    ratio = statistics.median(theirs / mine for mine, theirs in zip(found["ours"], found["celery"], strict=True))
    return Line(what, spread(found["ours"], ".2f"), spread(found["celery"], ".2f"), ratio, FASTER)


def weighed(bench: Bench, kind: str, size: int, limit: float, options: argparse.Namespace) -> Line:
    """Mebibytes that ours publish, and Celery beside."""
    shown = f"{size} x {size} x {size}" if kind == "nested" else f"{size}"
    mine = bench.bytes("ours", kind, size) / MIB
    theirs = "" if options.ours else f"{bench.bytes('celery', kind, size) / MIB:,.1f}"
    print(f"  {kind} of {shown}: {mine:.2f} MiB; Celery {theirs or '-'}", flush=True)
    return Line(f"{kind} of {shown}, MiB published", f"{mine:.2f}", theirs, mine, f"<= {limit:g}")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = figures.parser(__doc__, rounds=1)
    parser.add_argument("--ours", action="store_true", help="no peer")
    parser.add_argument("--parts", default="bytes,chain,chord,group")
    options = parser.parse_args(arguments)
    options.parts = options.parts.split(",")
    sizes = {"chain": 300, "chord": 500, "group": 500} if options.short else {"chain": 3000, "chord": 5000, "group": 5000}
    options.sizes = {kind: size for kind, size in sizes.items() if kind in options.parts}
    options.weighed = 200 if options.short else 1000
    return options


def main() -> int:
    """0, or 1 when ``--check`` failed or the peer could not be installed."""
    options = parse()
    lines = []
    try:
        print(figures.ground(*([] if options.ours else [version("celery")])), flush=True)
        with scratch("canvases-") as folder, RedisServer(folder / "redis") as server:
            bench = Bench(server, folder)
            if "bytes" in options.parts:
                lines.append(weighed(bench, "chain", options.weighed, options.weighed / 1000, options))
                lines.append(weighed(bench, "nested", 10, 2, options))
            lines += [timed(bench, kind, size, options) for kind, size in options.sizes.items()]
    except PeerUnavailable as why:
        print(why, file=sys.stderr)
        return 1
    return figures.finish(lines, options)


if __name__ == "__main__":
    sys.exit(main())

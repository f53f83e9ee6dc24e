"""All benchmarks one after the other, and one table of what is promised at the end: ``make bench``.

python benchmarks/everything.py                    # about 40 minutes
python benchmarks/everything.py --short            # about 3: what runs, not how fast
python benchmarks/everything.py --only throughput,latency --check
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs as a plain script

from benchmarks.figures import Line, eased, table
from tests.peers import scratch

HERE = Path(__file__).resolve().parent
#: Name, script and options of each, in the order of running.
STEPS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("throughput", "throughput.py", ()),
    ("throughput-off", "throughput.py", ("--results", "off")),
    ("rabbitmq", "throughput.py", ("--broker", "rabbitmq", "--results", "off")),
    ("rabbitmq-results", "throughput.py", ("--broker", "rabbitmq", "--results", "on")),
    ("publishing", "publishing.py", ()),
    ("startup", "startup.py", ()),
    ("latency", "latency.py", ()),
    ("waiting", "waiting.py", ()),
    ("idle", "idle.py", ()),
    ("shapes", "shapes.py", ()),
    ("canvases", "canvases.py", ()),
)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [name for name, *_ in STEPS]
    parser.add_argument("--only", help=f"of {', '.join(names)}; separated by commas")
    parser.add_argument("--short", action="store_true", help="one round of little work")
    parser.add_argument("--rounds", type=int, help="instead of each one's own number")
    parser.add_argument("--check", action="store_true", help="exit code 1 when a goal is missed")
    parser.add_argument("--ease", type=float, default=1.0, help="divide every goal by so much (for a check on a busy machine)")
    options = parser.parse_args(arguments)
    options.names = options.only.split(",") if options.only else names
    if unknown := set(options.names) - set(names):
        parser.error(f"unknown benchmarks {sorted(unknown)}")
    return options


def run(name: str, script: str, fixed: Sequence[str], options: argparse.Namespace, folder: Path) -> list[Line]:
    """The summary of one of them; a line that says so where it failed."""
    answer = folder / f"{name}.json"
    command = [sys.executable, str(HERE / script), *fixed, "--json", str(answer)]
    command += ["--short"] if options.short else []
    command += ["--rounds", str(options.rounds)] if options.rounds else []
    print(f"\n== {name}", flush=True)
    began = time.monotonic()
    done = subprocess.run(command, check=False)
    print(f"({time.monotonic() - began:.0f} s)", flush=True)
    if not answer.exists():
        # Never taken for a success: no ratio is as bad as this one.
        return [Line(f"{name}: failed with exit code {done.returncode}", "", ratio=0.0, goal=">= 1")]
    return [Line(**line) for line in json.loads(answer.read_text())]


def main() -> int:
    """0, or 1 with ``--check`` when a goal was missed or a benchmark failed."""
    options = parse()
    lines: list[Line] = []
    with scratch("bench-") as folder:
        for name, script, fixed in STEPS:
            if name in options.names:
                lines += run(name, script, fixed, options, folder)
    promised = eased([line for line in lines if line.goal], options.ease)
    print(f"\n== summary: what is promised\n\n{table(promised)}", flush=True)
    missed = sum(not line.ok for line in promised)
    print(f"\n{len(promised) - missed} of {len(promised)} goals reached", flush=True)
    return 1 if missed and options.check else 0


if __name__ == "__main__":
    sys.exit(main())

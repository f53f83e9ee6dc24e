"""From the start of the process to the first published call: ours through the alias, and genuine Celery, in turns.

One program, unmodified: ``from celery import Celery, shared_task``, one task, its first ``delay()`` to a private Redis. Wall time
of the whole process, and its processor time, which suffers less on a busy machine. Both are compiled to byte code before.

    python benchmarks/startup.py                       # 25 starts of each
    python benchmarks/startup.py --short --check       # 5
"""

from __future__ import annotations

import argparse
import compileall
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs as a plain script

from benchmarks import figures
from benchmarks.figures import versus
from tests.peers import ROOT, PeerUnavailable, RedisServer, clean_environment, install_peer, scratch

PROGRAM = """\
from celery import Celery, shared_task

app = Celery("startup", broker="{url}/0", backend="{url}/1")


@shared_task
def add(x, y):
    return x + y


add.delay(1, 2)
"""

#: What the environment variable COMPAT_CELERY=1 runs at the start of Python where the wheel's .pth is installed.
ALIAS = (
    "import compat_celery; compat_celery.install_as_celery(); import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"
)


class Start(NamedTuple):
    """Seconds of one process."""

    wall: float
    processor: float


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    options = figures.parser(__doc__, rounds=25).parse_args(arguments)
    if options.short:
        options.rounds = min(options.rounds, 5)
    return options


def start(command: Sequence[str], folder: Path) -> Start:
    """Run a program to its end."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    subprocess.run(command, check=True, cwd=folder, env=clean_environment(PYTHONDONTWRITEBYTECODE="1"))
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Start(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def compiled(*folders: Path) -> None:
    """Compile what these folders hold to byte code, where it is not."""
    for folder in folders:
        compileall.compile_dir(folder, quiet=2)


def main() -> int:
    """0, or 1 when ``--check`` failed or the peer could not be installed."""
    options = parse()
    try:
        peer = install_peer()
    except PeerUnavailable as why:
        print(why, file=sys.stderr)
        return 1
    compiled(ROOT / "compat_celery", ROOT / "jumpstarter", *(Path(peer.python).parent.parent / "lib").glob("python*/site-packages"))
    print(figures.ground(), flush=True)
    starts: dict[str, list[Start]] = {"ours": [], "celery": []}
    with scratch("startup-") as folder, RedisServer(folder / "redis") as server:
        program = folder / "program.py"
        program.write_text(PROGRAM.format(url=server.url.rpartition("/")[0]))
        commands = {"ours": [sys.executable, "-c", ALIAS, str(program)], "celery": [str(peer.python), str(program)]}
        for number in range(options.rounds + 1):
            for who in sorted(commands, reverse=bool(number % 2)):
                took = start(commands[who], folder)
                if number:  # the first round only warms the file cache
                    starts[who].append(took)
        sent = server.client.llen("celery")
    assert sent == 2 * (options.rounds + 1), f"{sent} messages in the queue after {2 * (options.rounds + 1)} programs"
    ours, theirs = starts["ours"], starts["celery"]
    lines = [
        versus("start to first delay, s", [s.wall for s in ours], [s.wall for s in theirs], goal="<= 0.5", form=".3f"),
        versus("… processor time, s", [s.processor for s in ours], [s.processor for s in theirs], goal="<= 0.5", form=".3f"),
    ]
    return figures.finish(lines, options)


if __name__ == "__main__":
    sys.exit(main())

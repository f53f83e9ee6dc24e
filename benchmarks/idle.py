"""What a node costs that has nothing to do, and how much memory: ours and genuine Celery, prefork with two children.

Commands are what MONITOR shows over the whole time: those that the node sends, and apart from them those that its scripts call
inside the server. Memory is the proportional set size (PSS) of all processes of the node, after it has run 2,000 tasks, with the
same application.

    python benchmarks/idle.py                          # 30 s of idleness each, 3 rounds of memory
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs as a plain script

import redis

from benchmarks import figures, processes
from benchmarks.contestants import CONTESTANTS, Contestant, version
from benchmarks.figures import Line, versus
from benchmarks.noted import Notes, notes
from tests.peers import PeerUnavailable, RedisServer, eventually, load, raw_message, scratch

OURS, CELERY, CHATTY = "ours-prefork", "celery-prefork", "celery-default"


@dataclass(frozen=True, slots=True)
class Idleness:
    """Of one node.

    :ivar commands: that it sent to the broker, a second. :ivar by_name: which they were, over the whole time.
    :ivar inside: commands a second that its scripts called in the server.
    :ivar processor: percent of one processor. :ivar pss: MB, all processes. :ivar count: of processes.
    """

    commands: float
    by_name: Counter[str]
    inside: float
    processor: float
    pss: float
    count: int


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = figures.parser(__doc__)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--only", help=f"of {OURS}, {CELERY}, {CHATTY}")
    options = parser.parse_args(arguments)
    if options.short:
        options.seconds, options.rounds = 5.0, 1
    options.entries = options.only.split(",") if options.only else [OURS, CELERY, CHATTY]
    return options


@dataclass(slots=True)
class Heard:
    """Commands by name: sent by clients, and called by scripts."""

    sent: Counter[str] = field(default_factory=Counter)
    inside: Counter[str] = field(default_factory=Counter)


@contextmanager
def listening(server: RedisServer) -> Iterator[Heard]:
    """What happens on the server within the block."""
    heard = Heard()
    end = "the end of the benchmark"
    with redis.Redis(port=server.port).monitor() as monitor:  # type: ignore[no-untyped-call]  # redis-py has not typed it

        def listen() -> None:
            for shown in monitor.listen():
                if end in shown["command"]:
                    return
                kind = heard.inside if shown["client_type"] == "lua" else heard.sent
                kind[shown["command"].split()[0].upper()] += 1

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        yield heard
        server.client.echo(end)
        thread.join(10)


def measure(contestant: Contestant, server: RedisServer, noted: Notes, folder: Path, seconds: float, warm_up: int) -> Idleness:
    """Run a few tasks, let it come to rest, then watch."""
    server.client.flushall()
    noted.clear()
    env = contestant.environment(broker=server.url, results=server.url, notes=noted.path)
    load(server.client, (raw_message("fast.nothing", [number]) for number in range(warm_up)))
    with contestant.working(folder, env) as workers:
        noted.wait(warm_up, within=60 + warm_up / 50, workers=workers)
        eventually(server.at_rest, within=30, what="all messages are acked")
        pid = workers[0].pid
        time.sleep(2)  # whatever follows work (a last look, a pool that shrinks) is not idleness
        pss, count = processes.memory(pid, "Pss"), len(processes.tree(pid))
        with listening(server) as heard:
            computed, began = processes.processor_time(pid), time.monotonic()
            time.sleep(seconds)
            lasted = time.monotonic() - began
            computed = processes.processor_time(pid) - computed
        assert len(processes.tree(pid)) == count, f"the node changed while it was idle:\n{workers[0].text()[-2000:]}"
    return Idleness(heard.sent.total() / lasted, heard.sent, heard.inside.total() / lasted, 100 * computed / lasted, pss, count)


def told(name: str, node: Idleness) -> str:
    """For people."""
    commands = f"{node.commands:.2f} commands/s ({node.inside:.2f} in scripts; {dict(node.by_name.most_common(6))})"
    return f"  {name:<16} {commands}   {node.processor:.2f} % of a processor   PSS {node.pss:.1f} MB in {node.count} processes"


def main() -> int:
    """0, or 1 when ``--check`` failed or genuine Celery could not be installed."""
    options = parse()
    found: dict[str, list[Idleness]] = {name: [] for name in options.entries}
    try:
        print(figures.ground(*dict.fromkeys(version(CONTESTANTS[name].library) for name in options.entries)), flush=True)
        with scratch("idle-") as folder, RedisServer(folder / "redis") as server, notes() as noted:
            for number in range(options.rounds):
                for name in options.entries:
                    # The commands need the whole time once; memory is taken every round.
                    seconds = options.seconds if number == 0 else 1.0
                    idleness = measure(CONTESTANTS[name], server, noted, folder, seconds, 300 if options.short else 2_000)
                    print(told(name, idleness), flush=True)
                    found[name].append(idleness)
    except PeerUnavailable as why:
        print(why, file=sys.stderr)
        return 1
    return figures.finish(summary(found), options)


def summary(found: dict[str, list[Idleness]]) -> list[Line]:
    """Ours, and against Celery."""
    lines = []
    for name, nodes in found.items():
        first, goal = nodes[0], "<= 2" if name == OURS else ""
        lines.append(Line(f"idle node: broker commands/s, {name}", f"{first.commands:.2f}", ratio=first.commands, goal=goal))
        if first.inside:
            lines.append(Line(f"idle node: commands/s inside its scripts, {name}", f"{first.inside:.2f}"))
        lines.append(Line(f"idle node: % of a processor, {name}", f"{first.processor:.2f}"))
    if OURS in found and CELERY in found:
        mine, theirs = ([node.pss for node in found[name]] for name in (OURS, CELERY))
        lines.append(versus("memory, PSS in MB: prefork 2, vs celery-prefork", mine, theirs, goal="<= 1", form=".1f"))
    return lines


if __name__ == "__main__":
    sys.exit(main())

"""What telling and asking an actor costs, beside a bare anyio stream and Pykka, and what idle actors take.

    python benchmarks/actors.py [--check] [--short] [--backend trio] [--json answer.json]

Everybody in turns within one run, medians of the rounds, in processor time.

``--check`` exits with 1 when a goal is missed: tell → handled, through a handler that is bound to states, takes at most 3 times the
bare stream's hand-over, ask 8 times; both are faster than Pykka (left out where it is not installed: ``pip install --group test``);
10,000 live idle actors take at most 100 MiB.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import psutil

from jumpstarter.actors import Actor, Command, degraded, handles, healthy, hosted

#: Processor time of all threads: a busy machine gives two threads twice the time of one, which flatters Pykka.
clock: Callable[[], float] = time.process_time

TELL_LIMIT = 3.0
ASK_LIMIT = 8.0
MEMORY_LIMIT = 100 * 2**20
IDLE = 10_000


class Add(Command[int]):
    """What is told and asked."""

    amount: int


class Counter(Actor):
    """Its one handler is bound to states, as guarded handlers are."""

    sum = 0

    @handles(Add, during=(healthy, degraded))
    async def add(self, message: Add) -> int:
        """As little as there can be."""
        self.sum += message.amount
        return self.sum


Timing = Callable[[int], Awaitable[float]]


async def stream(count: int) -> float:
    """Seconds for one item through a bare memory stream with the room of a mailbox."""
    sender, receiver = anyio.create_memory_object_stream[Add](1000)
    item = Add(1)
    total = 0

    async def receive() -> None:
        nonlocal total
        for _ in range(count):
            total += (await receiver.receive()).amount

    with sender, receiver:
        began = clock()
        async with anyio.create_task_group() as group:
            group.start_soon(receive)
            for _ in range(count):
                await sender.send(item)
        took = clock() - began
    assert total == count
    return took / count


async def tell(count: int) -> float:
    """Seconds from one tell to the next, until all are handled."""
    async with hosted(Counter()) as counter:
        message = Add(1)
        began = clock()
        for _ in range(count - 1):
            await counter.tell(message)
        assert await counter.ask(message) == count
        return (clock() - began) / count


async def ask(count: int) -> float:
    """Seconds for one question and its answer."""
    async with hosted(Counter()) as counter:
        message = Add(1)
        began = clock()
        for _ in range(count):
            await counter.ask(message)
        return (clock() - began) / count


def pykka_class() -> Any:
    """The same actor for Pykka; None where that is not installed."""
    try:
        import pykka  # noqa: PLC0415 - a peer that need not be there
    except ImportError:
        return None

    class Counting(pykka.ThreadingActor):  # type: ignore[misc]
        """As above."""

        sum = 0

        def on_receive(self, message: Add) -> int:
            """As little as there can be."""
            self.sum += message.amount
            return self.sum

    return Counting


def pykka_tell(kind: Any, count: int) -> float:
    """As :func:`tell`."""
    ref, message = kind.start(), Add(1)
    try:
        began = clock()
        for _ in range(count - 1):
            ref.tell(message)
        assert ref.ask(message) == count
        return (clock() - began) / count
    finally:
        ref.stop()


def pykka_ask(kind: Any, count: int) -> float:
    """As :func:`ask`."""
    ref, message = kind.start(), Add(1)
    try:
        began = clock()
        for _ in range(count):
            ref.ask(message)
        return (clock() - began) / count
    finally:
        ref.stop()


async def idle(count: int) -> int:
    """Bytes that so many children take which have started and do nothing."""

    class Root(Actor):
        """Their parent."""

    process = psutil.Process()
    async with hosted(Root()) as root:
        await root.spawn(Counter())
        gc.collect()
        before = process.memory_info().rss
        for _ in range(count):
            await root.spawn(Counter())
        gc.collect()
        return int(process.memory_info().rss - before)


def measured_idle(count: int, backend: str) -> int:
    """In a process of its own, so that nobody's leftovers are reused."""
    code = f"import anyio; from benchmarks.actors import idle; print(anyio.run(idle, {count}, backend={backend!r}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    return int(out.stdout)


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Medians of the rounds, in seconds."""
    count, rounds = (2_000, 3) if options.short else (20_000, 9)
    kind = pykka_class()
    contestants: dict[str, Callable[[], float]] = {
        name: lambda timing=timing: anyio.run(timing, count, backend=options.backend)  # type: ignore[misc]
        for name, timing in {"stream": stream, "tell": tell, "ask": ask}.items()
    }
    if kind is not None:
        contestants["Pykka's tell"] = lambda: pykka_tell(kind, count)
        contestants["Pykka's ask"] = lambda: pykka_ask(kind, count // 4)
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds):
        names = list(contestants)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            gc.collect()
            found[name].append(contestants[name]())
    return {name: statistics.median(times) for name, times in found.items()}


def judged(times: dict[str, float], memory: int, count: int) -> list[tuple[str, str, bool]]:
    """What was measured, the goal, and whether it is met."""
    tell_ratio, ask_ratio = times["tell"] / times["stream"], times["ask"] / times["stream"]
    lines = [
        (f"bare stream: {times['stream'] * 1e6:.1f} µs", "", True),
        (
            f"tell → handled: {times['tell'] * 1e6:.1f} µs, {tell_ratio:.2f} times the stream",
            f"≤ {TELL_LIMIT:g} times",
            tell_ratio <= TELL_LIMIT,
        ),
        (f"ask: {times['ask'] * 1e6:.1f} µs, {ask_ratio:.2f} times the stream", f"≤ {ASK_LIMIT:g} times", ask_ratio <= ASK_LIMIT),
    ]
    for what in ("tell", "ask"):
        pykka = times.get(f"Pykka's {what}")
        if pykka is not None:
            lines.append((f"Pykka's {what}: {pykka * 1e6:.1f} µs", f"slower than {what}", pykka > times[what]))
        else:
            lines.append((f"Pykka's {what}: not compared, it is not installed", "", True))
    limit = MEMORY_LIMIT * count / IDLE
    lines.append((f"{count:,} idle actors: {memory / 2**20:.1f} MiB", f"≤ {limit / 2**20:g} MiB", memory <= limit))
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit code 1 when a goal is missed")
    parser.add_argument("--short", action="store_true", help="few rounds of little work, and a tenth of the actors")
    parser.add_argument("--wall", action="store_true", help="time on the wall in place of processor time")
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    parser.add_argument("--json", type=Path, help="where the figures go as well")
    options = parser.parse_args(arguments)
    global clock  # noqa: PLW0603 - one run, one clock
    clock = time.perf_counter if options.wall else time.process_time
    count = IDLE // 10 if options.short else IDLE
    times, memory = measure(options), measured_idle(count, options.backend)
    lines = judged(times, memory, count)
    for text, goal, is_met in lines:
        print(f"{text}{f'   (goal: {goal})' if goal else ''}{'' if is_met else '   MISSED'}")
    if options.json:
        options.json.write_text(json.dumps({**times, "idle": memory}))
    return int(options.check and not all(is_met for *_, is_met in lines))


if __name__ == "__main__":
    sys.exit(main())

"""What a step of a chart costs, beside `transitions` running the same definition.

    python benchmarks/states.py [--check] [--rounds 9]

Interleaved rounds, medians and ratios. ``--check`` exits with 1 when a limit is missed: a memoised step (guards and hooks
included) 2 µs, a cold one 200 µs, an instance 4 KB. The worker's own chart is measured too where it is there.
"""

from __future__ import annotations

import argparse
import gc
import logging
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from transitions.extensions import HierarchicalMachine

from jumpstarter.states import Chart, Instance
from jumpstarter.states.paths import outcomes

MEMOISED_LIMIT = 2e-6
COLD_LIMIT = 200e-6
SIZE_LIMIT = 4 * 1024
STEPS = 2_000

#: One turn of the worker's loop: each event is one step, with a guard on `found` and hooks on both states of the slot.
TURN = ("poll", "found", "slot_0_begin", "slot_1_begin", "slot_0_end", "slot_1_end", "rest")


class Model:
    """What the definition names. Used by both machines."""

    def __init__(self) -> None:
        self.begun = 0
        self.ended = 0

    def has_room(self) -> bool:
        """A guard."""
        return True

    def count_begin(self) -> None:
        """A hook."""
        self.begun += 1

    def count_end(self) -> None:
        """A hook."""
        self.ended += 1


def lookalike(slots: int) -> dict[str, Any]:
    """A worker's chart in the form that both understand."""
    return {
        "name": "worker",
        "initial": "initializing",
        "states": ["initializing", "starting", {"name": "started", "parallel": _regions(slots)}, "stopping", "stopped", "crashed"],
        "transitions": [
            {"trigger": "start", "source": ["initializing", "stopped", "crashed"], "dest": "starting"},
            {"trigger": "ready", "source": "starting", "dest": "started"},
            {"trigger": "stop", "source": ["starting", "started"], "dest": "stopping"},
            {"trigger": "stopped", "source": "stopping", "dest": "stopped"},
            {"trigger": "fail", "source": ["starting", "started", "stopping"], "dest": "crashed"},
        ],
    }


def _regions(slots: int) -> list[dict[str, Any]]:
    regions = [
        _region(
            "health", ["healthy", "degraded", "unhealthy"], [("warn", "healthy", "degraded"), ("recover", "degraded", "healthy")]
        ),
        _region("flow", ["running", "paused"], [("pause", "running", "paused"), ("resume", "paused", "running")]),
        _region("polling", ["idle", "polling", "suspended"], [("poll", "idle", "polling"), ("rest", "polling", "idle")]),
    ]
    regions[0]["transitions"].append({"trigger": "warn", "source": "degraded", "dest": "unhealthy"})
    regions[2]["transitions"] += [
        {"trigger": "found", "source": "polling", "dest": None, "conditions": "has_room"},
        {"trigger": "suspend", "source": ["idle", "polling"], "dest": "suspended"},
        {"trigger": "unsuspend", "source": "suspended", "dest": "idle"},
    ]
    for slot in range(slots):
        processing = {"name": "processing", "on_enter": "count_begin", "on_exit": "count_end"}
        region = _region(f"slot{slot}", ["idle", processing], [])
        region["transitions"] = [
            {"trigger": f"slot_{slot}_begin", "source": "idle", "dest": "processing", "conditions": "has_room"},
            {"trigger": f"slot_{slot}_end", "source": "processing", "dest": "idle"},
        ]
        regions.append(region)
    return regions


def _region(name: str, states: list[Any], transitions: list[tuple[str, str, str]]) -> dict[str, Any]:
    first = states[0] if isinstance(states[0], str) else states[0]["name"]
    edges = [{"trigger": trigger, "source": source, "dest": dest} for trigger, source, dest in transitions]
    return {"name": name, "initial": first, "children": states, "transitions": edges}


@dataclass
class Series:
    """Seconds per step, one for each round."""

    name: str
    run: Callable[[], float]
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.seconds)


def started(chart: Chart) -> Instance:
    """An instance of the look-alike that works."""
    instance = chart.instance(Model())
    instance.start()
    instance.send("start")
    instance.send("ready")
    return instance


def memoised(chart: Chart) -> Callable[[], float]:
    """Steps that were taken before."""
    instance = started(chart)

    def run() -> float:
        send, begin = instance.send, time.perf_counter()
        for _ in range(STEPS):
            for event in TURN:
                send(event)
        return (time.perf_counter() - begin) / (STEPS * len(TURN))

    return run


def cold(chart: Chart) -> Callable[[], float]:
    """Steps that were never taken: all memory is dropped before each."""
    instance = started(chart)

    def run() -> float:
        spent = 0.0
        for _ in range(20):
            for event in TURN:
                chart.memo.forget()
                begin = time.perf_counter()
                instance.send(event)
                spent += time.perf_counter() - begin
        return spent / (20 * len(TURN))

    return run


def peer() -> Callable[[], float]:
    """The same turns on a machine of `transitions`."""
    definition = lookalike(2)
    model = Model()
    machine = HierarchicalMachine(
        model, states=definition["states"], transitions=definition["transitions"], initial="initializing", auto_transitions=False
    )
    machine.get_triggers()
    for event in ("start", "ready"):
        model.trigger(event)  # type: ignore[attr-defined]  # the machine adds it

    def run() -> float:
        trigger, begin = model.trigger, time.perf_counter()  # type: ignore[attr-defined]  # the machine adds it
        for _ in range(60):
            for event in TURN:
                trigger(event)
        return (time.perf_counter() - begin) / (60 * len(TURN))

    return run


def worker() -> tuple[Callable[[], float], Callable[[], float]] | None:
    """Memoised and cold steps of the worker's own chart: to a place in `started` and back by the first events that do so."""
    try:
        from jumpstarter.worker.chart import worker_chart  # noqa: PLC0415 - it may not be there
    except ImportError:
        return None
    chart: Chart = worker_chart(slots=2)
    here, there, back = _round_trip(chart)
    instance = chart.instance(_Anything())
    instance.restore(here)

    def run_memoised() -> float:
        send, begin = instance.send, time.perf_counter()
        for _ in range(STEPS):
            send(there)
            send(back)
        return (time.perf_counter() - begin) / (STEPS * 2)

    def run_cold() -> float:
        spent = 0.0
        for _ in range(50):
            for event in (there, back):
                chart.memo.forget()
                begin = time.perf_counter()
                instance.send(event)
                spent += time.perf_counter() - begin
        return spent / 100

    return run_memoised, run_cold


class _Anything:
    """A model that has every callback, and agrees with every guard."""

    def __getattr__(self, name: str) -> Callable[..., bool]:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda **_: True


def _round_trip(chart: Chart) -> tuple[Any, str, str]:
    """A configuration in `started`, an event that leaves it for another one there, and one that comes back."""
    from jumpstarter.states import shortest_paths  # noqa: PLC0415 - only the worker's chart needs it

    def steps(snapshot: Any) -> list[tuple[str, Any]]:
        events = sorted(event for event in chart.events if event.startswith("slot_0"))
        return [(event, after) for event in events for guards, after, _ in outcomes(chart, snapshot, event) if all(guards.values())]

    for way in shortest_paths(chart, limit=100_000).values():
        snapshot = None
        for stimulus in way:
            snapshot, _ = chart.step(snapshot, stimulus.event or None, stimulus.guards)
        for there, after in steps(snapshot):
            for back, again in steps(after):
                if after["active"] != snapshot["active"] and again["active"] == snapshot["active"]:  # type: ignore[index]  # a way has steps
                    return snapshot, there, back
    raise SystemExit("the worker's chart has no slot_0 event that is undone by another")


def size_of_an_instance(chart: Chart, count: int = 2_000) -> float:
    """Bytes per instance that was used, its model not counted."""
    model = Model()
    warm = started(chart)
    for event in TURN:
        warm.send(event)
    gc.collect()
    tracemalloc.start()
    instances = []
    for _ in range(count):
        instance = chart.instance(model)
        instance.start()
        for event in ("start", "ready", *TURN):
            instance.send(event)
        instances.append(instance)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size / len(instances)


def main() -> int:
    """Run, print, and answer whether a limit was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit with 1 when a limit is missed")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    logging.getLogger("transitions").setLevel(logging.ERROR)
    chart = Chart.compile(lookalike(2), model_class=Model)
    many = Chart.compile(lookalike(100), model_class=Model)
    series = [
        Series("memoised step", memoised(chart)),
        Series("cold step", cold(chart)),
        Series("cold step, 100 slots", cold(many)),
        Series("transitions", peer()),
    ]
    own = worker()
    if own is not None:
        series += [Series("memoised step, worker's chart", own[0]), Series("cold step, worker's chart", own[1])]
    for _ in range(options.rounds):
        for one in series:
            one.seconds.append(one.run())
    size = size_of_an_instance(chart)
    return report(series, size, check=options.check)


def report(series: list[Series], size: float, *, check: bool) -> int:
    """Print a table; 1 when a limit counts and is missed."""
    (theirs,) = [one.median for one in series if one.name == "transitions"]
    missed = []
    print(f"{'':32} {'median':>10} {'least':>10}  ratio to transitions")
    for one in series:
        limit = MEMOISED_LIMIT if one.name.startswith("memoised") else COLD_LIMIT if one.name.startswith("cold") else None
        late = limit is not None and one.median > limit
        missed += [one.name] if late else []
        note = "" if limit is None else f"  limit {limit * 1e6:g} µs{' MISSED' if late else ''}"
        print(f"{one.name:32} {one.median * 1e6:8.2f} µs {min(one.seconds) * 1e6:7.2f} µs  {theirs / one.median:7.1f}x{note}")
    late = size > SIZE_LIMIT
    missed += ["size"] if late else []
    print(f"{'an instance':32} {size:8.0f} B   limit {SIZE_LIMIT} B{' MISSED' if late else ''}")
    return 1 if check and missed else 0


if __name__ == "__main__":
    sys.exit(main())

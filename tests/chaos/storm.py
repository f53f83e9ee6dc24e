"""Random kills: publishers publish, nodes work, and an injector kills children and whole nodes until enough of them are dead.

The injector looks into the ledger for processes that run a job, so that most kills hit one. Whom it kills and when is told by a
seed; what runs at that moment is up to the machine, so a seed repeats a run roughly, not exactly.
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.checker import Verdict
from tests.chaos.fleet import Fleet, Node
from tests.chaos.grounds import grounds
from tests.peers import DeadlineMissed, Side, eventually

#: Seconds within which everything must be accounted for once the killing has ended.
_DRAIN = 120.0
#: Seconds that the injector waits for a child that runs a job, when it wants one.
_BUSY_WITHIN = 2.0
#: Starts of a job from which on the injector looks for another one.
_SPARED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """How hard a storm is.

    :ivar kills: slots (children) to be killed; a node counts as many as it has.
    :ivar pause: seconds between two kills, from and to. A node of ours gives up after 100 dead children in a minute.
    :ivar longest: seconds of the longest job; the shortest takes none.
    :ivar chords: chords among a hundred publishes.
    :ivar node_share: whole nodes among a hundred kills.
    :ivar busy_share: kills among a hundred that look for a running job.
    :ivar settle: see :class:`tests.chaos.checker.Rules`.
    """

    kills: int = 300
    pause: tuple[float, float] = (0.3, 0.55)
    nodes: int = 2
    slots: int = 2
    publishers: int = 4
    outstanding: int = 6
    longest: float = 2.0
    chords: int = 0
    node_share: int = 8
    busy_share: int = 70
    lease: float = 2.0
    settle: float = 1.0
    drain: float = _DRAIN
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Aftermath:
    """What a storm came to.

    :ivar drained: all was accounted for, and came to rest, in time.
    :ivar gave_up: nodes that ended by themselves.
    :ivar killing: seconds that the killing took; ``draining``: that it took afterwards until all was accounted for.
    """

    verdict: Verdict
    drained: bool
    gave_up: int
    killing: float
    draining: float

    @property
    def passed(self) -> bool:
        return self.verdict.passed and self.drained and not self.gave_up and self.verdict.repeats <= self.verdict.slots_killed

    def report(self) -> str:
        """For people."""
        drained = f"{self.draining:.0f} s" if self.drained else f"NOT within {self.draining:.0f} s"
        lines = [
            f"  killing took {self.killing:.0f} s; at rest, all accounted for, after {drained}; nodes that gave up: {self.gave_up}",
            self.verdict.table(),
            f"  {'passed' if self.passed else 'FAILED'}",
        ]
        return "\n".join(lines)


class Injector:
    """Kills until enough are dead."""

    def __init__(self, fleet: Fleet, weather: Weather) -> None:
        self._fleet = fleet
        self._weather = weather
        self._dice = random.Random(weather.seed)
        self.slots_killed = 0
        self.gave_up = 0

    def run(self) -> None:
        while self.slots_killed < self._weather.kills:
            time.sleep(self._dice.uniform(*self._weather.pause))
            self.replace_those_that_gave_up()
            self._strike()

    def replace_those_that_gave_up(self) -> None:
        """Start what ended by itself anew, and count it."""
        for node in list(self._fleet.nodes):
            if node.is_over:
                self.gave_up += 1
                self._fleet.nodes.remove(node)
                self._restart(node)

    def _strike(self) -> None:
        nodes = [node for node in self._fleet.nodes if node.is_ready]
        if not nodes:
            return
        if self._dice.random() * 100 < self._weather.node_share:
            self._strike_node(self._dice.choice(nodes))
        else:
            self._strike_child(nodes)

    def _strike_node(self, node: Node) -> None:
        self._fleet.kill_node(node, all_at_once=self._dice.random() < 0.5)
        self.slots_killed += node.slots
        self._restart(node)

    def _strike_child(self, nodes: list[Node]) -> None:
        wants_busy = self._dice.random() * 100 < self._weather.busy_share
        targets = (self._await_busy(nodes) if wants_busy else []) or self._targets(nodes)[0]
        if targets:
            self._fleet.kill_child(*self._dice.choice(targets))
            self.slots_killed += 1

    def _await_busy(self, nodes: list[Node]) -> list[tuple[Node, int]]:
        # A machine that has much else to do starts children slowly: without this, most kills would hit children that start.
        with suppress(DeadlineMissed):
            return eventually(lambda: self._targets(nodes)[1], within=_BUSY_WITHIN, what="a child runs a job")
        return []

    def _targets(self, nodes: list[Node]) -> tuple[list[tuple[Node, int]], list[tuple[Node, int]]]:
        """The children, and those that run a job. A job that was killed before is spared: after the third time it would rest in
        quarantine, and prove nothing more."""
        running = self._fleet.running()
        starts = Counter(entry["id"] for entry in self._fleet.ledger.entries(event="start"))
        spared = {pid for pid, start in running.items() if starts[start["id"]] >= _SPARED}
        every = [(node, pid) for node in nodes for pid in node.children()]
        children = [(node, pid) for node, pid in every if pid not in spared] or every
        return children, [(node, pid) for node, pid in children if pid in running and pid not in spared]

    def _restart(self, node: Node) -> None:
        self._fleet.node(node.name.partition(".")[0], slots=node.slots)


def storm(
    side: Side, name: str, folder: Path, weather: Weather, *, say: Callable[[str], None] = lambda _: None, **fleet_options: object
) -> Aftermath:
    """Run one on the grounds of that name.

    :param fleet_options: ``transport`` and ``env`` of the :class:`Fleet`.
    """
    with grounds(name, folder) as place, Fleet(side, place, folder, lease=weather.lease, **fleet_options) as fleet:
        fleet.wait_ready([fleet.node(f"node{number}", slots=weather.slots) for number in range(weather.nodes)])
        publishers = [fleet.publisher(_plan(weather, number)) for number in range(weather.publishers)]
        injector = Injector(fleet, weather)
        fleet.ledger.wait(weather.nodes * weather.slots, within=30, event="start")
        began = time.monotonic()
        injector.run()
        killed = time.monotonic()
        say(f"  {injector.slots_killed} slots killed in {killed - began:.0f} s; waiting for what is left")
        for publisher in publishers:
            publisher.send(signal.SIGTERM)
        for publisher in publishers:
            publisher.wait(within=40)
        drained = fleet.settle_down(within=weather.drain, every=injector.replace_those_that_gave_up)
        return Aftermath(
            verdict=fleet.verdict(settle=weather.settle),
            drained=drained,
            gave_up=injector.gave_up,
            killing=killed - began,
            draining=time.monotonic() - killed,
        )


def _plan(weather: Weather, number: int) -> dict[str, object]:
    return {
        "kind": "storm",
        "seed": weather.seed * 1000 + number,
        "outstanding": weather.outstanding,
        "longest": weather.longest,
        "chords": weather.chords,
    }

"""One crash at a named point: something is published, a process dies where it was told to, and all must be well in the end."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.checker import Verdict
from tests.chaos.fleet import Fleet, Node
from tests.chaos.grounds import grounds
from tests.chaos.points import POINTS, Point
from tests.peers import DeadlineMissed, Side, eventually

Work = Sequence[Sequence[Any]]

#: Seconds; the shortest that there is, so that a crash of a node is over soon.
_LEASE = 1.0
#: Seconds in which the point must be reached, and in which all must be accounted for afterwards.
_REACHED, _DRAINED = 30.0, 45.0
#: What is published: (kind, what). A chord with its body, a chain, plain jobs and one with a countdown.
_WORK: Work = (
    # The first one takes a publisher long. The next is to be claimed before it is due.
    ("job", 0.0),
    ("job", 0.2, {"countdown": 1.5}),
    ("chord", [0.3, 0.2, 0.3]),
    ("chain", [0.1, 0.1]),
    ("job", 0.3),
    ("job", 0.3),
)


@dataclass(frozen=True, slots=True)
class Crash:
    """What came of it.

    :ivar reached: the hook at which the process killed itself, or empty: then nothing was tried.
    :ivar bodies: starts of the chord's body; more than one only where the checker knows why.
    """

    point: str
    grounds: str
    reached: str
    drained: bool
    bodies: int
    chords: int
    verdict: Verdict

    @property
    def passed(self) -> bool:
        return bool(self.reached) and self.drained and self.verdict.passed and self.bodies >= self.chords

    def line(self) -> str:
        """For people, in one line."""
        verdict = self.verdict
        facts = (
            f"starts {verdict.starts} of {verdict.ok}, repeats {verdict.repeats}, lost {len(verdict.lost)}, "
            f"unexcused {len(verdict.unexcused)}, bodies {self.bodies} of {self.chords}"
        )
        where = self.reached or "NEVER REACHED"
        rest = "" if self.drained else "; not all accounted for in time"
        return f"{self.point:<38}{self.grounds:<14}{where:<24}{facts}{rest}: {'ok' if self.passed else 'FAILED'}"

    def details(self) -> str:
        """What went wrong, for people."""
        return f"{self.line()}\n{self.verdict.table()}"


def crash(
    side: Side,
    name: str,
    place: str,
    folder: Path,
    *,
    work: Work = _WORK,
    env: Mapping[str, str] | None = None,
    drain: float = _DRAINED,
) -> Crash:
    """Have a process die at a point.

    :param name: of the point. :param place: the grounds.
    :param work: what is published: (kind, what), see app/producer.py.
    :param env: more environment for all processes.
    :param drain: seconds in which all must be accounted for afterwards.
    """
    point = POINTS[name]
    with grounds(place, folder) as servers, Fleet(side, servers, folder, lease=_LEASE, env=env or {}) as fleet:
        _SCENES[point.scene](fleet, point, work)
        drained = fleet.settle_down(within=drain)
        kills = fleet.ledger.entries(event="kill", what=name)
        gathered = {entry["id"] for entry in fleet.ledger.entries(event="start", task="chaos_app.gather")}
        return Crash(
            point=name,
            grounds=place,
            reached=kills[0]["hook"] if kills else "",
            drained=drained,
            bodies=len(fleet.ledger.entries(event="start", task="chaos_app.gather")),
            chords=max(1, len(gathered)) if point.scene in _WITH_CHORD else len(gathered),
            verdict=fleet.verdict(),
        )


def armed(fleet: Fleet, point: Point) -> dict[str, str]:
    """The environment that arms the point."""
    return {
        "CHAOS_POINT": point.name,
        "CHAOS_GROUNDS": fleet.grounds.name,
        "CHAOS_PASSES": str(fleet.folder / "passes"),
        "CHAOS_SLOTS": "2",
    }


def _wait_reached(fleet: Fleet, point: Point) -> bool:
    try:
        eventually(lambda: fleet.ledger.entries(event="kill", what=point.name), within=_REACHED, what=f"{point.name} is reached")
    except DeadlineMissed:
        return False
    return True


def _in_a_child(fleet: Fleet, point: Point, work: Work) -> None:
    """A node that goes on: it replaces the child that dies."""
    node = fleet.ready_node("one", **armed(fleet, point))
    fleet.publish(*work)
    _wait_reached(fleet, point)
    _take_over(fleet, node)


def _in_the_parent(fleet: Fleet, point: Point, work: Work) -> None:
    """A node's parent dies while its children run jobs; another node takes over."""
    gate = fleet.folder / "from_now_on"
    node = fleet.ready_node("one", **armed(fleet, point), CHAOS_FROM=str(gate))
    fleet.publish(*work, ("job", 1.0), ("job", 1.0))
    fleet.ledger.wait(1, within=20, event="start")
    gate.touch()
    _wait_reached(fleet, point)
    _take_over(fleet, node)


def _in_the_burial(fleet: Fleet, point: Point, work: Work) -> None:
    """A child dies while it runs a job; its parent dies while it returns that."""
    node = fleet.ready_node("one", **armed(fleet, point))
    fleet.publish(*work, ("die", str(fleet.folder / "died")))
    _wait_reached(fleet, point)
    _take_over(fleet, node)


def _in_the_reaper(fleet: Fleet, point: Point, _work: Work) -> None:
    """A node dies with running jobs; the one that returns them dies over it."""
    gate = fleet.folder / "gate"
    first = fleet.ready_node("zero")
    fleet.publish(*(("held", str(gate)) for _ in range(2)))
    fleet.ledger.wait(2, within=20, event="start")
    fleet.kill_node(first)
    gate.touch()
    node = fleet.node("one", **armed(fleet, point))
    _wait_reached(fleet, point)
    _take_over(fleet, node)


def _in_the_shutdown(fleet: Fleet, point: Point, work: Work) -> None:
    """A node is told to stop while it holds more than it runs: many short jobs behind two long ones."""
    node = fleet.ready_node("one", **armed(fleet, point))
    fleet.publish(*([("job", 0)] * 30), ("job", 0.4), ("job", 0.4), *([("job", 0)] * 10), *work)
    fleet.ledger.wait(33, within=20, event="start")
    node.program.send(signal.SIGTERM)
    _wait_reached(fleet, point)
    fleet.ready_node("two")
    _wait_over(node)


def _in_a_publisher(fleet: Fleet, point: Point, work: Work) -> None:
    """A publisher dies; what it was told to be safe must be, the rest may be."""
    publisher = fleet.publisher({"kind": "once", "list": [list(item) for item in (*work, ("job", 0.1))]}, **armed(fleet, point))
    publisher.wait(within=40)
    fleet.ready_node("one")


def _take_over(fleet: Fleet, node: Node) -> None:
    """Another node, if the crash was that of the node itself."""
    if any(entry.get("node") == node.name for entry in fleet.ledger.entries(event="kill")):
        _wait_over(node)
        fleet.ready_node("two")


def _wait_over(node: Node) -> None:
    node.program.wait(within=40)


_WITH_CHORD = {"child", "parent", "requeue", "shutdown"}
_SCENES: Mapping[str, Callable[[Fleet, Point, Work], None]] = {
    "child": _in_a_child,
    "parent": _in_the_parent,
    "requeue": _in_the_burial,
    "reaper": _in_the_reaper,
    "shutdown": _in_the_shutdown,
    "publisher": _in_a_publisher,
}


def mapping(place: str) -> str:
    """Which points are where on these grounds, for people."""
    lines = [f"  {point.name:<38}{' or '.join(point.hooks_on(place)):<44}{point.remark}" for point in POINTS.values()]
    return "\n".join(lines)

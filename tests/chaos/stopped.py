"""A worker that sleeps through its lease: whole nodes are stopped (SIGSTOP) while their work is taken over, and then go on.

Each round publishes two jobs that wait for a gate: one is the first of a chain, one is a member of a chord's header and has a
callback. Every node that runs one of them is stopped for three times its lease; a third node is always free to take over. What the
late ones then still want (ack, result, chord count, callback, next step of the chain) must be refused. Three kinds of rounds take
turns:

- *over*: the takeover has finished before the late one goes on;
- *beside*: both are let go at the same moment;
- *ack*: the late one finishes first, then the takeover is killed: if the late ack had any effect, the job is lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compat_celery import Celery, chain, chord
from tests.chaos.app.note import boot_time
from tests.chaos.checker import Verdict
from tests.chaos.fleet import Fleet, Node
from tests.chaos.grounds import grounds
from tests.peers import DeadlineMissed, Side, eventually

_LEASE = 2.0
#: Seconds in which anything that has to happen in a round must happen.
_WITHIN = 20.0
#: Seconds that a late settlement gets to be carried out, if anything carries it out.
_LATE = 0.3
KINDS = ("over", "beside", "ack")
#: What becomes of a round in which nobody could take over.
BLOCKED = "blocked"


@dataclass(frozen=True, slots=True)
class Stopped:
    """What came of the rounds.

    :ivar leaks: what a late worker still achieved, in words.
    :ivar late: runs that finished after their node had been stopped for three leases, and wanted to be settled.
    :ivar blocked: rounds (of SQLite) in which the stopped process held the file itself, so that nobody could take over.
    """

    grounds: str
    rounds: int
    late: int
    blocked: int
    leaks: list[str]
    drained: bool
    verdict: Verdict

    @property
    def passed(self) -> bool:
        return not self.leaks and self.drained and self.verdict.passed and self.late == 2 * (self.rounds - self.blocked)

    def report(self) -> str:
        """For people."""
        lines = [f"  {self.grounds}: {self.rounds} rounds, {self.late} late runs, {self.blocked} blocked, {len(self.leaks)} leaks"]
        lines += [f"    {leak}" for leak in self.leaks[:20]]
        lines += [] if self.passed else [self.verdict.table()]
        return "\n".join([*lines, f"  {'passed' if self.passed else 'FAILED'}"])


@dataclass(slots=True)
class _Round:
    """The ids of a round's jobs, its gate, and the starts of those that sleep through their leases."""

    number: int
    kind: str
    gate: Path
    first: str = ""
    next: str = ""
    member: str = ""
    callback: str = ""
    body: str = ""
    late: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def held(self) -> tuple[str, str]:
        return self.first, self.member

    @property
    def followers(self) -> dict[str, str]:
        """What follows from those, in words."""
        return {self.next: "next step of the chain", self.callback: "callback", self.body: "chord's body"}


class _Rounds:
    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._app = Celery("chaos", broker=fleet.grounds.broker, backend=fleet.grounds.results)
        self._rounds: list[_Round] = []
        self._rest: set[str] = set()
        self.late = 0
        self.blocked = 0
        self.leaks: list[str] = []

    def run(self, number: int) -> None:
        one = self._publish(number)
        self._rounds.append(one)
        one.late = {name: self._attempts(name, 1)[0] for name in one.held}
        self._stop(one, [node for node in self._fleet.nodes if any(run["node"] == node.name for run in one.late.values())])
        self._finish(one)

    def look(self, unexcused: Sequence[str]) -> None:
        """Once all is at rest: find what leaked. ``unexcused`` is the checker's."""
        self._rest = {entry["id"] for entry in self._fleet.ledger.entries(event="quarantined")}
        for one in self._rounds:
            self._look(one, unexcused)

    def _publish(self, number: int) -> _Round:
        one = _Round(number, KINDS[number % len(KINDS)], self._fleet.folder / f"gate{number}")
        one.first, one.next, one.member, one.callback, one.body, quick = ids = [f"{number}-{word}" for word in _WORDS]
        for name in ids:
            self._fleet.note("invoke", id=name)
        signature = self._app.signature
        held = {"args": (str(one.gate),)}
        chain(
            signature("chaos_app.held", **held, task_id=one.first),
            signature("chaos_app.tell", args=("next",), immutable=True, task_id=one.next),
        ).apply_async()
        member = signature("chaos_app.held", **held, task_id=one.member)
        member.link(signature("chaos_app.tell", args=("callback",), immutable=True, task_id=one.callback))
        header = [member, signature("chaos_app.part", args=("quick", 0.05), task_id=quick)]
        chord(header, app=self._app)(signature("chaos_app.tell", task_id=one.body))
        # What follows from these is looked for at the end: when one of them rests in quarantine, nothing does.
        for name in (*one.held, quick):
            self._fleet.note("ok", id=name)
        return one

    def _stop(self, one: _Round, nodes: list[Node]) -> None:
        """Stop the nodes for three leases; meanwhile their jobs are taken over."""
        began, children = boot_time(), {node: node.freeze() for node in nodes}
        frozen_at = time.monotonic()
        if not self._is_taken_over(one):
            one.kind = BLOCKED
            self.blocked += 1
        if one.kind == "over":
            one.gate.touch()
            for name in one.held:
                self._finished(name, 1)
        time.sleep(max(0.0, frozen_at + 3 * _LEASE - time.monotonic()))
        # Noted before they go on: what they do from then on must find the stop in the ledger.
        for node in nodes:
            self._fleet.note("stop", what="stop", pids=children[node], node=node.name, began=began)
            node.thaw()

    def _is_taken_over(self, one: _Round) -> bool:
        # A process that is stopped in the midst of a transaction keeps its SQLite file to itself for as long. Nobody can help that.
        patience = 3 * _LEASE if self._fleet.grounds.kind == "sqlite" else _WITHIN
        try:
            eventually(lambda: all(len(self._starts(name)) > 1 for name in one.held), within=patience, what="both are taken over")
        except DeadlineMissed:
            if self._fleet.grounds.kind != "sqlite":
                raise
            return False
        return True

    def _finish(self, one: _Round) -> None:
        if one.kind == "ack":
            for name in one.held:
                one.gate.with_name(f"{one.gate.name}.{one.late[name]['pid']}").touch()
                self._finished(name, 1)
            time.sleep(_LATE)
            for name in one.held:
                self._kill(self._attempts(name, 2)[1])
            for name in one.held:
                if not self._starts_again(name):
                    self._leaked(one, f"the late ack of {name} was taken: it is lost")
        one.gate.touch()
        if one.kind == BLOCKED:
            return
        for name in one.held:
            with suppress(DeadlineMissed):  # it is lost, and said so
                self._finished(name, 2)
            self.late += 1
        # So that the next round does not stop what this one still has to do.
        for name in one.followers:
            with suppress(DeadlineMissed):
                self._finished(name, 1)
        time.sleep(_LATE)

    def _starts_again(self, name: str) -> bool:
        with suppress(DeadlineMissed):
            return bool(self._attempts(name, 3))
        return False

    def _leaked(self, one: _Round, what: str) -> None:
        self.leaks.append(f"round {one.number} ({one.kind}): {what}")

    def _kill(self, start: Mapping[str, Any]) -> None:
        node = next(node for node in self._fleet.nodes if node.name == start["node"])
        self._fleet.kill_child(node, start["pid"])

    def _look(self, one: _Round, unexcused: Sequence[str]) -> None:
        """Whose values are there? Not those of the late ones; and what follows must have come once."""
        if one.kind == BLOCKED or any(name in self._rest for name in one.held):
            return  # a busy machine cost it its lease once too often; the verdict says whether that was justified
        for name, what in one.followers.items():
            if not self._starts(name):
                self._leaked(one, f"the {what} never ran")
            if any(fact.startswith(f"{name}:") for fact in unexcused):
                self._leaked(one, f"the {what} ran {len(self._starts(name))} times")
        for name in one.held:
            stored = self._app.AsyncResult(name).get(timeout=_WITHIN, propagate=False)
            if stored == one.late[name]["run"]:
                self._leaked(one, f"the result of {name} is the late run's, {stored}")
        for body in self._starts(one.body):
            if body["got"] == [one.late[one.member]["run"], "quick"]:
                self._leaked(one, f"the chord counted the late run: its body got {body['got']}")

    def _starts(self, name: str) -> list[dict[str, Any]]:
        return self._fleet.ledger.entries(event="start", id=name)

    def _attempts(self, name: str, count: int) -> list[dict[str, Any]]:
        return self._fleet.ledger.wait(count, within=_WITHIN, event="start", id=name)

    def _finished(self, name: str, count: int) -> None:
        eventually(
            lambda: len(self._fleet.ledger.entries(event="finish", id=name)) >= count,
            within=_WITHIN,
            what=f"{name} finishes {count} times",
        )


_WORDS = ("first", "next", "member", "callback", "body", "quick")


def stopped(
    side: Side,
    place: str,
    folder: Path,
    *,
    rounds: int,
    env: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Stopped:
    """So many rounds on these grounds."""
    with grounds(place, folder) as servers, Fleet(side, servers, folder, lease=_LEASE, env=env or {}) as fleet:
        fleet.wait_ready([fleet.node(f"node{number}") for number in range(3)])
        trial = _Rounds(fleet)
        for number in range(rounds):
            trial.run(number)
            if number % 10 == 9:
                say(f"  {place}: {number + 1} rounds")
        drained = fleet.settle_down(within=30)
        verdict = fleet.verdict()
        trial.look(verdict.unexcused)
        return Stopped(place, rounds, trial.late, trial.blocked, trial.leaks, drained, verdict)

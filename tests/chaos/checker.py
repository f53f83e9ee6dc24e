"""What a ledger proves: lost, unexpected, repeated with cause and without. Pure. Comes from: the runs. Goes to: their reports.

The accounts, after the total-queue checker of Jepsen:

- **lost**: published with success, and neither finished nor in quarantine;
- **unexpected**: run, but never published by anybody;
- **repeat**: a start of a job that had started before. It is excused only by what happened to the process of the start before it:
  killed while it ran that job, or at most ``settle`` seconds after it had finished it (an outcome may still be on its way to the
  broker); stopped, or cut off from its broker, for so long that its lease ran out. Or the repeat itself is the sleeper's, which
  begins on waking up what was taken over meanwhile. One earlier start excuses one repeat. Where a
  broker cannot send follow-up messages and ack in one step (``atomic=False``), a repeated job also excuses the repeats of the
  jobs that it publishes.
- **wrong**: a chord's body that did not get each member's result exactly once;
- **unjustified**: in quarantine although no process was hurt while it held the job. (How often a message was delivered the ledger
  cannot tell: a process may die between its claim and the first line of the task. It shows how many had fewer than three starts.)
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Entry = Mapping[str, Any]

#: Seconds that a killed process may still run: between the injector's look at the clock and the signal's effect.
_SLACK = 0.05
#: Deliveries after which a message that was never settled goes to quarantine.
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Rules:
    """What counts as a cause.

    :ivar lease: seconds after which a silent worker's claims are given away. A lease is renewed three times within its length, so
        it may have a third of it behind it already when a process stops.
    :ivar settle: seconds within which a finished job must be settled.
    :ivar atomic: the broker sends follow-up messages and acks in one step.
    """

    lease: float
    settle: float = 1.0
    atomic: bool = True


@dataclass(frozen=True, slots=True)
class Attempt:
    """One start of a job, and its finish if it has one."""

    id: str
    run: str
    pid: int
    node: str
    started: float
    finished: float | None
    parent: str | None

    def was_held_at(self, moment: float, settle: float) -> bool:
        """In flight then, or finished so shortly before that its outcome may not have been settled."""
        return self.started <= moment + _SLACK and (self.finished is None or self.finished >= moment - settle)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a run came to; see the module's text for the words.

    :ivar slots_killed: places where a job could run that were killed; ``busy`` of them ran one.
    :ivar causes: how often each kind of fault excused a repeat.
    """

    invoked: int
    ok: int
    unknown: int
    finished: int
    starts: int
    lost: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    repeats: int = 0
    unexcused: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    quarantined: int = 0
    quarantined_early: int = 0
    unjustified: list[str] = field(default_factory=list)
    faults: int = 0
    slots_killed: int = 0
    busy: int = 0
    causes: dict[str, int] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Nothing that may not happen has happened."""
        return not (self.lost or self.unexpected or self.unexcused or self.wrong or self.unjustified)

    def table(self) -> str:
        """The accounts for people."""
        causes = ", ".join(f"{kind} {count}" for kind, count in sorted(self.causes.items())) or "none"
        busy = f" ({100 * self.busy // self.slots_killed} %)" if self.slots_killed else ""
        rows: list[tuple[str, object]] = [
            ("published ok", self.ok),
            ("published, answer unknown", self.unknown),
            ("finished", self.finished),
            ("in quarantine", self.quarantined),
            ("  of them after fewer than 3 starts", self.quarantined_early),
            ("starts", self.starts),
            ("faults", self.faults),
            ("slots killed", self.slots_killed),
            ("  of them while they ran a job", f"{self.busy}{busy}"),
            ("repeats", self.repeats),
            ("  excused by", causes),
            ("LOST", len(self.lost)),
            ("UNEXPECTED", len(self.unexpected)),
            ("UNEXCUSED REPEATS", len(self.unexcused)),
            ("WRONG CHORD BODIES", len(self.wrong)),
            ("UNJUSTIFIED QUARANTINE", len(self.unjustified)),
        ]
        lines = [f"  {name:<38}{value}" for name, value in rows]
        for name in ("lost", "unexpected", "unexcused", "wrong", "unjustified"):
            lines += [f"  {name}: {fact}" for fact in getattr(self, name)[:10]]
        return "\n".join(lines)


def check(entries: Iterable[Entry], rules: Rules) -> Verdict:
    """The verdict on a ledger. The order of the entries does not matter."""
    ledger = _sorted_by_event(entries)
    attempts = _attempts(ledger["start"], ledger["finish"])
    by_id: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        by_id[attempt.id].append(attempt)
    invoked = {entry["id"] for entry in ledger["invoke"]}
    ok = {entry["id"] for entry in ledger["ok"]}
    finished = {attempt.id for attempt in attempts if attempt.finished is not None}
    quarantined = {entry["id"] for entry in ledger["quarantined"]}
    kills = ledger["kill"]
    excuses = _Excuses([*kills, *ledger["stop"], *ledger["cut"]], by_id, rules)
    unexcused, causes = excuses.judge()
    return Verdict(
        invoked=len(invoked),
        ok=len(ok),
        unknown=len({entry["id"] for entry in ledger["unknown"]}),
        finished=len(finished),
        starts=len(attempts),
        lost=sorted(ok - finished - quarantined),
        unexpected=sorted(by_id.keys() - invoked),
        repeats=len(attempts) - len(by_id),
        unexcused=unexcused,
        wrong=_wrong(ledger["start"]),
        quarantined=len(quarantined),
        quarantined_early=sum(len(by_id[name]) < _ATTEMPTS for name in quarantined),
        unjustified=sorted(name for name in quarantined if not excuses.is_hurt(by_id[name])),
        faults=len(kills) + len(ledger["stop"]) + len(ledger["cut"]),
        slots_killed=sum(entry["slots"] for entry in kills),
        busy=sum(_busy(entry, attempts) for entry in kills),
        causes=causes,
    )


def _sorted_by_event(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    ledger: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        ledger[entry["event"]].append(entry)
    return ledger


def _attempts(starts: Iterable[Entry], finishes: Iterable[Entry]) -> list[Attempt]:
    ended = {(entry["id"], entry["run"]): entry["time"] for entry in finishes}
    attempts = [
        Attempt(
            entry["id"],
            entry["run"],
            entry["pid"],
            entry.get("node", ""),
            entry["time"],
            ended.get((entry["id"], entry["run"])),
            entry.get("parent"),
        )
        for entry in starts
    ]
    return sorted(attempts, key=lambda attempt: attempt.started)


def _hits(fault: Entry, attempt: Attempt) -> bool:
    """The fault was about the attempt's process: it named it, its whole node, or (a broker's fault) everybody."""
    if fault["event"] == "cut":
        return True
    return attempt.pid in fault.get("pids", ()) or (bool(fault.get("node")) and fault["node"] == attempt.node)


def _busy(kill: Entry, attempts: Iterable[Attempt]) -> int:
    """How many of the killed slots ran a job: those of their attempts that had started and never finished."""
    pids = {
        attempt.pid
        for attempt in attempts
        if attempt.finished is None and _hits(kill, attempt) and attempt.started <= kill["ended"] + _SLACK
    }
    return min(len(pids), int(kill["slots"]))


def _wrong(starts: Iterable[Entry]) -> list[str]:
    return sorted(
        f"{entry['id']} was given {entry['got']} instead of {entry['size']} results"
        for entry in starts
        if "size" in entry and sorted(entry["got"]) != list(range(entry["size"]))
    )


class _Excuses:
    """Judges every repeat by what happened to the attempt before it."""

    def __init__(self, faults: Iterable[Entry], by_id: Mapping[str, list[Attempt]], rules: Rules) -> None:
        self._faults = list(faults)
        self._by_id = by_id
        self._rules = rules
        self._by_run: dict[str, list[Attempt]] = {}

    def judge(self) -> tuple[list[str], dict[str, int]]:
        """The repeats without a cause, in words, and how often each kind of fault was the cause of one."""
        unexcused: list[str] = []
        causes: dict[str, int] = defaultdict(int)
        for attempts in self._by_id.values():
            for number, (before, repeat) in enumerate(itertools.pairwise(attempts), 2):
                cause = self._cause(before, repeat) or self._slept(before, repeat) or self._inherited(repeat)
                if cause is None:
                    unexcused.append(_in_words(number, before, repeat))
                else:
                    causes[cause] += 1
        return sorted(unexcused), dict(causes)

    def is_hurt(self, attempts: Iterable[Attempt]) -> bool:
        """Whether any of these was killed, or silent for too long, while it held its job."""
        never = math.inf
        return any(self._cause(attempt, dataclasses.replace(attempt, started=never)) is not None for attempt in attempts)

    def _cause(self, before: Attempt, repeat: Attempt) -> str | None:
        for fault in self._faults:
            came_first = fault["began"] <= repeat.started + _SLACK
            if came_first and _hits(fault, before) and self._explains(fault, before, repeat):
                return str(fault.get("what", fault["event"]))
        return None

    def _explains(self, fault: Entry, before: Attempt, repeat: Attempt) -> bool:
        rules = self._rules
        if fault["event"] == "kill":
            # Held at any moment of the interval: the injector's clock was read before the signal and after the death.
            return before.was_held_at(fault["began"], rules.settle) or before.was_held_at(fault["ended"], rules.settle)
        # Silence, of a process or of a broker: what was held meanwhile may be given away once the lease is over.
        ran_out = fault["began"] + rules.lease * 2 / 3 - _SLACK
        touched = before.started <= fault["ended"] and (before.finished is None or before.finished >= fault["began"] - rules.settle)
        if fault["event"] == "stop":
            return touched and fault["ended"] >= ran_out and repeat.started >= ran_out
        return touched

    def _slept(self, before: Attempt, repeat: Attempt) -> str | None:
        """The repeat is the sleeper's: stopped when it had claimed the job and not begun it, it begins it on waking up."""
        for fault in self._faults:
            ran_out = fault["began"] + self._rules.lease * 2 / 3 - _SLACK
            was_taken_over = ran_out <= before.started <= fault["ended"] + _SLACK
            just_woke_up = fault["ended"] - _SLACK <= repeat.started <= fault["ended"] + self._rules.settle
            if fault["event"] == "stop" and _hits(fault, repeat) and was_taken_over and just_woke_up:
                return "sleeper"
        return None

    def _inherited(self, repeat: Attempt) -> str | None:
        """Published twice by a job that was repeated with cause."""
        if self._rules.atomic or repeat.parent is None:
            return None
        return "its parent's repeat" if len(self._by_id.get(repeat.parent, ())) > 1 else None


def _in_words(number: int, before: Attempt, repeat: Attempt) -> str:
    end = "never finished" if before.finished is None else f"finished at {before.finished:.3f}"
    return (
        f"{repeat.id}: start {number} at {repeat.started:.3f} in {repeat.node}/{repeat.pid}, although the one before "
        f"({before.node}/{before.pid}, {before.started:.3f}) was hurt by nothing and {end}"
    )

"""What happened in a story, and whether it may have. Written by the world, never by the parts that are tested."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise


@dataclass(slots=True)
class Run:
    """One start of a job. Times are virtual seconds."""

    process: str
    node: str
    attempt: int
    claimed: float
    started: float
    ended: float | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that excuses a repeat.

    :ivar scope: a process, a node, or ``everywhere``.
    :ivar kind: ``kill``, ``stop`` or ``outage``.
    """

    kind: str
    scope: str
    began: float
    ended: float


@dataclass(slots=True)
class Expected:
    """What a job should come to.

    :ivar early_ack: a child's death does not repeat it.
    :ivar copies: how often its publisher sent it.
    :ivar due: when it may start, virtual seconds.
    """

    early_ack: bool = False
    copies: int = 1
    due: float = 0.0


@dataclass(slots=True)
class Join:
    """A join's members, and the job that they come to."""

    members: list[str]
    body: str


@dataclass(slots=True)
class Ledger:
    """Everything that is known from outside of the workers."""

    expected: dict[str, Expected] = field(default_factory=dict)
    joins: dict[str, Join] = field(default_factory=dict)
    #: How often the broker took a message with this job's id from a publisher or a settlement.
    published: Counter[str] = field(default_factory=Counter)
    #: How often the broker let somebody ack or quarantine this job's message.
    settled: Counter[str] = field(default_factory=Counter)
    #: What was stored when that happened.
    stored: dict[str, bytes | None] = field(default_factory=dict)
    runs: defaultdict[str, list[Run]] = field(default_factory=lambda: defaultdict(list))
    faults: list[Fault] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def check(self, documents: dict[str, bytes], resting: set[str], max_attempts: int) -> list[str]:
        """All that must not be, at the end of a story that has come to rest.

        :param documents: the results that are stored now, by job.
        :param resting: the jobs in quarantine.
        """
        found = list(self.violations)
        for job in self.expected:
            found += self._check_job(job, documents, resting, max_attempts)
        for name, join in self.joins.items():
            found += self._check_join(name, join, documents)
        return found

    def _check_job(self, job: str, documents: dict[str, bytes], resting: set[str], max_attempts: int) -> list[str]:
        expected, runs = self.expected[job], self.runs[job]
        found = []
        if self.published[job] and job not in documents and job not in resting:
            found.append(f"{job} is lost: published, and neither a result nor in quarantine")
        if b"LOST" in documents.get(job, b"") and not expected.early_ack and job not in resting:
            found.append(f"{job} was given up: its process died, and nobody did it again")
        if any(run.started < expected.due for run in runs):
            found.append(f"{job} began before {expected.due}: {runs}")
        if self.published[job] > expected.copies:
            found.append(f"{job} was published {self.published[job]} times")
        if self.settled[job] > expected.copies:
            found.append(f"{job} was settled {self.settled[job]} times")
        if expected.copies == 1 and self.settled[job] and documents.get(job) != self.stored[job]:
            found.append(f"{job} was undone: {self.stored[job]!r} was stored when it was settled, now {documents.get(job)!r} is")
        if expected.copies == 1:
            if len({run.attempt for run in runs}) > max_attempts:
                found.append(f"{job} ran in {len(runs)} attempts, {max_attempts} are allowed")
            found += self._check_repeats(job, expected, runs)
        return found

    def _check_repeats(self, job: str, expected: Expected, runs: list[Run]) -> list[str]:
        return [
            f"{job} was repeated without cause: {before} and then {after}"
            for before, after in pairwise(runs)
            if not self._is_excused(expected, before, after)
        ]

    def _is_excused(self, expected: Expected, before: Run, after: Run) -> bool:
        for fault in self.faults:
            # Who was stopped may begin the older claim of the two after the younger one.
            if fault.ended < min(before.claimed, after.claimed) or fault.began > after.started:
                continue
            if fault.kind == "kill" and fault.scope == before.process and not expected.early_ack:
                return True
            if fault.kind != "kill" and fault.scope in ("everywhere", before.node, after.node):
                return True
        return False

    def _check_join(self, name: str, join: Join, documents: dict[str, bytes]) -> list[str]:
        is_whole = all(b"SUCCESS" in documents.get(member, b"") for member in join.members)
        wanted = 1 if is_whole and all(self.published[member] for member in join.members) else 0
        if self.published[join.body] == wanted:
            return []
        return [f"the body of {name} was sent {self.published[join.body]} times instead of {wanted}"]

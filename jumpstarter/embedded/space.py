"""The shared memory behind ``memory://`` brokers and results: one space per name and process.

Everything lies under one lock (a condition that those who wait sleep on), so a settlement and the results it writes are one step
here too. A space belongs to the process that made it. A forked child has a copy that nobody else sees; using it is refused.
"""

from __future__ import annotations

import heapq
import itertools
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlsplit

from jumpstarter.errors import ConfigurationError
from jumpstarter.jobs import Part

T = TypeVar("T")

#: Seconds for which a closed join is remembered, so that late parts complete nothing.
CLOSED_TTL = 86_400.0


@dataclass(slots=True, eq=False)
class Message:
    """A stored message. ``number`` orders it in its queue; while it is claimed, ``claimant`` and ``epoch`` say by whom."""

    number: int
    queue: str
    priority: int
    head: bytes
    body: bytes
    attempt: int = 1
    epoch: int = 0
    claimant: str = ""

    @property
    def tag(self) -> str:
        """The handle of the present claim."""
        return f"{self.number}.{self.epoch}"


@dataclass(frozen=True, slots=True)
class Resting:
    """A message in quarantine: why, what is known, and since when (wall time, seconds)."""

    message: Message
    reason: str
    evidence: str
    at: float


@dataclass(frozen=True, slots=True)
class Stored:
    """A result document: until when (wall time, seconds; None: for ever), and whether it may be overwritten."""

    key: str
    body: bytes
    expires: float | None
    final: bool
    #: Wall time at which it was written.
    at: float

    def is_over(self, now: float) -> bool:
        """Its time is up."""
        return self.expires is not None and self.expires <= now


@dataclass(frozen=True, slots=True)
class Contribution:
    """A part of a join that a settlement counts, and the wall time at which it does."""

    part: Part
    at: float


@dataclass(frozen=True, slots=True)
class Closing:
    """The end of a join that a settlement closes, and the wall time at which it does."""

    join: str
    at: float


@dataclass(frozen=True, slots=True)
class Standing:
    """A fence: what smaller attempts of a job write is refused until ``expires`` (wall time, seconds)."""

    attempt: int
    expires: float

    def is_over(self, now: float) -> bool:
        """Its time is up."""
        return self.expires <= now


@dataclass(frozen=True, slots=True)
class Lease:
    """When an incarnation was heard of last (monotonic seconds), and after how many seconds of silence its claims return."""

    renewed: float
    length: float

    def is_over(self, now: float, length: float | None = None) -> bool:
        """The silence has lasted ``length`` seconds; the lease's own length if None."""
        return self.renewed + (self.length if length is None else length) <= now


@dataclass(slots=True, eq=False)
class Gathering:
    """A join: the parts so far, in order of arrival, how many there must be, and which of them completed it. That one keeps the
    completion, however often it comes; were it told to another repeated part as well, both would do the join's one thing."""

    size: int | None = None
    expires: float | None = None
    closed: bool = False
    parts: dict[tuple[str, int | None], bytes] = field(default_factory=dict)
    last: tuple[str, int | None] | None = None

    def is_over(self, now: float) -> bool:
        """Its time is up."""
        return self.expires is not None and self.expires <= now


class Space:
    """All queues and documents of one ``memory://name``. Callers hold :attr:`changed` while they touch anything."""

    _spaces: ClassVar[dict[str, Space]] = {}

    def __init__(self, name: str) -> None:
        self.name = name
        self.pid = os.getpid()
        self.changed = threading.Condition()
        self.numbers = itertools.count(1)
        self.epochs = itertools.count(1)
        self.waiting: defaultdict[str, list[tuple[int, int, Message]]] = defaultdict(list)
        self.parked: list[tuple[float, int, Message]] = []
        self.claims: dict[str, Message] = {}
        #: incarnation → the tags of its claims, in the order of the claims.
        self.claimed_by: defaultdict[str, dict[str, None]] = defaultdict(dict)
        self.leases: dict[str, Lease] = {}
        #: incarnation → tag → seconds, where a claim has a length of its own.
        self.holds: defaultdict[str, dict[str, float]] = defaultdict(dict)
        #: By number, the oldest first.
        self.quarantine: dict[int, Resting] = {}
        self.quarantine_numbers = itertools.count(1)
        self.documents: dict[str, Stored] = {}
        self.gatherings: dict[str, Gathering] = {}
        #: job → the fence before what it writes.
        self.fences: dict[str, Standing] = {}
        #: topic → its queues.
        self.topics: defaultdict[str, set[str]] = defaultdict(set)
        self.sweep_at = 1000
        #: What was said to everybody, with the monotonic time when it is no longer of interest.
        self.notices: list[tuple[float, str]] = []

    @classmethod
    def of(cls, url: str) -> Space:
        """The space that the URL names; made when this process has none of that name.

        :raises ConfigurationError: a space of that name was made before this process was forked.
        """
        parts = urlsplit(url)
        name = f"{parts.netloc}{parts.path}".strip("/")
        space = cls._spaces.get(name)
        if space is None:
            space = cls._spaces.setdefault(name, cls(name))
        space.check_process()
        return space

    def check_process(self) -> None:
        """Refuse to be used by a forked child."""
        if self.pid != os.getpid():
            raise ConfigurationError(
                f"memory://{self.name} lives in process {self.pid} and cannot be used in process {os.getpid()}, a child of it. "
                "Use a sqlite:/// URL when several processes share queues or results."
            )

    def make_ready(self, message: Message) -> None:
        """Put the message where its number says, and wake those who wait."""
        message.epoch, message.claimant = 0, ""
        heapq.heappush(self.waiting[message.queue], (message.priority, message.number, message))
        self.changed.notify_all()

    def make_last(self, message: Message) -> None:
        """Put the message behind all others of its priority."""
        message.number = next(self.numbers)
        self.make_ready(message)

    def park(self, message: Message, due: float) -> None:
        """Keep the message until ``due`` (wall time, seconds)."""
        message.epoch, message.claimant = 0, ""
        message.number = next(self.numbers)
        heapq.heappush(self.parked, (due, message.number, message))

    def unclaim(self, tag: str) -> Message:
        """Take the message out of the claims."""
        message = self.claims.pop(tag)
        for tags in (self.claimed_by, self.holds):
            if message.claimant in tags:
                tags[message.claimant].pop(tag, None)
                if not tags[message.claimant]:
                    del tags[message.claimant]
        return message

    def claims_over(self, incarnation: str, now: float) -> list[str]:
        """The tags of the incarnation's claims that its silence has cost it by now (monotonic seconds)."""
        lease, holds = self.leases[incarnation], self.holds.get(incarnation, {})
        if not holds and not lease.is_over(now):
            return []
        return [tag for tag in self.claimed_by.get(incarnation, ()) if lease.is_over(now, holds.get(tag))]

    def rest(self, resting: Resting) -> None:
        """Put a message into quarantine."""
        self.quarantine[next(self.quarantine_numbers)] = resting

    def store(self, document: Stored) -> None:
        """Write a document, unless a final one is there, and wake those who wait."""
        present = self.documents.get(document.key)
        if present is not None and present.final and not present.is_over(document.at):
            return
        self.documents[document.key] = document
        if len(self.documents) > self.sweep_at:
            self.sweep(document.at)
        self.changed.notify_all()

    def gathering(self, join: str, ttl: float | None, now: float) -> Gathering:
        """The join, which lives ``ttl`` seconds from now; a new one where there is none. A closed one keeps its own time."""
        gathering = self.gatherings.get(join)
        if gathering is None or gathering.is_over(now):
            gathering = self.gatherings[join] = Gathering()
            if len(self.gatherings) > self.sweep_at:
                self.sweep(now)
        if not gathering.closed:
            gathering.expires = None if ttl is None else now + ttl
        return gathering

    def count(self, part: Part, now: float) -> list[bytes] | None:
        """Count the part; the bodies of all parts in order of index where its join is complete and not closed."""
        gathering = self.gathering(part.join, part.ttl, now)
        if gathering.closed:
            return None
        place = (part.member, part.index)
        gathering.parts.setdefault(place, part.body)
        if gathering.size is None or len(gathering.parts) < gathering.size:
            return None
        gathering.last = gathering.last or place
        if gathering.last != place:
            return None
        # Sorting is stable: parts without an index stay in the order in which they came.
        in_order = sorted(gathering.parts.items(), key=lambda item: -1 if item[0][1] is None else item[0][1])
        return [body for _, body in in_order]

    def close(self, join: str, now: float) -> bool:
        """Forget the join's parts, and let later ones complete nothing. False where somebody else has done so."""
        gathering = self.gathering(join, CLOSED_TTL, now)
        was_open = not gathering.closed
        gathering.closed = True
        gathering.parts.clear()
        return was_open

    def fence(self, job: str, attempt: int, expires: float, now: float) -> None:
        """Refuse what smaller attempts of the job write from now on."""
        present = self.fences.get(job)
        if present is not None and not present.is_over(now):
            attempt, expires = max(attempt, present.attempt), max(expires, present.expires)
        self.fences[job] = Standing(attempt, expires)
        if len(self.fences) > self.sweep_at:
            self.sweep(now)

    def is_fenced(self, job: str, attempt: int, now: float) -> bool:
        """What this attempt of the job writes is refused."""
        present = self.fences.get(job)
        return present is not None and attempt < present.attempt and not present.is_over(now)

    def sweep(self, now: float) -> None:
        """Forget documents, joins and fences whose time is up. Next time when there are twice as many as are left."""
        self.documents = {key: document for key, document in self.documents.items() if not document.is_over(now)}
        self.gatherings = {key: gathering for key, gathering in self.gatherings.items() if not gathering.is_over(now)}
        self.fences = {job: standing for job, standing in self.fences.items() if not standing.is_over(now)}
        self.sweep_at = max(1000, 2 * len(self.documents), 2 * len(self.gatherings), 2 * len(self.fences))

    def wait(self, look: Callable[[], T | None], timeout: float | None, is_woken: Callable[[], bool]) -> T | None:
        """Sleep until ``look`` finds something, ``is_woken`` says so or the time (seconds) is over. Held: :attr:`changed`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            found = look()
            if found is not None or is_woken():
                return found
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return None
            self.changed.wait(left)


def carry_out(space: Space, writes: Sequence[Any]) -> None:
    """Carry out what ``MemoryResults.writes`` returned. Held: ``space.changed``."""
    for document in writes:
        space.store(document)

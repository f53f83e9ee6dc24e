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

T = TypeVar("T")


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


@dataclass(slots=True, eq=False)
class Gathering:
    """A join: the parts so far, in order of arrival, and how many there must be."""

    size: int | None = None
    expires: float | None = None
    closed: bool = False
    parts: dict[tuple[str, int | None], bytes] = field(default_factory=dict)

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
        #: incarnation → monotonic second at which its lease runs out.
        self.leases: dict[str, float] = {}
        self.quarantine: list[Resting] = []
        self.documents: dict[str, Stored] = {}
        self.gatherings: dict[str, Gathering] = {}
        self.sweep_at = 1000

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
        tags = self.claimed_by[message.claimant]
        del tags[tag]
        if not tags:
            del self.claimed_by[message.claimant]
        return message

    def store(self, document: Stored) -> None:
        """Write a document, unless a final one is there, and wake those who wait."""
        present = self.documents.get(document.key)
        if present is not None and present.final and not present.is_over(document.at):
            return
        self.documents[document.key] = document
        if len(self.documents) > self.sweep_at:
            self.sweep(document.at)
        self.changed.notify_all()

    def sweep(self, now: float) -> None:
        """Forget documents and joins whose time is up. Next time when there are twice as many as are left."""
        self.documents = {key: document for key, document in self.documents.items() if not document.is_over(now)}
        self.gatherings = {key: gathering for key, gathering in self.gatherings.items() if not gathering.is_over(now)}
        self.sweep_at = max(1000, 2 * len(self.documents), 2 * len(self.gatherings))

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

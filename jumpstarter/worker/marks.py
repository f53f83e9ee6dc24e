"""Started marks: what the children have begun, in memory that outlives them.

When a child dies, its node must know which of its claims had *started*: those were acked early by contract, or count as lost; the
others simply return to their queue. A child cannot say so any more, and a message per job would cost a system call, so each child
writes every job that it starts (tag, id, slot, attempt, time) into a ring in shared memory (about 1 µs), which the node reads.

The ring is far longer than what a child may hold, so a tag that is still claimed cannot have been overwritten.
"""

from __future__ import annotations

import mmap
import struct
import threading
import time
from dataclasses import dataclass
from typing import Final

from jumpstarter.errors import ConfigurationError

_ENTRY: Final = struct.Struct("<B95sB60sHHd")  # tag, id (each after its length), slot, attempt, started
_COUNT: Final = struct.Struct("<Q")
RING: Final = 4096  # entries; a child holds at most its slots, its look-ahead (512) and what it has not settled (1,024 and a batch)


@dataclass(frozen=True, slots=True)
class Started:
    """A job that a child has begun.

    :ivar id: the job's id, cut off after 60 bytes.
    :ivar started: wall time, seconds.
    """

    tag: str
    id: str
    slot: int
    attempt: int
    started: float


class Marks:
    """Rings for ``children`` children. Created by the node before it forks; inherited by every process."""

    def __init__(self, children: int) -> None:
        self._stride = _COUNT.size + RING * _ENTRY.size
        self._memory = mmap.mmap(-1, max(1, children) * self._stride)

    def clear(self, child: int) -> None:
        """Forget what was started there: a new child takes the place."""
        start = child * self._stride
        _COUNT.pack_into(self._memory, start, 0)

    def ring(self, child: int) -> Ring:
        """The writing end, for the child itself."""
        return Ring(self._memory, child * self._stride)

    def started(self, child: int) -> dict[str, Started]:
        """What the child started, by tag, in order, as far back as the ring goes."""
        start = child * self._stride
        (count,) = _COUNT.unpack_from(self._memory, start)
        entries = (self._entry(start, number) for number in range(max(0, count - RING), count))
        return {entry.tag: entry for entry in entries}

    def current(self, child: int) -> dict[int, Started]:
        """The latest job of each slot, by the slot's number; the slot may have finished it by now."""
        return {entry.slot: entry for entry in self.started(child).values()}

    def _entry(self, start: int, number: int) -> Started:
        offset = start + _COUNT.size + (number % RING) * _ENTRY.size
        tag_length, tag, id_length, job, slot, attempt, started = _ENTRY.unpack_from(self._memory, offset)
        return Started(tag[:tag_length].decode(), job[:id_length].decode("utf-8", "replace"), slot, attempt, started)


class Ring:
    """The place where one child writes, from any of its threads."""

    __slots__ = ("_first", "_lock", "_memory", "_next", "_start")

    def __init__(self, memory: mmap.mmap, start: int) -> None:
        self._memory = memory
        self._start = start
        self._first = start + _COUNT.size
        self._next: int = _COUNT.unpack_from(memory, start)[0]
        self._lock = threading.Lock()

    def mark(self, tag: str, job: str, slot: int, attempt: int) -> None:
        """Say that the job starts now.

        :raises ConfigurationError: the broker's tags are longer than an entry.
        """
        encoded, shown = tag.encode(), job.encode()[:60]
        if len(encoded) > 95:
            raise ConfigurationError(f"a delivery tag may have 95 bytes at most: {tag!r}")
        attempt = min(attempt, 0xFFFF)
        with self._lock:
            offset = self._first + (self._next % RING) * _ENTRY.size
            # The entry before the count: a reader never sees a counted entry that is not written.
            _ENTRY.pack_into(self._memory, offset, len(encoded), encoded, len(shown), shown, slot & 0xFFFF, attempt, time.time())
            self._next += 1
            _COUNT.pack_into(self._memory, self._start, self._next)

"""Started marks: what the children have begun, in memory that outlives them.

When a child dies, its node must know which of its claims had *started*: those were acked early by contract, or count as lost; the
others simply return to their queue. A child cannot say so any more, and a message per job would cost a system call, so each child
writes every job that it starts (tag, id, slot, attempt, time) into a ring in shared memory (about 1 µs), which the node reads.

The ring is far longer than what a child may hold, and what runs long has an entry of its slot's beside it, so what is still claimed
cannot have been overwritten.
"""

from __future__ import annotations

import mmap
import struct
import threading
import time
from dataclasses import dataclass
from typing import Final

from jumpstarter.errors import ConfigurationError

_ENTRY: Final = struct.Struct("<B95sB60sHHdf")  # tag, id (each after its length), slot, attempt, started, hard limit
_COUNT: Final = struct.Struct("<Q")
RING: Final = 4096  # entries; a child holds at most its slots, its look-ahead (512) and what it has not settled (1,024 and a batch)


@dataclass(frozen=True, slots=True)
class Started:
    """A job that a child has begun.

    :ivar id: the job's id, cut off after 60 bytes.
    :ivar started: monotonic seconds; the same clock for all processes.
    :ivar hard_limit: in seconds, or 0.
    :ivar runs: whether it runs in its slot now, as far as :meth:`Marks.running` can tell.
    """

    tag: str
    id: str
    slot: int
    attempt: int
    started: float
    hard_limit: float
    runs: bool


class Marks:
    """Rings for ``children`` children with ``slots`` slots each. Created by the node before it forks; inherited by every process.

    Beside its ring, a child has an entry for each slot: what runs there.
    """

    def __init__(self, children: int, slots: int) -> None:
        self._slots = slots
        self._cells = _COUNT.size + RING * _ENTRY.size
        self._stride = self._cells + slots * _ENTRY.size
        self._memory = mmap.mmap(-1, max(1, children) * self._stride)

    def clear(self, child: int) -> None:
        """Forget what was started there: a new child takes the place."""
        start = child * self._stride
        _COUNT.pack_into(self._memory, start, 0)
        self._memory[start + self._cells : start + self._stride] = bytes(self._stride - self._cells)

    def ring(self, child: int) -> Ring:
        """The writing end, for the child itself."""
        start = child * self._stride
        return Ring(self._memory, start, start + self._cells)

    def started(self, child: int) -> dict[str, Started]:
        """What the child started, by tag, as far back as the ring goes, and all that runs."""
        start = child * self._stride
        (count,) = _COUNT.unpack_from(self._memory, start)
        first = start + _COUNT.size
        entries = [self._entry(first + (number % RING) * _ENTRY.size, False) for number in range(max(0, count - RING), count)]
        return {entry.tag: entry for entry in [*entries, *self.running(child).values()]}

    def running(self, child: int) -> dict[int, Started]:
        """What runs in the child now, by the slot's number. A job that has ended is seen here until the next one begins, or its
        slot turns idle: microseconds."""
        first = child * self._stride + self._cells
        lengths = self._memory[first : child * self._stride + self._stride : _ENTRY.size]  # of the tags; 0: idle
        return {slot: self._entry(first + slot * _ENTRY.size, True) for slot, length in enumerate(lengths) if length}

    def _entry(self, offset: int, runs: bool) -> Started:
        tag_length, tag, id_length, job, slot, attempt, started, hard_limit = _ENTRY.unpack_from(self._memory, offset)
        shown = job[:id_length].decode("utf-8", "replace")
        return Started(tag[:tag_length].decode(), shown, slot, attempt, started, round(hard_limit, 3), runs)


class Ring:
    """The place where one child writes, from any of its threads."""

    __slots__ = ("_cells", "_first", "_lock", "_memory", "_next", "_start")

    def __init__(self, memory: mmap.mmap, start: int, cells: int) -> None:
        self._memory = memory
        self._start = start
        self._cells = cells
        self._first = start + _COUNT.size
        self._next: int = _COUNT.unpack_from(memory, start)[0]
        self._lock = threading.Lock()

    def mark(self, tag: str, job: str, slot: int, attempt: int, hard_limit: float) -> None:
        """Say that the job starts now.

        :raises ConfigurationError: the broker's tags are longer than an entry.
        """
        encoded, shown = tag.encode(), job.encode()[:60]
        if len(encoded) > 95:
            raise ConfigurationError(f"a delivery tag may have 95 bytes at most: {tag!r}")
        entry = _ENTRY.pack(len(encoded), encoded, len(shown), shown, slot, min(attempt, 0xFFFF), time.monotonic(), hard_limit)
        memory, cell = self._memory, self._cells + slot * _ENTRY.size
        with self._lock:
            offset = self._first + (self._next % RING) * _ENTRY.size
            # The entry before the count: a reader never sees a counted entry that is not written.
            memory[offset : offset + _ENTRY.size] = entry
            memory[cell : cell + _ENTRY.size] = entry
            self._next += 1
            _COUNT.pack_into(memory, self._start, self._next)

    def idle(self, slot: int) -> None:
        """Say that nothing runs in the slot any more."""
        self._memory[self._cells + slot * _ENTRY.size] = 0  # the length of the tag

"""Started marks: what the children have begun, in memory that outlives them.

When a child dies, its node must know which of its claims had *started*: those were acked early by contract, or count as lost; the
others simply return to their queue. A child cannot say so any more, and a message per job would cost a system call, so each child
writes the tag of every job that it starts into a ring in shared memory (0.4 µs), which the node reads after the child's death.

The ring is far longer than what a child may hold, so a tag that is still claimed cannot have been overwritten.
"""

from __future__ import annotations

import mmap
import struct
from typing import Final

from jumpstarter.errors import ConfigurationError

_ENTRY: Final = struct.Struct("<B95s")  # length, tag
_COUNT: Final = struct.Struct("<Q")
RING: Final = 4096  # entries; a child holds at most its look-ahead (512), its slots and an unsettled batch (256)


class Marks:
    """Rings for ``children`` children. Created by the node before it forks; inherited by every process."""

    def __init__(self, children: int) -> None:
        self._stride = _COUNT.size + RING * _ENTRY.size
        self._memory = mmap.mmap(-1, max(1, children) * self._stride)

    def clear(self, child: int) -> None:
        """Forget what was started there: a new child takes the place."""
        start = child * self._stride
        self._memory[start : start + self._stride] = bytes(self._stride)

    def ring(self, child: int) -> Ring:
        """The writing end, for the child itself."""
        return Ring(self._memory, child * self._stride)

    def started(self, child: int) -> frozenset[str]:
        """The tags that the child started, as far back as the ring goes."""
        start = child * self._stride
        (count,) = _COUNT.unpack_from(self._memory, start)
        first = start + _COUNT.size
        entries = (_ENTRY.unpack_from(self._memory, first + i * _ENTRY.size) for i in range(min(count, RING)))
        return frozenset(tag[:length].decode() for length, tag in entries)


class Ring:
    """The place where one child writes. Calls from several threads must not overlap: the GIL sees to that within ``mark``'s two
    writes, since each is one C call and losing the race costs one duplicate slot, never a tag of another job."""

    __slots__ = ("_first", "_memory", "_next", "_start")

    def __init__(self, memory: mmap.mmap, start: int) -> None:
        self._memory = memory
        self._start = start
        self._first = start + _COUNT.size
        self._next = _COUNT.unpack_from(memory, start)[0]

    def mark(self, tag: str) -> None:
        """The job with this tag starts now.

        :raises ConfigurationError: the broker's tags are longer than an entry.
        """
        encoded = tag.encode()
        if len(encoded) > 95:
            raise ConfigurationError(f"a delivery tag may have 95 bytes at most: {tag!r}")
        number = self._next
        self._next = number + 1
        # The entry before the count: a reader never sees a counted entry that is not written.
        _ENTRY.pack_into(self._memory, self._first + (number % RING) * _ENTRY.size, len(encoded), encoded)
        _COUNT.pack_into(self._memory, self._start, number + 1)

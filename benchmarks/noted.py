"""Reads what the tasks noted (``apps/notes.py``): who ran, when, where; and whether everybody ran once."""

from __future__ import annotations

import os
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.peers import DeadlineMissed, Program

_RECORD = struct.Struct("<iddi")
#: Seconds between two looks at the file's size: a look costs next to nothing, and nobody else.
_LOOK = 0.002


class Note(NamedTuple):
    """One task: its number, monotonic seconds of its begin and end, the process that ran it."""

    number: int
    began: float
    ended: float
    pid: int


class Notes:
    """A file in shared memory that tasks append to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def clear(self) -> None:
        """Forget all."""
        self.path.unlink(missing_ok=True)

    def count(self) -> int:
        """How many tasks have ended."""
        try:
            return self.path.stat().st_size // _RECORD.size
        except FileNotFoundError:
            return 0

    def read(self) -> list[Note]:
        """All of them, in the order in which they ended."""
        return [Note(*record) for record in _RECORD.iter_unpack(self.path.read_bytes())]

    def wait(self, count: int, *, within: float, workers: Sequence[Program] = ()) -> None:
        """Return when so many tasks have ended.

        :raises DeadlineMissed: they have not; shows how the workers' log ends.
        """
        deadline = time.monotonic() + within
        while self.count() < count:
            if time.monotonic() > deadline:
                logs = "".join(worker.text()[-2000:] for worker in workers[:1])
                raise DeadlineMissed(f"{self.count()} of {count} tasks after {within:.0f} s; the worker's log ends:\n{logs}")
            time.sleep(_LOOK)

    def check(self, count: int, *, strict: bool = True) -> list[Note]:
        """All of them.

        :param strict: else it is only printed what went wrong (peers are measured, not tested).
        :raises AssertionError: a number below ``count`` is missing, or there twice.
        """
        noted = self.read()
        times = Counter(note.number for note in noted)
        missing = count - len(times.keys() & set(range(count)))
        twice = sum(1 for seen in times.values() if seen > 1)
        if missing or twice:
            fault = f"of {count} tasks {missing} did not run, and {twice} ran more than once"
            if strict:
                raise AssertionError(fault)
            print(f"  (the next one: {fault})")
        return noted


@contextmanager
def notes() -> Iterator[Notes]:
    """A fresh file, in memory where there is a place for that."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="bench-notes-", dir=place) as folder:
        yield Notes(Path(folder) / "notes")

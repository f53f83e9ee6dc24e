"""Reads what the tasks noted (``apps/notes.py``): who ran, when, where; and whether everybody ran once."""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.apps.notes import RECORD
from tests.peers import DeadlineMissed, Program

_PID = struct.Struct("<i")
#: Seconds between two looks, which take time from whoever is measured. What is reported are the times that the tasks noted.
_LOOK = 0.005


class Note(NamedTuple):
    """One task: its number, monotonic seconds of its begin and end, the process that ran it."""

    number: int
    began: float
    ended: float
    pid: int


class Notes:
    """A folder in shared memory, in which each process has a file that its tasks write to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files: dict[str, mmap.mmap] = {}
        self._places: dict[str, int] = {}
        self._noted: list[Note] = []
        self.path.mkdir(exist_ok=True)

    def clear(self) -> None:
        """Forget all. Whoever still writes is not heard any more."""
        for file in self._files.values():
            file.close()
        self._files, self._places, self._noted = {}, {}, []
        shutil.rmtree(self.path)
        self.path.mkdir()

    def count(self) -> int:
        """How many tasks have ended."""
        for entry in os.scandir(self.path):
            # A file that was just made has no length yet.
            if entry.name not in self._files and entry.stat().st_size:
                with Path(entry.path).open("rb") as opened:
                    self._files[entry.name] = mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ)
                self._places[entry.name] = 0
        for name, file in self._files.items():
            self._places[name] = self._read(file, self._places[name])
        return len(self._noted)

    def _read(self, file: mmap.mmap, place: int) -> int:
        while place + RECORD.size <= len(file):
            # Looked at before the rest is read: it is written last, so what is not zero yet may still be half a record.
            if not _PID.unpack_from(file, place + RECORD.size - _PID.size)[0]:
                break
            self._noted.append(Note(*RECORD.unpack_from(file, place)))
            place += RECORD.size
        return place

    def read(self) -> list[Note]:
        """All of them, in the order in which they ended."""
        self.count()
        return sorted(self._noted, key=lambda note: note.ended)

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

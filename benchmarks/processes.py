"""What a program and all of its children cost: memory and processor time, from /proc."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

_TICK = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """The process and all that it started."""
    try:
        parent = psutil.Process(pid)
        return [pid, *(child.pid for child in parent.children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def memory(pid: int, what: str) -> float:
    """MB of the whole tree: ``Pss`` (what is shared is divided among those who share it) or ``Rss``."""
    total = 0
    for each in tree(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines():
                if line.startswith(f"{what}:"):
                    total += int(line.split()[1])
    return total / 1024


def processor_time(pid: int) -> float:
    """Seconds that the whole tree has computed, in user and kernel mode."""
    ticks = 0
    for each in tree(pid):
        with contextlib.suppress(OSError):
            # The name in brackets may hold spaces: the fields begin behind it.
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICK


@dataclass(slots=True)
class Watch:
    """The highest memory seen; ``look`` costs a few milliseconds, so it is rate-limited."""

    pid: int
    every: float = 0.5
    highest: float = 0.0
    _next: float = 0.0

    def look(self) -> None:
        """Look, unless it was just done."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self.every
            self.highest = max(self.highest, memory(self.pid, "Rss"))

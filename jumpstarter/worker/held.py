"""Jobs that were claimed and may not start yet, because their application lets so many of them start at a time.

Their claims are renewed like all others. They take no slot and no room: other jobs are claimed and run meanwhile. Comes from:
worker, in the thread that claims. Goes to: worker, on its loop, when their turn has come.
"""

from __future__ import annotations

import heapq
import itertools
import math
import threading
import time
from collections import Counter

from jumpstarter.jobs import Job


class Held:
    """The jobs that one worker holds back. From any thread."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Job]] = []
        self._numbers = itertools.count()
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, job: Job, seconds: float) -> None:
        """Hold a job back for so many seconds from now."""
        with self._lock:
            heapq.heappush(self._heap, (time.monotonic() + seconds, next(self._numbers), job))
            self._counts[job.name] += 1

    def count(self, name: str) -> int:
        """How many jobs of this name are held."""
        return self._counts[name]

    @property
    def jobs(self) -> list[Job]:
        """All of them."""
        return [job for _, _, job in list(self._heap)]

    @property
    def seconds(self) -> float:
        """Seconds until the next one may start; infinite when there is none."""
        with self._lock:
            return max(0.0, self._heap[0][0] - time.monotonic()) if self._heap else math.inf

    def due(self) -> list[Job]:
        """Take those that may start now."""
        return self._take(time.monotonic())

    def withdraw(self) -> list[Job]:
        """Take all of them."""
        return self._take(math.inf)

    def _take(self, until: float) -> list[Job]:
        taken = []
        with self._lock:
            while self._heap and self._heap[0][0] <= until:
                job = heapq.heappop(self._heap)[2]
                self._counts[job.name] -= 1
                taken.append(job)
        return taken

"""Results in the memory of one process, beside the queues of the broker of the same name. See :mod:`jumpstarter.embedded.space`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from jumpstarter.abc.results import Fence, Results
from jumpstarter.clock import SYSTEM_CLOCK, Clock
from jumpstarter.embedded.space import Closing, Contribution, Space, Stored
from jumpstarter.jobs import Document, Part


class MemoryResults(Results):
    """Results in the memory of this process.

    :param url: ``memory://`` or ``memory://name``.
    :param clock: wall time for what expires.
    """

    def __init__(self, url: str = "memory://", *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._space = Space.of(url)
        self._clock = clock
        self.url = f"memory://{self._space.name}"
        self.server = f"memory:{self._space.name}"

    def writes(self, documents: Sequence[Document]) -> Sequence[Any]:
        now = self._clock.now()
        return [
            Stored(document.key, bytes(document.body), None if document.ttl is None else now + document.ttl, document.final, now)
            for document in documents
        ]

    def part_write(self, part: Part) -> Any:
        return Contribution(part, self._clock.now())

    def close_write(self, join: str) -> Any:
        return Closing(join, self._clock.now())

    def fence(self, fences: Sequence[Fence], ttl: float) -> None:
        self._space.check_process()
        now = self._clock.now()
        with self._space.changed:
            for job, attempt in fences:
                self._space.fence(job, attempt, now + ttl, now)

    def put(self, documents: Sequence[Document], *, by: Sequence[Fence | None] = ()) -> list[bool]:
        self._space.check_process()
        with self._space.changed:
            allowed = self._allowed(by, len(documents))
            for stored in self.writes(list(itertools.compress(documents, allowed))):
                self._space.store(stored)
            return allowed

    def _allowed(self, by: Sequence[Fence | None], count: int) -> list[bool]:
        """Which of so many writes, made by these, are not refused."""
        if not by:
            return [True] * count
        now = self._clock.now()
        return [fence is None or not self._space.is_fenced(*fence, now) for _, fence in zip(range(count), by, strict=True)]

    def get(self, keys: Sequence[str]) -> list[bytes | None]:
        self._space.check_process()
        with self._space.changed:
            return [self._find(key) for key in keys]

    def _find(self, key: str) -> bytes | None:
        document = self._space.documents.get(key)
        return None if document is None or document.is_over(self._clock.now()) else document.body

    def wait(self, keys: Sequence[str], timeout: float | None) -> dict[str, bytes]:
        def look() -> dict[str, bytes] | None:
            return {key: body for key in keys if (body := self._find(key)) is not None} or None

        self._space.check_process()
        with self._space.changed:
            return self._space.wait(look, timeout, lambda: False) or {}

    def delete(self, keys: Sequence[str]) -> int:
        self._space.check_process()
        with self._space.changed:
            present = {key for key in keys if self._find(key) is not None}
            for key in keys:
                self._space.documents.pop(key, None)
            return len(present)

    def open_join(self, join: str, size: int, ttl: float | None) -> None:
        self._space.check_process()
        with self._space.changed:
            self._space.gathering(join, ttl, self._clock.now()).size = size

    def add_parts(self, parts: Sequence[Part], *, by: Sequence[Fence | None] = ()) -> list[Sequence[bytes] | None]:
        self._space.check_process()
        now = self._clock.now()
        with self._space.changed:
            allowed = self._allowed(by, len(parts))
            return [self._space.count(part, now) if is_allowed else None for part, is_allowed in zip(parts, allowed, strict=True)]

    def close_join(self, join: str) -> None:
        self._space.check_process()
        with self._space.changed:
            self._space.close(join, self._clock.now())

    def ping(self) -> None:
        self._space.check_process()

    def close(self) -> None:
        """Nothing to close: the documents stay until the process ends."""

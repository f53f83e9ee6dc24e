"""Results in the memory of one process, beside the queues of the broker of the same name. See :mod:`jumpstarter.embedded.space`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jumpstarter.abc.results import Results
from jumpstarter.clock import SYSTEM_CLOCK, Clock
from jumpstarter.embedded.space import Gathering, Space, Stored, carry_out
from jumpstarter.jobs import Document, Part

#: Seconds for which a closed join is remembered, so that late parts complete nothing, when nobody said how long.
CLOSED_TTL = 86_400.0


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

    def put(self, documents: Sequence[Document]) -> None:
        self._space.check_process()
        with self._space.changed:
            carry_out(self._space, self.writes(documents))

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
            self._gathering(join, ttl).size = size

    def add_part(self, part: Part) -> Sequence[bytes] | None:
        self._space.check_process()
        with self._space.changed:
            gathering = self._gathering(part.join, part.ttl)
            if gathering.closed:
                return None
            gathering.parts.setdefault((part.member, part.index), part.body)
            if gathering.size is None or len(gathering.parts) < gathering.size:
                return None
            # Sorting is stable: parts without an index stay in the order in which they came.
            in_order = sorted(gathering.parts.items(), key=lambda item: -1 if item[0][1] is None else item[0][1])
            return [body for _, body in in_order]

    def close_join(self, join: str) -> None:
        self._space.check_process()
        with self._space.changed:
            gathering = self._gathering(join, CLOSED_TTL)
            gathering.closed = True
            gathering.parts.clear()

    def _gathering(self, join: str, ttl: float | None) -> Gathering:
        now = self._clock.now()
        gathering = self._space.gatherings.get(join)
        if gathering is None or gathering.is_over(now):
            gathering = self._space.gatherings[join] = Gathering()
            if len(self._space.gatherings) > self._space.sweep_at:
                self._space.sweep(now)
        if not gathering.closed:
            gathering.expires = None if ttl is None else now + ttl
        return gathering

    def ping(self) -> None:
        self._space.check_process()

    def close(self) -> None:
        """Nothing to close: the documents stay until the process ends."""

"""Results in a SQLite file, usually the broker's own: then a job's result and its ack are one transaction.

Documents and joins expire by wall time; what has expired is never shown, and is deleted in small portions while others are written
(twice as many as come in, so the file does not grow; freed pages are used again). Who waits sleeps on the
:mod:`~jumpstarter.embedded.doorbell`. Neighbours: :mod:`jumpstarter.embedded.database`.
"""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from jumpstarter.abc.results import Fence, Results
from jumpstarter.clock import SYSTEM_CLOCK, Clock
from jumpstarter.embedded.database import Database, Place
from jumpstarter.embedded.doorbell import Doorbell
from jumpstarter.errors import ResultsUnavailable
from jumpstarter.jobs import Document, Part

_Write = tuple[tuple[str, Sequence[object]], ...]

#: Seconds for which a closed join is remembered, so that late parts complete nothing.
CLOSED_TTL = 86_400.0
# Documents between two sweeps. A sweep deletes at most twice as many.
_SWEEP_EVERY = 100

_PUT = """
    INSERT INTO jumpstarter_documents (key, body, expires, final) VALUES (?, ?, ?, ?)
    ON CONFLICT (key) DO UPDATE SET body = excluded.body, expires = excluded.expires, final = excluded.final
    WHERE NOT final OR expires <= ?
"""
_SWEEP = "DELETE FROM jumpstarter_documents WHERE rowid IN (SELECT rowid FROM jumpstarter_documents WHERE expires <= ? LIMIT ?)"
_GET = """
    SELECT key, body FROM jumpstarter_documents WHERE key IN (SELECT value FROM json_each(?)) AND (expires IS NULL OR expires > ?)
"""
_DELETE = """
    DELETE FROM jumpstarter_documents WHERE key IN (SELECT value FROM json_each(?)) AND (expires IS NULL OR expires > ?)
"""
# A join whose time is up begins anew. A closed one keeps its own time.
_OPEN_JOIN = """
    INSERT INTO jumpstarter_joins (name, size, expires) VALUES (?, ?, ?)
    ON CONFLICT (name) DO UPDATE SET size = coalesce(excluded.size, size), expires = excluded.expires WHERE NOT closed
"""
_CLOSE_JOIN = """
    INSERT INTO jumpstarter_joins (name, expires, closed) VALUES (:join, :expires, 1)
    ON CONFLICT (name) DO UPDATE SET expires = excluded.expires, closed = 1 WHERE NOT closed OR expires <= :now
"""
_OVER_PARTS = "DELETE FROM jumpstarter_parts WHERE name IN (SELECT name FROM jumpstarter_joins WHERE expires <= ?)"
_OVER_JOINS = "DELETE FROM jumpstarter_joins WHERE expires <= ?"
_ADD_PART = "INSERT OR IGNORE INTO jumpstarter_parts (name, member, place, body) VALUES (?, ?, ?, ?)"
_JOIN = "SELECT size, closed, (SELECT count(*) FROM jumpstarter_parts WHERE name = :join) FROM jumpstarter_joins WHERE name = :join"
# The part that completes a join keeps the completion, however often it comes: were it told to another repeated part as well, both
# would do the join's one thing.
_TAKE_LAST = """
    UPDATE jumpstarter_joins SET last = coalesce(last, part.id) FROM jumpstarter_parts AS part
    WHERE part.name = ? AND part.member = ? AND part.place = ? AND jumpstarter_joins.name = part.name
    AND coalesce(last, part.id) = part.id
"""
_END_PARTS = "DELETE FROM jumpstarter_parts WHERE name = ?"
_PARTS = "SELECT body FROM jumpstarter_parts WHERE name = ? ORDER BY place, id"

_OVER_FENCES = "DELETE FROM jumpstarter_fences WHERE expires <= ?"
_FENCE = """
    INSERT INTO jumpstarter_fences (job, attempt, expires) VALUES (?, ?, ?)
    ON CONFLICT (job) DO UPDATE SET attempt = max(attempt, excluded.attempt), expires = max(expires, excluded.expires)
"""
_FENCES = "SELECT job, attempt FROM jumpstarter_fences WHERE job IN (SELECT value FROM json_each(?)) AND expires > ?"


class SqliteResults(Results):
    """Results in a SQLite file.

    :param url: ``sqlite:////absolute/path.db`` or ``sqlite:///relative/path.db``; the options may also stand behind a ``?``.
    :param synchronous: ``NORMAL``: commits survive every process, the last ones perhaps not a loss of power; ``FULL``: that too.
    :param timeout: seconds that a call waits for other processes' transactions before it raises.
    :param clock: wall time for what expires.
    """

    def __init__(self, url: str, *, synchronous: str = "NORMAL", timeout: float = 5.0, clock: Clock = SYSTEM_CLOCK) -> None:
        place = Place(url, synchronous=synchronous, timeout=timeout)
        self.url = place.url
        self.server = place.server
        self._clock = clock
        self._database = Database(place, ResultsUnavailable)
        self._doorbell = Doorbell(place.path)
        self._written = 0

    # Documents

    def writes(self, documents: Sequence[Document]) -> Sequence[Any]:
        """For each document what ``SqliteBroker.settle`` has to do: statements with their values."""
        now = self._clock.now()
        writes: list[_Write] = [
            ((_PUT, (document.key, document.body, None if document.ttl is None else now + document.ttl, document.final, now)),)
            for document in documents
        ]
        self._written += len(writes)
        if writes and self._written >= _SWEEP_EVERY:
            writes[-1] += ((_SWEEP, (now, 2 * self._written)),)
            self._written = 0
        return writes

    def put(self, documents: Sequence[Document], *, by: Sequence[Fence | None] = ()) -> list[bool]:
        if not documents:
            return []
        allowed = self._database.write(lambda connection: self._put(connection, documents, by))
        if any(allowed):
            self._doorbell.ring()
        return allowed

    def _put(self, connection: sqlite3.Connection, documents: Sequence[Document], by: Sequence[Fence | None]) -> list[bool]:
        allowed = self._allowed(connection, by, len(documents))
        writes = self.writes(list(itertools.compress(documents, allowed)))
        for statement, values in itertools.chain.from_iterable(writes):
            connection.execute(statement, values)
        return allowed

    def get(self, keys: Sequence[str]) -> list[bytes | None]:
        found = self._find(keys)
        return [found.get(key) for key in keys]

    def _find(self, keys: Sequence[str]) -> dict[str, bytes]:
        values = (json.dumps(list(keys)), self._clock.now())
        return dict(self._database.read(lambda connection: connection.execute(_GET, values).fetchall()))

    def wait(self, keys: Sequence[str], timeout: float | None) -> dict[str, bytes]:
        return self._doorbell.wait(lambda: self._find(keys) or None, timeout) or {}

    def delete(self, keys: Sequence[str]) -> int:
        values = (json.dumps(list(keys)), self._clock.now())
        return self._database.write(lambda connection: connection.execute(_DELETE, values).rowcount)

    # Joins

    def open_join(self, join: str, size: int, ttl: float | None) -> None:
        self._database.write(lambda connection: self._open_join(connection, join, size, ttl))

    def _open_join(self, connection: sqlite3.Connection, join: str, size: int | None, ttl: float | None) -> None:
        now = self._clock.now()
        connection.execute(_OVER_PARTS, (now,))
        connection.execute(_OVER_JOINS, (now,))
        connection.execute(_OPEN_JOIN, (join, size, None if ttl is None else now + ttl))

    def add_parts(self, parts: Sequence[Part], *, by: Sequence[Fence | None] = ()) -> list[Sequence[bytes] | None]:
        if not parts:
            return []
        return self._database.write(lambda connection: self._add_parts(connection, parts, by))

    def _add_parts(
        self, connection: sqlite3.Connection, parts: Sequence[Part], by: Sequence[Fence | None]
    ) -> list[Sequence[bytes] | None]:
        allowed = self._allowed(connection, by, len(parts))
        return [self._add_part(connection, part) if is_allowed else None for part, is_allowed in zip(parts, allowed, strict=True)]

    def part_write(self, part: Part) -> Callable[[sqlite3.Connection], list[bytes] | None]:
        """To be called by ``SqliteBroker.settle`` inside its transaction."""
        return lambda connection: self._add_part(connection, part)

    def _add_part(self, connection: sqlite3.Connection, part: Part) -> list[bytes] | None:
        self._open_join(connection, part.join, None, part.ttl)
        ((size, closed, count),) = connection.execute(_JOIN, {"join": part.join}).fetchall()
        if closed:
            return None
        place = -1 if part.index is None else part.index
        count += connection.execute(_ADD_PART, (part.join, part.member, place, part.body)).rowcount
        if size is None or count < size or not connection.execute(_TAKE_LAST, (part.join, part.member, place)).rowcount:
            return None
        return [body for (body,) in connection.execute(_PARTS, (part.join,)).fetchall()]

    def close_join(self, join: str) -> None:
        self._database.write(lambda connection: self._close_join(connection, join))

    def close_write(self, join: str) -> Callable[[sqlite3.Connection], bool]:
        """To be called by ``SqliteBroker.settle`` inside its transaction; False where somebody else has closed the join."""
        return lambda connection: self._close_join(connection, join)

    def _close_join(self, connection: sqlite3.Connection, join: str) -> bool:
        now = self._clock.now()
        connection.execute(_END_PARTS, (join,))
        return connection.execute(_CLOSE_JOIN, {"join": join, "expires": now + CLOSED_TTL, "now": now}).rowcount == 1

    # Fences

    def fence(self, fences: Sequence[Fence], ttl: float) -> None:
        now = self._clock.now()

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(_OVER_FENCES, (now,))
            connection.executemany(_FENCE, [(job, attempt, now + ttl) for job, attempt in fences])

        if fences:
            self._database.write(work)

    def _allowed(self, connection: sqlite3.Connection, by: Sequence[Fence | None], count: int) -> list[bool]:
        """Which of so many writes, made by these, are not refused."""
        if not by:
            return [True] * count
        jobs = json.dumps([fence.job for fence in by if fence is not None])
        standing = dict(connection.execute(_FENCES, (jobs, self._clock.now())).fetchall())
        return [fence is None or fence.attempt >= standing.get(fence.job, 0) for _, fence in zip(range(count), by, strict=True)]

    # The server

    def ping(self) -> None:
        self._database.write(lambda _: None)

    def close(self) -> None:
        self._doorbell.close()
        self._database.close()
